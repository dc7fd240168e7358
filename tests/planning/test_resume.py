"""Resuming: the first part of a run and the rest, in another process, equal the uninterrupted run; other states are refused."""

from __future__ import annotations

import functools
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlpipe
from tests.helpers.metadata_files import write_signed
from tests.helpers.resuming import hashes_of, with_windows
from tests.test_dataset import make_records, write
from vlpipe.errors import ArgumentError
from vlpipe.planning.resume import last_epoch, make_state

pytestmark = pytest.mark.usefixtures("quick_graphs")

# 1,000 cases take ten minutes: VLPIPE_RESUME_CASES=1000.
CASES = int(os.environ.get("VLPIPE_RESUME_CASES", "24"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lengths = np.random.default_rng(5).integers(1, 31, 60).tolist()
    return write(tmp_path_factory.mktemp("data") / "train", make_records(lengths), num_shards=3)


def random_arguments(choose: random.Random) -> dict[str, Any]:
    batching = choose.choice(["bucket", "bucket", "pad", "ragged", "same_length"])
    arguments: dict[str, Any] = {
        "batching": batching,
        "batch_size": choose.choice([1, 3, 8, None]),
        "frames_per_batch": choose.choice([None, 40, 200]),
        "remainder": choose.choice(["keep", "drop", "pad"]),
        "seed": choose.randrange(2**63),
        "shuffle": choose.random() < 0.9,
        "engine": choose.choice(["mapped", "mapped", "mapped", "graph"]),
        "length_range": choose.choice([(1, None), (5, None), (3, 20)]),
        "out_of_range": choose.choice(["drop", "truncate"]),
        "lengths": choose.random() < 0.5,
    }
    windows = choose.choice([None, None, [9], [7, 4, "keep", True], [6, 8, "drop", True], [7, 5, "shift", True]])
    if windows:
        arguments["windows"] = windows
    if batching == "bucket":
        arguments["buckets"] = choose.choice([None, 2, [10, 20]])
        arguments["pad_to"] = choose.choice(["longest", "boundary"])
    if arguments["remainder"] != "keep":
        arguments["shard"] = choose.choice([(0, 1), (1, 3)])
    return arguments


def test_first_part_and_resumed_part_are_the_uninterrupted_run(source: Path, tmp_path: Path, resumed_elsewhere: Elsewhere) -> None:
    choose = random.Random(int(os.environ.get("VLPIPE_RESUME_SEED", "1")))
    moved = tmp_path / "elsewhere"  # as on another machine
    shutil.copytree(source, moved)
    cases, expected = [], []
    while len(cases) < CASES:
        arguments = random_arguments(choose)
        plan = vlpipe.plan(source, **with_windows(arguments))
        if not plan.steps_per_epoch:
            continue
        stop = choose.randrange(2 * plan.steps_per_epoch + 1)
        rest = choose.randrange(1, plan.steps_per_epoch + 3)
        whole = hashes_of(vlpipe.make_dataset(source, repeat=True, ids=True, num_parallel_calls=1, **with_windows(arguments)), stop + rest)
        state = json.loads(json.dumps(plan.state(*divmod(stop, plan.steps_per_epoch))))
        assert len(json.dumps(state)) < 1000
        expected.append(whole[stop:])
        other = {**arguments, "num_parallel_calls": 3, "engine": choose.choice(["mapped", "mapped", "mapped", "graph"])}
        cases.append({"source": str(moved), "arguments": other, "state": state, "count": rest})
    for case, before, after in zip(cases, expected, resumed_elsewhere(cases, tmp_path), strict=True):
        assert after == before, case


Elsewhere = Callable[[list[dict[str, Any]], Path], list[list[str]]]


@pytest.fixture(scope="module")
def resumed_elsewhere() -> Iterator[Elsewhere]:
    """A function that returns the hashes of the batches of each case, resumed in another process: one, since it takes seconds to start."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.helpers.resuming"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    process = subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )

    def hashes(cases: list[dict[str, Any]], tmp_path: Path) -> list[list[str]]:
        assert process.stdin is not None
        assert process.stdout is not None
        (tmp_path / "cases.json").write_text(json.dumps(cases))
        print(tmp_path / "cases.json", file=process.stdin, flush=True)
        answer = process.stdout.readline()
        assert answer, f"it ended with {process.wait()}"
        found: list[list[str]] = json.loads(answer)
        return found

    yield hashes
    process.communicate()
    assert process.returncode == 0


def test_the_end_of_an_epoch_is_the_beginning_of_the_next(source: Path) -> None:
    plan = vlpipe.plan(source, seed=1)
    assert plan.state(3, plan.steps_per_epoch) == plan.state(4, 0)
    with pytest.raises(ArgumentError, match=f"batch: came as 1000, expected at most {plan.steps_per_epoch}, the batches of an epoch"):
        plan.state(0, 1000)
    with pytest.raises(ArgumentError, match="epoch: came as -1, expected an integer >= 0"):
        plan.state(-1, 0)


def test_an_epoch_beyond_those_that_the_engines_can_number_is_refused(source: Path) -> None:
    plan, batches = vlpipe.plan(source, seed=1), vlpipe.batches(source, seed=1)
    steps = plan.steps_per_epoch
    last = 2**40
    state = plan.state(last, steps - 1)
    expected = batches.batch(last, steps - 1)[0]
    for made in (vlpipe.make_dataset, vlpipe.batches, functools.partial(vlpipe.make_dataset, engine="graph")):
        x, _ = next(iter(made(source, seed=1, repeat=True, resume=state)))
        np.testing.assert_array_equal(x, expected)
    for position in ((last + 1, 0), (2**60, 0), (last, steps)):
        with pytest.raises(
            ArgumentError, match=f"epoch: came as {position[0] + (position[1] == steps)}, expected an integer >= 0, at most {last}"
        ):
            plan.state(*position)
    with pytest.raises(ArgumentError, match=f"epoch: came as {last + 1}, expected an integer >= 0, at most {last}"):
        batches.batch(last + 1, 0)
    with pytest.raises(ArgumentError, match=f"epoch: came as {last + 1}, expected an integer >= 0, at most {last}"):
        batches.as_py_dataset(epoch=last + 1)
    assert f"resume['epoch']: came as {last + 1}, expected an integer >= 0, at most {last}" in resume(source, state | {"epoch": last + 1})


def test_the_last_epoch_of_a_run_is_one_whose_batches_have_numbers_below_2_to_the_62() -> None:
    for steps in (1, 2**21, 2**22, 2**22 + 1, 2**31 - 1):
        last = last_epoch(steps)
        assert (last + 1) * steps <= 2**62
        assert last == 2**40 or (last + 2) * steps > 2**62
    with pytest.raises(ArgumentError, match=f"epoch: came as {2**40}, expected an integer >= 0, at most {2**40 - 1}"):
        make_state({}, 2**22, 2**40, 0)


def test_a_state_needs_an_order_that_is_known(source: Path) -> None:
    with pytest.raises(
        ArgumentError, match=r"state\(0, 1\): seed=None draws a different order in every process. Pass seed=... here and to"
    ):
        vlpipe.plan(source).state(0, 1)
    assert vlpipe.plan(source, shuffle=False).state(0, 1)["seed"] is None
    with pytest.raises(ArgumentError, match=r'state\(0, 1\): the stream engine cannot resume in the middle of a run. Use engine="mapped"'):
        vlpipe.plan(source, engine="stream", seed=1).state(0, 1)
    with pytest.raises(ArgumentError, match="resume: needs repeat=True"):
        vlpipe.make_dataset(source, seed=1, resume=vlpipe.plan(source, seed=1).state(0, 1))


def resume(source: Path, state: Any, **arguments: Any) -> str:
    with pytest.raises(ArgumentError) as caught:
        vlpipe.make_dataset(source, repeat=True, resume=state, **{"seed": 1, **arguments})
    return str(caught.value)


def test_a_state_of_other_data_or_arguments_is_refused_with_the_difference(source: Path, tmp_path: Path) -> None:
    state = vlpipe.plan(source, seed=1).state(0, 1)
    assert "the state belongs to another run: seed is 1 in the state, 2 here. Pass the data" in resume(source, state, seed=2)
    state = {**state, "boundaries": "1,2"}
    message = resume(source, state, batch_size=8, remainder="drop", shard=(0, 2))
    for difference in (
        "batch_size is 32 in the state, 8 here",
        "remainder is 'keep' in the state, 'drop' here",
        "world is 1 in the state, 2",
    ):
        assert difference in message
    named = re.findall(r"(\w+) is \S+ in the state", message)
    assert named[:3] == ["remainder", "batch_size", "world"]  # before what follows from them
    assert named[-1] == "boundaries"
    state = vlpipe.plan(source, seed=1).state(0, 1)
    assert "shuffle is True in the state, False here" in resume(source, state, shuffle=False)
    other = write(tmp_path / "other", make_records([3] * 60), num_shards=3)
    assert "data is 'crc32c:" in resume(other, state, length_range=(1, None))
    files = sorted(str(path) for path in source.glob("*.tfrecord"))
    assert "records is 60 in the state" in resume(files[:2], state)  # type: ignore[arg-type]
    # The rank and additional outputs may differ.
    plan = vlpipe.plan(source, seed=1, remainder="pad", shard=(0, 2))
    vlpipe.make_dataset(source, repeat=True, seed=1, remainder="pad", shard=(1, 2), lengths=True, resume=plan.state(1, 0))


def test_the_statistics_count_and_not_where_they_are(source: Path, tmp_path: Path) -> None:
    """With `normalize=PATH`, the state contains the statistics and not the path."""
    train = write(tmp_path / "train", make_records([5, 9]))
    copy = tmp_path / "copy.json"
    shutil.copy(train / "vlpipe.json", copy)
    state = json.loads(json.dumps(vlpipe.plan(source, seed=1, normalize=train).state(0, 1)))
    assert re.fullmatch("statistics crc32c:[0-9a-f]{8}", state["normalize"])
    vlpipe.make_dataset(source, repeat=True, seed=1, normalize=copy, resume=state)
    document = json.loads(copy.read_text("utf-8"))
    document["statistics"]["features"]["variance"][0] *= 1 + 2**-52
    write_signed(copy, document)
    assert f"normalize is '{state['normalize']}' in the state, 'statistics crc32c:" in resume(source, state, normalize=copy)
    for other in (None, "utterance", "global"):
        assert f"in the state, {other!r} here" in resume(source, state, normalize=other)
        assert vlpipe.plan(source, seed=1, normalize=other).state(0, 1)["normalize"] == other


@pytest.mark.parametrize("state", [{}, [], "x", {"format": "other"}, {"format": "vlpipe-state", "version": 2}, 7])
def test_what_is_no_state_is_refused(source: Path, state: Any) -> None:
    message = resume(source, state)
    expected = (
        "the state has version 2, this vlpipe reads version 1. Resume with the vlpipe version that saved it"
        if isinstance(state, dict) and len(state) > 1
        else "expected what vlpipe.plan(...).state(epoch, batch) returned."
    )
    assert message.startswith("resume: ")
    assert expected in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch": 10**6}, r"resume['batch']: came as 1000000, expected less than"),
        ({"batch": -1}, "resume['batch']: came as -1, expected an integer >= 0"),
        ({"epoch": 1.5}, "resume['epoch']: came as 1.5, expected an integer"),
        ({"epoch": None}, "resume['epoch']: came as None"),
        ({"seed": True}, "seed is True in the state, 1 here"),
        ({"order": 2}, "order is 2 in the state, 1 here"),
    ],
)
def test_a_state_that_was_tampered_with_is_refused(source: Path, change: dict[str, Any], said: str) -> None:
    assert said in resume(source, {**vlpipe.plan(source, seed=1).state(2, 1), **change})


SIZES = [(12, 1), (6, 2), (4, 3), (3, 4), (1, 12)]  # (batch_size, world): 12 rows in a batch of all ranks together


def test_more_or_fewer_ranks_continue_a_run_with_the_same_batches(source: Path, tmp_path: Path, resumed_elsewhere: Elsewhere) -> None:
    """At every step, the rows of the ranks one after another are those of one rank; resumed in another process, from world 1 to 2 to 4."""
    choose = random.Random(2)
    cases, expected = [], []
    for windows in (None, 9, vlpipe.Windows(9, 4, "keep", jitter=True)):
        arguments: dict[str, Any] = {"seed": choose.randrange(2**60), "remainder": choose.choice(["pad", "drop"]), "windows": windows}
        whole = vlpipe.make_dataset(source, repeat=True, ids=True, pad_to="boundary", batch_size=12, **arguments)
        steps, count = len(vlpipe.make_dataset(source, batch_size=12, **arguments)), 2
        rows = [x["id"].numpy().tolist() + x["features"].numpy().ravel().tolist() for x, *_ in whole.take(2 * steps + count)]
        saved = (12, 1)
        for size, world in SIZES[1:]:
            before = vlpipe.plan(source, batch_size=saved[0], shard=(0, saved[1]), pad_to="boundary", **arguments)
            stop = choose.randrange(2 * steps)
            state = before.state(*divmod(stop, steps))
            if world == 12 and windows is not None:  # a dataset for each rank: once is enough of so many
                continue
            saved = (size, world)
            ranks = [
                vlpipe.make_dataset(
                    source, repeat=True, ids=True, pad_to="boundary", batch_size=size, shard=(rank, world), resume=state, **arguments
                ).take(count)
                for rank in range(world)
            ]
            for step, parts in enumerate(zip(*ranks, strict=True)):
                ids = np.concatenate([x["id"].numpy() for x, *_ in parts]).tolist()
                values = np.concatenate([x["features"].numpy() for x, *_ in parts]).ravel().tolist()
                assert ids + values == rows[stop + step]
            if not isinstance(windows, vlpipe.Windows):
                other = {**arguments, "pad_to": "boundary", "batch_size": size, "shard": (world - 1, world)}
                cases.append({"source": str(source), "arguments": other, "state": json.loads(json.dumps(state)), "count": count})
                uninterrupted = vlpipe.make_dataset(source, repeat=True, ids=True, num_parallel_calls=1, **other)
                expected.append(hashes_of(uninterrupted, stop + count)[stop:])
    assert resumed_elsewhere(cases, tmp_path) == expected


def test_without_the_same_product_or_with_a_budget_of_frames_other_sizes_are_refused(source: Path) -> None:
    def state(**arguments: Any) -> Any:
        return vlpipe.plan(source, seed=1, remainder="pad", **arguments).state(0, 1)

    message = resume(source, state(batch_size=12), remainder="pad", batch_size=6, shard=(0, 3))
    assert "batch_size is 12 in the state, 6 here" in message
    assert "world is 1 in the state, 3 here" in message
    assert "(without frames_per_batch, any batch_size and world, the number of ranks, of the same product)" in message
    budget: dict[str, Any] = {"frames_per_batch": 100, "remainder": "pad"}
    message = resume(source, state(batch_size=12, frames_per_batch=100), batch_size=6, shard=(0, 2), **budget)
    assert "batch_size is 12 in the state, 6 here" in message
    assert "world is 1 in the state, 2 here" in message
    assert "world is 1 in the state" in resume(source, state(frames_per_batch=100), shard=(0, 2), **budget)
    # Rounded down to a multiple of 4, 6 rows of two ranks are 8 and not 12.
    message = resume(source, state(batch_size=12, multiple_of=4), batch_size=6, shard=(0, 2), remainder="pad", multiple_of=4)
    assert "world is 1 in the state, 2 here" in message
    for size, world in SIZES:
        vlpipe.make_dataset(
            source, repeat=True, seed=1, batch_size=size, shard=(0, world), remainder="pad", resume=state(batch_size=3, shard=(1, 4))
        )
