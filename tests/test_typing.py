"""`mypy --strict` accepts a user's correct script, and reports each mistake of a wrong one."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import vlpipe

pytest.importorskip("mypy")

CORRECT = """
from pathlib import Path
from typing import Any

import numpy as np

import vlpipe
from vlpipe import builders, callbacks, layouts

schema = vlpipe.Schema(
    features=vlpipe.Sequence(80, "float16"), label=vlpipe.Fixed(), transcript=vlpipe.Sequence((), "int32"), speaker=vlpipe.Text()
)
with vlpipe.Writer("data/speech", schema, num_shards=4, overwrite=True) as writer:
    writer.metadata["classes"] = ["yes", "no"]
    writer.write({"features": np.zeros((120, 80), np.float16), "label": 1, "transcript": [7, 1, 4], "speaker": "ann"})
vlpipe.write("data/train", ({"features": np.zeros((n, 80), np.float32), "label": n % 2} for n in range(100)), num_shards=2)

dataset = vlpipe.make_dataset(
    "data/train",
    batching="bucket",
    batch_size=64,
    buckets=[100, 200],
    pad_to="boundary",
    remainder="pad",
    length_range=(10, None),
    out_of_range="truncate",
    seed=1,
    label=False,
    lengths=True,
    crop=vlpipe.Crop(300, random=True),
    transform=lambda x: x * 2,
    normalize="utterance",
    augment=vlpipe.SpecAugment(time_width=40),
    dtype="float16",
    shard=(0, 8),
    engine="mapped",
    verify="always",
)
for batch in dataset.take(1):
    print(batch)
vlpipe.make_dataset("data/speech", label=("label", "transcript"), label_padding={"transcript": 0}, padding_value={"features": -13.8})
vlpipe.make_dataset(["a.tfrecord", "b.tfrecord"], layout=layouts.float_list("mel", d=80, label="class"))
vlpipe.make_dataset(Path("data") / "train", transform=vlpipe.Transform(lambda x: x[::2], frames=lambda t: -(-t // 2)))
vlpipe.make_dataset("bal_train/*.tfrecord", layout="audioset", features=("audio_embedding",), buckets=8, crop=100)
vlpipe.make_dataset("own.tfrecord", layout=layouts.Layout.custom(lambda data: data))
index_length: int = len(vlpipe.build_index("a.tfrecord", "audioset"))

plan = vlpipe.plan("data/train", batch_size=64, seed=1)
steps: int = plan.steps_per_epoch
ratio: float = plan.valid_ratio
state: dict[str, Any] = plan.state(0, steps - 1)
print(plan.report(), plan.refused["remainder"], plan.buckets[0].upper)
plan.plot("plan.png")

arguments: dict[str, Any] = {"batch_size": 64, "seed": 1}
backup = callbacks.Backup("backup", vlpipe.plan("data/train", **arguments), save_every=10)
vlpipe.make_dataset("data/train", repeat=True, resume=backup.state, **arguments)

weights: dict[int, float] = vlpipe.class_weights("data/train")
whole: bool = vlpipe.verify("data/train").ok

batches = dataset.apply(builders.bucket(batch_size=32, buckets=[100, 200, 400], remainder="drop"))
print(builders.same_length(dataset, batch_size=32, lengths=True), builders.pad(dataset, remainder="pad"), builders.ragged(dataset))
print(builders.pad(dataset, padding_value={"features": 1}, label_padding={"label": 0}))
print(builders.ragged(dataset, label_padding={"words": 0.5}))

features = vlpipe.audio.LogMel(sample_rate=16000, mels=80)
samples, rate = vlpipe.audio.load("a.wav", sample_rate=16000)
frames: int = len(features(samples)) * rate

try:
    vlpipe.verify("data")
except vlpipe.DatasetError as error:
    print(error)
"""

# Each of these statements has one mistake.
WRONG = (
    'vlpipe.make_dataset("data", batching="bukket")',
    'vlpipe.make_dataset("data", layout=3)',
    'vlpipe.make_dataset("data", batch_sise=3)',
    'vlpipe.make_dataset("data", label_padding={"words": "0"})',
    'vlpipe.make_dataset("data", augment="masks")',
    'vlpipe.plan("data", pad_to="longst")',
    'vlpipe.plan("data", batch_sise=3)',
    'vlpipe.plan("data").steps',
    "vlpipe.builders.bucket(batch_sise=3)",
    'vlpipe.builders.pad(remainder="kept")',
    'vlpipe.make_dataset("data", engine="maped")',
    'vlpipe.make_dataset("data", remainder="padd")',
    'vlpipe.make_dataset("data", verify="firts")',
    'vlpipe.make_dataset("data", check_finite="nought")',
    'vlpipe.make_dataset("data", out_of_range="cut")',
    'vlpipe.make_dataset("data", on_damage="skip")',
    'vlpipe.SpecAugment(fill="median")',
    'vlpipe.Windows(30, tail="cut")',
    'vlpipe.layers.mask_aware(None, given="masks")',
    'vlpipe.open("data").preprocess("a.wav", normalize="all")',
    'vlpipe.layouts.raw_bytes("x", dtype="int16", d=1, byteorder="middle")',
    'vlpipe.stitch([], [], [], lengths=[], weights="gauss")',
    'vlpipe.Writer("data", num_shards="4")',
    'vlpipe.write("data", 3)',
    'vlpipe.layouts.float_list("mel", b=80)',
    'vlpipe.make_datset("data")',
)


def errors_of(script: str, directory: Path) -> dict[int, list[str]]:
    """Run `mypy --strict` on a user's script and return its errors by line.

    mypy treats the directories in PYTHONPATH like installed packages, whose types it uses only if they have a py.typed.
    """
    path = directory / "script.py"
    path.write_text(script, "utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-pretty", "--cache-dir", str(directory), str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(vlpipe.__file__).parents[1])},
    )
    assert result.returncode in (0, 1), result.stdout + result.stderr
    errors = defaultdict(list)
    for line, message in re.findall(r"^.*script\.py:(\d+): error: (.*)$", result.stdout, re.MULTILINE):
        errors[int(line)].append(message)
    assert sum(map(len, errors.values())) == result.stdout.count(": error: "), result.stdout
    return errors


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("typing")


def test_a_correct_script_passes(directory: Path) -> None:
    assert errors_of(CORRECT, directory) == {}


@pytest.fixture(scope="module")
def errors(directory: Path) -> dict[str, list[str]]:
    by_line = errors_of("\n".join(["import vlpipe", *WRONG]), directory)
    return {statement: by_line.get(line, []) for line, statement in enumerate(WRONG, 2)}


@pytest.mark.parametrize("statement", WRONG)
def test_each_mistake_is_reported(errors: dict[str, list[str]], statement: str) -> None:
    assert errors[statement]


def test_the_package_says_that_it_has_types() -> None:
    assert (Path(vlpipe.__file__).parent / "py.typed").is_file()


def test_a_prompt_shows_the_arguments_of_plan() -> None:
    ours, theirs = inspect.signature(vlpipe.plan).parameters, inspect.signature(vlpipe.make_dataset).parameters
    assert {name: parameter.default for name, parameter in ours.items()} == {name: parameter.default for name, parameter in theirs.items()}
