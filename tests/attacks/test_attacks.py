"""A few hundred attacks, and those that once found a fault. `make attacks` tries many more."""

from __future__ import annotations

import collections
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.attacks.mutate import NATIVE, THIRD_PARTY, mutate
from tests.attacks.open_case import FAULTS, LAYOUTS, Target, attempt, case, outcomes, put, targets

COUNT = int(os.environ.get("VLPIPE_ATTACKS", "40"))  # for each target
FOUND = sorted((Path(__file__).parent / "found").glob("*.npz"))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return targets(tmp_path_factory.mktemp("targets"))


@pytest.mark.parametrize("kind", ["native", *LAYOUTS])
def test_no_attack_brings_about_a_fault(known: dict[str, Target], kind: str, tmp_path: Path) -> None:
    counts: collections.Counter[str] = collections.Counter()
    for seed, outcome in outcomes(kind, known[kind], range(COUNT), tmp_path):
        assert outcome.kind not in FAULTS, f"seed {seed}, {case(kind, known[kind], seed)[0]}: {outcome}"
        counts[outcome.kind] += 1
    assert sum(counts.values()) == COUNT
    assert counts["refused"] >= COUNT // 10


@pytest.mark.parametrize("kind", ["native", *LAYOUTS])
def test_what_is_not_changed_is_delivered_and_verified(known: dict[str, Target], kind: str, tmp_path: Path) -> None:
    put(tmp_path / "case", known[kind].files)
    outcome = attempt(tmp_path / "case", known[kind], verify=True)
    assert (outcome.kind, outcome.verified) == ("same", True)


@pytest.mark.parametrize(("engine", "kind", "count"), [("mapped", "native", 12), ("graph", "float_list", 4), ("stream", "native", 4)])
def test_no_engine_delivers_other_values(engine: str, kind: str, count: int, tmp_path: Path) -> None:
    """In a new process: a fork of this one could not use TensorFlow."""
    command = [sys.executable, "-m", "tests.attacks", "--engine", engine, "--only", kind, "--count", str(count), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.startswith(f"{kind} {count} {{")) == (0, True), done.stdout + done.stderr


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_a_case_that_once_brought_about_a_fault(known: dict[str, Target], path: Path, tmp_path: Path) -> None:
    kind = path.stem.rpartition("-")[0]
    with np.load(path) as stored:
        put(tmp_path / "case", {name: stored[name].tobytes() for name in stored.files})
    assert attempt(tmp_path / "case", known[kind], verify=True).kind not in FAULTS


def test_a_change_of_a_record_under_right_checksums_is_seen(known: dict[str, Target], tmp_path: Path) -> None:
    """The attacks reach deep: some are refused for what is in a record, some deliver other values, which nothing can tell from right."""
    seen = collections.Counter(outcome.kind for _, outcome in outcomes("float_list", known["float_list"], range(100, 160), tmp_path))
    assert seen["refused"]
    assert seen["same"] + seen["different"]


def test_every_kind_of_change_occurs(known: dict[str, Target]) -> None:
    for kind, operators in (("native", NATIVE), ("float_list", THIRD_PARTY)):
        r = random.Random(0)
        done = [mutate(r, known[kind].files) for _ in range(200)]
        assert {name for names, _ in done for name in names.split(" + ")} >= {
            "on" if "<locals>" in f.__qualname__ else f.__name__ for f, _ in operators
        }
        assert sum(files != known[kind].files for _, files in done) > 180


def test_a_fault_is_noticed(known: dict[str, Target], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = {"exception": "raise ValueError('x')", "signal": "os.kill(os.getpid(), 11)", "memory": "bytearray(2 << 30)"}
    for kind, code in faults.items():
        monkeypatch.setattr("vlpipe.plan", lambda *_, code=code, **__: exec(code))
        assert [outcome.kind for _, outcome in outcomes("native", known["native"], range(2), tmp_path)] == [kind] * 2
