"""What a prompt and a notebook show of each public object: short, without an address in memory, from the index alone, and escaped."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlpipe
from vlpipe.storage.schema import Schema

MAX_LINES = 31
MAX_LETTERS = 600

LIGHT = """
import os, sys
import numpy as np, vlpipe
os.chdir(sys.argv[1])
vlpipe.write("a", ({"features": np.ones((t, 4), "f4"), "label": t % 3, "speaker": "ann"} for t in range(1, 30)))
vlpipe.write("n", [{"audio": np.ones(900, "f4")}])
wide = vlpipe.Schema(features=vlpipe.Sequence(80), **{f"column{n}": vlpipe.Fixed((), "float32") for n in range(200)})
source, plan = vlpipe.open("a"), vlpipe.plan("a", batch_size=8, seed=1)
report = vlpipe.verify("a")
with vlpipe.Writer("b", wide) as writer:
    objects = [writer]
    writer.write({name: np.ones((3, 80), "f4") if name == "features" else 1.0 for name in wide.fields})
objects += [writer, wide, vlpipe.open("b"), vlpipe.plan("b", label=False)]
objects += [plan, plan.buckets[0], plan.index, source, source.schema, source.statistics, source.preprocess, source.metadata, report]
objects += [source.select({"speaker": "ann"}), source.balance(), vlpipe.mix({source: 1, source.select({"label": 1}): 2})]
objects += [vlpipe.Sequence(80), vlpipe.Fixed(), vlpipe.Text(), vlpipe.Crop(9), vlpipe.Windows(9)]
objects += [vlpipe.Skip(), vlpipe.Mixup(), vlpipe.Gain()]
objects += [vlpipe.Transform(lambda x: x, frames=lambda t: t), vlpipe.AddNoise("n"), vlpipe.TimeShift(9), vlpipe.SpecAugment()]
objects += [vlpipe.audio.LogMel(), vlpipe.audio.MFCC(), vlpipe.audio.Frames(), vlpipe.audio.Augment(lambda samples, rng: samples)]
objects += [layout() for name, layout in vlpipe.layouts.TABLE.items() if name in ("audioset", "youtube8m")]
objects += [vlpipe.layouts.serialized_tensor("mel", label="class").only("speaker")]
objects += [vlpipe.layouts.raw_bytes("x", dtype="int16", d=1)]
objects += [vlpipe.plan("a", windows=4), vlpipe.plan("a", batching="ragged", engine="stream")]
for shard in report.files:
    os.remove(shard)
for value in objects:
    for shown in (repr(value), getattr(value, "_repr_html_", str)() if not isinstance(value, dict) else ""):
        print(shown.replace("\\n", "\\r"))
