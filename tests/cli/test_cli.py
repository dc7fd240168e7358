"""The command `vlpipe`: output, refusals, exit status, and commands that must not load TensorFlow."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click.testing
import numpy as np
import pytest

import vlpipe
from tests.helpers.tones import work_in_threads as _work_in_threads
from tests.helpers.tones import write_tones, write_wav
from vlpipe.cli import main
from vlpipe.storage.metadata import open_directory

SMALL = ["--sample-rate", "8000", "--mels", "8", "--num-shards", "2"]


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    _work_in_threads(monkeypatch)


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    return write_tones(tmp_path / "audio", ["dog/1_a.wav", "dog/2_b.wav", "cat/1_c.wav", "cat/3_d.wav"])


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    examples = ({"x": np.ones((length, 3), np.float32), "y": 0, "z": 1} for length in range(1, 101))
    vlpipe.write(tmp_path / "dataset", examples, num_shards=2)
    return str(tmp_path / "dataset")


def run(*arguments: object, **options: str) -> click.testing.Result:
    result = click.testing.CliRunner(env=options).invoke(main, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


# The command itself


def test_help_lists_all_options_with_examples() -> None:
    assert run("--help").exit_code == 0
    assert {"ingest", "convert", "plan", "verify", "stats", "head", "histogram", "report", "check-model"} <= set(run("-h").output.split())
    for command in ("ingest", "convert", "plan", "verify", "stats", "head", "histogram", "report", "check-model"):
        result = run(command, "--help")
        assert result.exit_code == 0
        assert re.search(rf"Examples:\n\s+vlpipe {command} ", result.output)
        options = set(re.findall(r"(--[\w-]+)", result.output))
        assert options >= {f"--{name.replace('_', '-')}" for name in names_of(command)}


def names_of(command: str) -> list[str]:
    context = click.Context(main)
    loaded = main.get_command(context, command)
    assert loaded
    options = [parameter for parameter in loaded.params if isinstance(parameter, click.Option)]
    assert all(option.help for option in options)
    return [option.name or "" for option in options if option.name != "as_json"]


def test_version() -> None:
    assert run("--version").output.split() == ["vlpipe,", "version", vlpipe.__version__]


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["plan"],
        ["ingest", "audio"],
        ["ingest", "audio", "out", "--workers", "0"],
        ["ingest", "audio", "out", "--dtype", "int8"],
        ["plan", "x", "--buckets", "many"],
        ["plan", "x", "--length-range", "10"],
        ["plan", "x", "--batching", "sorted"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage: " in result.stderr
    assert "Error: " in result.stderr


def test_two_ways_to_label_are_wrong_usage(audio: Path) -> None:
    result = run("ingest", audio, audio / "out", "--label-from-parent", "--label-regex", "(x)")
    assert result.exit_code == 2
    assert "--label-regex, --label-from-parent and --manifest are alternative sources of the label; pass one of them." in result.stderr


def test_invalid_values_are_refused_with_an_example() -> None:
    assert "'many' is neither an integer nor a list such as 100,200,400." in run("plan", "x", "--buckets", "many").stderr
    assert "'10' is not of the form SHORTEST:LONGEST, such as 1: or 10:2000." in run("plan", "x", "--length-range", "10").stderr


LIGHT = [["--help"], ["ingest", "--help"], ["plan", "--help"], ["ingest", "DATA", "out"]] + [
    [command, "DATA", *json] for command in ("plan", "verify", "stats", "head", "histogram") for json in ([], ["--json"])
]


def test_light_commands_do_not_load_tensorflow(dataset: str) -> None:
    for template in LIGHT:
        arguments = [dataset if argument == "DATA" else argument for argument in template]
        code = f"""
import sys
from vlpipe.cli import main
try:
    main({arguments!r})
except SystemExit:
    print("heavy:", *sorted(set(sys.modules) & {{"tensorflow", "keras", "tensorflow_io", "soundfile", "matplotlib"}}))