print(*set(sys.modules) & {"tensorflow", "keras", "matplotlib", "soundfile"})
"""


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What repr and HTML of each object that needs no TensorFlow are, after the files of the dataset are gone; then what was imported."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIGHT, str(tmp_path_factory.mktemp("repr"))], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


def check(shown: str) -> None:
    lines = shown.splitlines()
    assert len(lines) <= MAX_LINES, shown
    assert len(lines) > 1 or len(shown) <= MAX_LETTERS, shown
    assert " at 0x" not in shown
    assert "\x1b" not in shown


def test_a_repr_is_short_has_no_address_and_reads_no_file(light: list[str]) -> None:
    assert len(light) > 60
    for shown in light[:-1:2]:
        check(shown)
    assert light[-1] == ""  # neither TensorFlow nor matplotlib


def test_objects_that_need_tensorflow(tmp_path: Path) -> None:
    import keras

    directory = str(tmp_path / "a")
    vlpipe.write(directory, ({"features": np.ones((t, 4), np.float32), "label": t % 3} for t in range(1, 9)))
    model = keras.Sequential([keras.Input((None, 4)), keras.layers.Conv1D(2, 3), keras.layers.GlobalMaxPooling1D()])
    check_of_model = vlpipe.layers.check_model(model)
    plan, dataset = vlpipe.plan(directory, seed=1), vlpipe.make_dataset(directory, on_damage=vlpipe.Skip())
    objects: list[Any] = [check_of_model, vlpipe.layers.mask_aware(model), vlpipe.layers.CTC(), vlpipe.layers.LengthMask()]
    objects += [vlpipe.callbacks.Backup(tmp_path / "backup", plan), vlpipe.callbacks.SkippedRecords(dataset)]
    objects += [vlpipe.callbacks.InputMonitor(dataset), vlpipe.layouts.Layout.custom(lambda data: {"x": _frames(data)})]
    for value in objects:
        check(repr(value))
    assert repr(check_of_model) == "ModelCheck: 1 finding; .report() lists them; receptive field 3, shortest 3"
    assert repr(objects[4]) == f"Backup({str(tmp_path / 'backup')!r}): nothing saved yet, every 1 batch"


def _frames(data: Any) -> Any:
    import tensorflow as tf

    return tf.reshape(tf.io.decode_raw(data, tf.float32), [-1, 4])


def test_what_they_say(tmp_path: Path) -> None:
    directory = tmp_path / "a"
    vlpipe.write(directory, ({"features": np.ones((t, 4), np.float32), "label": t % 3, "name": "ann"} for t in range(1, 30)))
    plan, source = vlpipe.plan(directory, batch_size=8, buckets=2), vlpipe.open(directory)
    assert repr(plan) == "Plan: 29 records in 4 batches an epoch (bucket, mapped), 71.9% valid frames; plan.report() has more"
    assert repr(source).splitlines() == [
        "records   29 in 16 files",
        "features  [T, 4] float32, T from 1 to 29",
        "label     int64",
        "name      text, 1 different: ann",
    ]
    assert repr(plan.index) == f"Index: 29 records in 16 files, {source.schema!r}"
    assert repr(source.statistics["features"]) == "Moments: d = 4, 435 values of each; .mean, .variance"
    assert repr(vlpipe.Transform(len, frames=abs)) == "Transform(len, frames=abs)"
    layout = vlpipe.layouts.float_list("mel", d=80, label="class")
    assert repr(layout) == "Layout float_list: mel [T, 80] float32; label class; every other key"
    assert repr(layout.only("speaker")) == "Layout float_list: mel [T, 80] float32; label class; speaker"
    assert repr(vlpipe.layouts.audioset()) == "Layout audioset: audio_embedding [T, 128] uint8; label labels; every other key"
    assert repr(vlpipe.verify(directory)) == "Report: 29 records in 16 shards, no problem"
    shutil.rmtree(directory)
    assert "29 records" in repr(plan)


def test_wide_schemas_are_cut() -> None:
    schema = Schema(x=vlpipe.Sequence(2), **{f"a{n}": vlpipe.Fixed() for n in range(40)})
    assert repr(schema).startswith("Schema(\n    x=Sequence(shape=(2,), dtype='float32'),\n    a0=Fixed(shape=(), dtype='int64'),\n")
    assert repr(schema).endswith("    # and 21 more fields\n)")
    assert schema._repr_html_().count("<tr>") == 21
    assert schema._repr_html_().endswith("<p>… and 21 more</p>")


HOSTILE = '<script>alert("1")</script>\x1b[31m'


def test_names_and_texts_of_files_are_escaped(tmp_path: Path) -> None:
    field = HOSTILE[:-5]
    vlpipe.write(tmp_path / "a", [{"features": np.ones((3, 2), np.float32), field: 1, "speaker": HOSTILE}])
    source = vlpipe.open(tmp_path / "a")
    plan = vlpipe.plan(vlpipe.mix({source: 1, source.select({"speaker": HOSTILE}): 1}))
    for value in (source, source.schema, plan):
        html = value._repr_html_()
        assert "<script" not in html
        assert "\x1b" not in html + repr(value)
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;" in source.schema._repr_html_()
    assert "\\x1b[31m" in source._repr_html_()


def test_html_is_a_whole_table(tmp_path: Path) -> None:
    from xml.etree import ElementTree

    vlpipe.write(tmp_path / "a", ({"features": np.ones((t, 2), np.float32), "label": t} for t in range(1, 9)))
    source = vlpipe.open(tmp_path / "a")
    for value in (source, source.schema, vlpipe.plan(source, batch_size=2), vlpipe.plan(vlpipe.mix({source: 2}))):
        root = ElementTree.fromstring(f"<div>{value._repr_html_()}</div>")
        assert [child.tag for child in root] in (["table"], ["table"] * 2, ["table"] * 3)
        for table in root:
            assert len({len(row) for row in table.iter("tr")}) == 1


def test_the_pieces_of_public_modules() -> None:
    for module in (vlpipe, vlpipe.audio, vlpipe.builders, vlpipe.callbacks, vlpipe.layers, vlpipe.layouts, vlpipe.testing):
        names = [name for name in dir(module) if not name.startswith("_")]
        assert names == sorted(set(module.__all__)), module.__name__
        assert set(dir(module)) - set(names) <= {"__all__", "__doc__", "__file__", "__name__", "__path__", "__version__"}