"""
        result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
        assert result.stdout.splitlines()[-1] == "heavy:", arguments


# vlpipe plan


def test_plan_prints_the_report(dataset: str) -> None:
    result = run("plan", dataset)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.strip() == vlpipe.plan(dataset, label=False).report().strip()


def test_plan_passes_on_its_arguments(dataset: str) -> None:
    arguments = "--batch-size 4 --buckets 20,50,90 --pad-to boundary --remainder drop --length-range 5:95 --out-of-range drop --features x"
    plan = vlpipe.plan(
        dataset,
        label=False,
        features="x",
        batch_size=4,
        buckets=[20, 50, 90],
        pad_to="boundary",
        remainder="drop",
        length_range=(5, 95),
        out_of_range="drop",
    )
    result = run("plan", dataset, *arguments.split())
    assert result.stdout.strip() == plan.report().strip()
    document = json.loads(run("plan", dataset, *arguments.split(), "--json").stdout)
    assert document["steps_per_epoch"] == plan.steps_per_epoch
    assert document["refused"] == plan.refused == {"too_short": 4, "too_long": 5, "remainder": 3}
    assert document["boundaries"] == list(plan.boundaries)
    assert document["valid_ratio"] == plan.valid_ratio


@pytest.mark.parametrize("batching", ["bucket", "pad", "ragged", "same_length"])
def test_plan_forecasts_every_batching(dataset: str, batching: str) -> None:
    arguments = ["--batching", batching, "--frames-per-batch", "300", "--length-range", ":"]
    document = json.loads(run("plan", dataset, *arguments, "--json").stdout)
    plan = vlpipe.plan(dataset, label=False, batching=batching, frames_per_batch=300, length_range=(None, None))
    assert document["steps_per_epoch"] == plan.steps_per_epoch
    assert len(json.loads(run("plan", dataset, "--buckets", "3", "--json").stdout)["boundaries"]) == 3


def test_plan_crops(dataset: str) -> None:
    document = json.loads(run("plan", dataset, "--crop", "30", "--json").stdout)
    plan = vlpipe.plan(dataset, label=False, crop=30)
    assert document["cropped"] == plan.cropped > 0
    assert document["boundaries"] == list(plan.boundaries)
    assert document["boundaries"][-1] == 30
    result = run("plan", dataset, "--crop", "0")
    assert (result.exit_code, "crop: came as 0, expected an integer >= 1" in result.stderr) == (1, True)


def test_plan_counts_windows(dataset: str) -> None:
    document = json.loads(run("plan", dataset, "--windows", "30", "--hop", "15", "--tail", "drop", "--json").stdout)
    plan = vlpipe.plan(dataset, label=False, windows=vlpipe.Windows(30, 15, "drop"))
    assert document["windows"] == document["records"] == plan.windows > 0
    assert document["refused"] == plan.refused
    assert plan.refused["tail"] > 0
    assert f"{plan.windows:,} of {plan.total:,} an epoch" in run("plan", dataset, "--windows", "30", "--hop", "15", "--tail", "drop").stdout
    assert (
        json.loads(run("plan", dataset, "--windows", "30", "--json").stdout)["windows"]
        == vlpipe.plan(dataset, windows=30, label=False).windows
    )
    result = run("plan", dataset, "--hop", "15")
    assert (result.exit_code, "pass --windows FRAMES too" in result.stderr) == (2, True)
    result = run("plan", dataset, "--windows", "30", "--crop", "10")
    assert (result.exit_code, "limits the frames already" in result.stderr) == (1, True)


def test_plan_of_several_sources(dataset: str) -> None:
    shards = sorted(map(str, Path(dataset).glob("*.tfrecord")))
    assert json.loads(run("plan", *shards, "--json").stdout)["records"] == 100
    assert json.loads(run("plan", f"{dataset}/*.tfrecord", "--json").stdout)["records"] == 100


def test_plan_writes_a_plot(dataset: str, tmp_path: Path) -> None:
    assert run("plan", dataset, "--plot", tmp_path / "plan.png").exit_code == 0
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["nowhere/plan.png", "plan.doc"])
def test_a_plot_that_cannot_be_written_is_one_message(dataset: str, tmp_path: Path, name: str) -> None:
    result = run("plan", dataset, "--plot", tmp_path / name)
    assert result.exit_code == 1
    assert re.fullmatch(r"vlpipe: plot: \S+ cannot be written \(.*\)\. Pass a \.png, .* in a folder that exists\.\n", result.stderr)


def test_an_error_is_one_message_and_status_1(dataset: str, tmp_path: Path) -> None:
    result = run("plan", tmp_path / "nothing")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"vlpipe: {tmp_path / 'nothing'}: not found")
    assert "Traceback" not in result.stderr
    assert "has 100 frames, expected 0 to 99" in run("plan", dataset, "--length-range", ":99").stderr


# vlpipe ingest


def test_ingest_and_train_on_it(audio: Path, in_threads: None) -> None:
    (audio / "notes.txt").touch()
    out = audio.parent / "data"
    result = run("ingest", audio, out, "--label-from-parent", *SMALL, "--split", "train=0.5,val=0.5", "--hop-ms", "5", "--window-ms", "20")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    for name, line in zip(("train", "val"), lines, strict=False):
        index = open_directory(out / name)
        assert line.startswith(f"{out / name}: {len(index)} records, {index.frames('features').sum()} frames, 0.00 hours of audio, 0.0 MB")
    assert lines[2:4] == ["2 classes: cat, dog", "1 other file was ignored"]
    assert re.fullmatch(r"4 files in \d+\.\d s \(\d+ files/s\), 0 skipped", lines[4])
    assert len(lines) == 5
    assert index.metadata["features"] == vlpipe.audio.LogMel(sample_rate=8000, mels=8, hop_ms=5.0, window_ms=20.0).settings()
    delivered = [(x.shape, y) for x, y in vlpipe.make_dataset([out / "train", out / "val"], batch_size=1).as_numpy_iterator()]
    assert sorted(int(y[0]) for _, y in delivered) == [0, 0, 1, 1]
    assert {shape[2] for shape, _ in delivered} == {8}


def test_ingest_of_waveforms_and_training_on_them(audio: Path, in_threads: None) -> None:
    out = audio.parent / "data"
    result = run("ingest", audio, out, "--label-from-parent", "--raw", "--sample-rate", "8000")
    assert (result.exit_code, result.stderr) == (0, "")
    source = vlpipe.open(out)
    assert result.stdout.startswith(f"{out}: 4 records, {source.table()['frames'].sum():,} samples, 0.00 hours of audio")
    assert source.schema.fields["audio"] == vlpipe.Sequence(1, "int16")
    assert (source.metadata["sample_rate"], "features" in source.metadata) == (8000, False)
    features = vlpipe.audio.LogMel(sample_rate=8000, mels=8)
    for record, seconds in zip(source, source.table()["seconds"], strict=True):
        samples, rate = vlpipe.audio.load(audio / record["path"])
        assert np.array_equal(record["audio"][:, 0] / np.float32(32768), samples)
        assert seconds == pytest.approx(len(samples) / rate)
    for x, path in vlpipe.make_dataset(out, transform=features, label="path", batch_size=1):
        expected = features(vlpipe.audio.load(audio / path[0].numpy().decode())[0])
        np.testing.assert_allclose(x[0], expected, rtol=1e-5, atol=1e-5)
    result = run("ingest", audio, out, "--raw", "--mels", "80", "--hop-ms", "10")
    assert (result.exit_code, "--raw stores samples, not features: leave --mels, --hop-ms out" in result.stderr) == (2, True)
    (audio.parent / "list.csv").write_text("path,audio\ndog/1_a.wav,bark\n")
    assert 'distinct names other than "audio"' in run("ingest", audio, out, "--raw", "--manifest", audio.parent / "list.csv").stderr


def test_ingest_without_labels_in_float16(audio: Path, in_threads: None) -> None:
    assert run("ingest", audio, audio.parent / "data", *SMALL, "--dtype", "float16").exit_code == 0
    schema = open_directory(audio.parent / "data").schema
    assert dict(schema.fields) == {"features": vlpipe.Sequence(8, "float16"), "path": vlpipe.Text()}


def test_ingest_by_regex_with_numbers(audio: Path, in_threads: None) -> None:
    result = run("ingest", audio, audio.parent / "data", *SMALL, "--label-regex", r"/(\d)_")
    assert "3 labels: integers from 1 to 3" in result.stdout
    assert sorted(open_directory(audio.parent / "data").rows["value:label"]) == [1, 1, 2, 3]


def test_ingest_by_manifest(audio: Path, in_threads: None) -> None:
    (audio.parent / "list.csv").write_text("path,label,speaker\ndog/1_a.wav,bark,Rex\ncat/1_c.wav,meow,Tom\n")
    result = run("ingest", audio, audio.parent / "data", *SMALL, "--manifest", audio.parent / "list.csv")
    assert result.exit_code == 0
    index = open_directory(audio.parent / "data")
    assert list(index.schema.fields) == ["features", "label", "path", "speaker"]
    assert index.metadata["classes"] == ["bark", "meow"]
    assert index.rows["value:label"].tolist() == [1, 0]  # in the order of the paths


def test_ingest_with_the_classes_of_another_dataset(audio: Path, in_threads: None) -> None:
    out = audio.parent
    assert run("ingest", audio, out / "a", *SMALL, "--label-from-parent").exit_code == 0
    shutil.rmtree(audio / "cat")
    result = run("ingest", audio, out / "b", *SMALL, "--label-from-parent", "--classes", out / "a")
    assert "2 classes: cat, dog" in result.stdout
    assert set(open_directory(out / "b").rows["value:label"].tolist()) == {1}
    (out / "names").write_text("cat\n")
    result = run("ingest", audio, out / "c", *SMALL, "--label-from-parent", "--classes", out / "names")
    assert (result.exit_code, (out / "c").exists()) == (1, False)
    assert "are not among the 1 classes: 'dog'" in result.stderr


def test_ingest_refuses_damaged_files_or_skips_them(audio: Path, in_threads: None) -> None:
    (audio / "dog/0.mp3").write_bytes(b"no music")
    out = audio.parent / "data"
    result = run("ingest", audio, out, *SMALL)
    assert (result.exit_code, result.stdout, out.exists()) == (1, "", False)
    assert result.stderr.startswith("vlpipe: 1 of 5 recordings cannot be used; nothing was written.")
    assert f"\n  {audio / 'dog/0.mp3'}: begins with b'no music'" in result.stderr
    result = run("ingest", audio, out, *SMALL, "--skip-bad")
    assert result.exit_code == 0
    assert f"skipped: {audio / 'dog/0.mp3'}: begins with" in result.stdout
    assert result.stdout.endswith(", 1 skipped\n")
    assert open_directory(out).metadata["skipped"] == ["dog/0.mp3"]


def test_ingest_overwrites_only_on_request(audio: Path, in_threads: None) -> None:
    out = audio.parent / "data"
    assert run("ingest", audio, out, *SMALL).exit_code == 0
    write_wav(audio / "new.wav")
    result = run("ingest", audio, out, *SMALL)
    assert result.exit_code == 1
    assert "exists already" in result.stderr
    assert len(open_directory(out)) == 4
    assert run("ingest", audio, out, *SMALL, "--overwrite").exit_code == 0
    assert len(open_directory(out)) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "train=0.5"], "split: the fractions of 'train=0.5' sum to 0.5, expected 1."),
        (["--label-regex", "(x)"], "label-regex: '(x)' gives no label for 4 of 4 paths"),
        (["--manifest", "nowhere.csv"], "nowhere.csv: cannot be read as CSV"),
        (["--mels", "0"], "mels: came as 0"),
        (["--hop-ms", "0"], "hop_ms: came as 0.0"),
        (["--num-shards", "0"], "num_shards: came as 0"),
    ],
)
def test_ingest_refuses_invalid_arguments(audio: Path, arguments: list[str], message: str) -> None:
    result = run("ingest", audio, audio.parent / "data", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"vlpipe: {message}")
    assert not (audio.parent / "data").exists()


def test_the_installed_command_runs() -> None:
    script = Path(sys.executable).with_name("vlpipe")
    assert subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout.startswith("vlpipe, version")


def test_check_model_names_the_layers_and_sets_the_status(tmp_path: Path) -> None:
    import keras

    from vlpipe.layers import mask_aware

    layers = [keras.Input((None, 4)), keras.layers.Conv1D(3, 3, padding="same"), keras.layers.GlobalMaxPooling1D(name="pool")]
    model = keras.Sequential(layers)
    model.save(tmp_path / "plain.keras")
    result = run("check-model", tmp_path / "plain.keras")
    assert result.exit_code == 1
    assert "pool" in result.stdout
    document = json.loads(run("check-model", tmp_path / "plain.keras", "--json").stdout)
    assert {finding["layer"] for finding in document["findings"]} >= {"pool"}
    assert document["receptive_field"] == 3
    mask_aware(model).save(tmp_path / "aware.keras")
    result = run("check-model", tmp_path / "aware.keras", "--shortest", 3)
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "No layer lets padding change an answer.")


def test_check_model_refuses_files_that_are_not_models(tmp_path: Path) -> None:
    result = run("check-model", tmp_path / "none.keras")
    assert (result.exit_code, "Pass a saved Keras model" in result.stderr) == (1, True)
    (tmp_path / "text.keras").write_text("hello")
    result = run("check-model", tmp_path / "text.keras")
    assert (result.exit_code, "Keras cannot load it" in result.stderr) == (1, True)
