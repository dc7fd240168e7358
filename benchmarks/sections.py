"""The sections of REPORT.md, and the README's tables: each from the JSON of one script."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks import anatomy as parts
from benchmarks.memory import described

Documents = dict[str, Any]


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; every column but the first to the right."""
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def origin(document: dict[str, Any]) -> str:
    """Where and when the figures of a section were made."""
    machine, versions = document["machine"], document["versions"]
    names = ("python", "tensorflow", "keras", "jax", "torch", "numpy")
    known = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
    hardware = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB"
    return f"{hardware}; {known}; commit {document['commit']}, {document['date']}."


def throughput(documents: Documents) -> str:
    """Every way to have batches."""
    document = documents["throughput"]
    text = [
        "## Throughput",
        "",
        origin(document),
        "",
        "Valid frames a second (padding is not counted), in a Python loop without a model.",
        "",
    ]
    for name, result in document["results"]["workloads"].items():
        size = f"{result['records']:,} records, {result['frames'] / 1e6:.1f} M frames x {result['d']}, batches of {result['batch_size']}"
        rounds = len(next(iter(result["ways"].values()))["seconds"])
        headings = ["way", "M frames/s", "k records/s", f"x {result['base']}", "of the floor", "valid frames"]
        text += [f"**{name}**: {size}; medians of {rounds} interleaved rounds.", ""]
        text += [markdown(headings, (_way(*item) for item in result["ways"].items())), ""]
    return "\n".join([*text, "![throughput](pictures/throughput.svg)", ""])


def _way(name: str, way: dict[str, Any]) -> list[str]:
    workers = f" ({way['workers']} workers)" if way.get("workers") else ""
    return [
        f"{name}{workers}",
        f"{way['frames_per_second'] / 1e6:.1f}",
        f"{way['records_per_second'] / 1e3:.1f}",
        f"{way['ratio']:.1f}",
        f"{way['share_of_floor']:.0%}",
        "" if way["valid_ratio"] is None else f"{way['valid_ratio']:.1%}",
    ]


def foreign(documents: Documents) -> str:
    """Files that vlpipe did not write."""
    document = documents["foreign"]
    found = document["results"]
    rounds = len(next(iter(found["sources"].values()))["index_seconds"])
    text = ["## TFRecords of others", "", origin(document), ""]
    text += [f"Thousand records a second, and times the pipeline that publishers document; medians of {rounds} interleaved rounds.", ""]
    headings = ["files", "documented", "mapped", "x", "first epoch x", "graph x", "stream x", "indexed, k records/s", "indexed, MB/s"]
    text += [markdown(headings, (_foreign_row(*item) for item in found["sources"].items())), ""]
    again = found["again"]
    return "\n".join([*text, f"A second run of the index over {again['files']:,} unchanged files: {again['seconds']:.2f} s.", ""])


def _foreign_row(name: str, result: dict[str, Any]) -> list[str]:
    ways, records = result["ways"], result["records"]
    speeds = [f"{ways[way]['records_per_second'] / 1e3:.1f}" for way in ("documented", "vlpipe mapped")]
    ratios = [ways["vlpipe mapped"]["ratio"], result["first_epoch_ratio"], ways["vlpipe graph"]["ratio"], ways["vlpipe stream"]["ratio"]]
    indexed = result["indexed_per_second"]
    megabytes = indexed * result["bytes"] / records / 1e6
    return [name, *speeds, *(f"{ratio:.1f}" for ratio in ratios), f"{indexed / 1e3:.0f}", f"{megabytes:.0f}"]


def anatomy(documents: Documents) -> str:
    """Where the time of a batch goes."""
    document = documents["anatomy"]
    workloads = document["results"]
    text = ["## Where each microsecond of a batch goes", "", origin(document), ""]
    text += ["Microseconds of processor time a batch, sampled by `perf` (`benchmarks/anatomy.py`) in the mapped engine.", ""]
    rows = [
        [f"{part}: {what}", *(f"{result['parts_us'][part]:.0f}" for result in workloads.values())] for part, what in parts.PARTS.items()
    ]
    rows += [[f"**{label}**", *(f"{result[key]:.0f}" for result in workloads.values())] for key, label in _TOTALS.items()]
    rows += [[label, *(f"{result[key]:.1f}" for result in workloads.values())] for key, label in _COUNTS.items()]
    text += [markdown(["part", *(f"{name}, us" for name in workloads)], rows), ""]
    return "\n".join([*text, _conclusions(documents), "", "![anatomy](pictures/anatomy.svg)", ""])


_TOTALS = {
    "cpu_us": "processor time of both cores",
    "wall_us": "time from batch to batch",
    "idle_us": "cores idle: threads that wait for each other",
}
_COUNTS = {"faults": "page faults a batch", "switches": "changes of threads a batch"}


def _conclusions(documents: Documents) -> str:
    """What follows for the aim of 80 % of the bare copy loop."""
    lines = []
    for name, result in documents["anatomy"]["results"].items():
        floor = _floor_us(documents, name)
        consumer = result["parts_us"]["consumer, Python"] + result["parts_us"]["consumer, TensorFlow"]
        mapped = documents["throughput"]["results"]["workloads"][name]["ways"]["vlpipe mapped"]
        lines.append(
            f"- **{name}**: the bare copy loop takes {floor:.0f} us a batch, so that 80 % of it would be {floor / 0.8:.0f} us. "
            f"Were no core ever idle, this much work would take {result['cpu_us'] / 2:.0f} us on two. TensorFlow's own next() takes "
            f"{consumer:.0f} us of it, copying {result['parts_us']['copying'] + result['parts_us']['finding pages']:.0f} us. "
            f"Reached: {mapped['share_of_floor']:.0%} of the loop."
        )
    return "\n".join(lines)


def _floor_us(documents: Documents, name: str) -> float:
    result = documents["throughput"]["results"]["workloads"][name]
    fastest = max(way["records_per_second"] for label, way in result["ways"].items() if label.startswith("copy floor"))
    return result["batch_size"] / fastest * 1e6


def training(documents: Documents) -> str:
    """What a training run feels."""
    runs = {name: document for name, document in documents.items() if document["script"] == "training"}
    text = ["## Training", ""]
    text += [
        "Whole epochs of a Conv1D classifier; medians, each way in a process of its own, in turn. `waiting` is the share of an epoch in"
    ]
    text += ["`next()`; `x free` compares it with as many steps on batches that are on the device already; `compiled` counts shapes.", ""]
    for document in runs.values():
        text += [origin(document), ""]
        for name, result in document["results"]["workloads"].items():
            text += [_training_title(name, result), "", _training_table(result), ""]
    devices = {result["device"] for document in runs.values() for result in document["results"]["workloads"].values()}
    if devices <= {"cpu"}:
        text += [
            "No figure of an accelerator exists yet, as none was at hand; `--backend jax --device gpu` makes one.",
            "",
        ]
    return "\n".join([*text, "![training](pictures/training.svg)", ""])


def _training_title(name: str, result: dict[str, Any]) -> str:
    size = f"{result['records']:,} records, {result['frames'] / 1e6:.2f} M frames x {result['d']}"
    model = f"{result['parameters'] / 1e6:.2f} M parameters"
    batch = (
        f"batches of {result['batch_size']}" if result["frames_per_batch"] is None else f"batches of {result['frames_per_batch']:,} frames"
    )
    agree = "agree" if result["losses_agree"] else "do not agree"
    losses = f"final losses {agree} within {result['losses_tolerance']} (chance: {result['chance_loss']:.1f})"
    return f"**{result['backend']} on {result['device']}, {name}**: {size}, {batch}; {model}; {losses}."


def _training_table(result: dict[str, Any]) -> str:
    headings = [
        "way",
        "s an epoch",
        "k real frames/s",
        "valid",
        "waiting",
        "x free",
        "compiled",
        "compiling, s",
        "loss",
        "host, GB",
        "device, GB",
    ]
    return markdown(headings, (_training_row(*item) for item in result["ways"].items()))


def _training_row(name: str, way: dict[str, Any]) -> list[str]:
    peaks = ["" if way[peak] is None else f"{way[peak] / 1e9:.2f}" for peak in ("host_peak_bytes", "device_peak_bytes")]
    return [
        name,
        f"{way['seconds']:.2f}",
        f"{way['frames_per_second'] / 1e3:.0f}",
        f"{way['valid_ratio']:.0%}",
        f"{way['wait_share']:.1%}",
        f"{way['free_input_ratio']:.2f}",
        str(way["compiles"]),
        f"{way['compile_seconds']:.1f}",
        f"{way['loss']:.3f}",
        *peaks,
    ]


def scaling(documents: Documents) -> str:
    """What size costs."""
    document = documents["scaling"]
    found = document["results"]
    text = ["## Scaling", "", origin(document), "", "Tiny records, each point in a fresh process; seconds are medians.", ""]
    rows = [[f"{point['records']:,}", *(_scaled(heading, point[key]) for heading, key in _RECORDS.items())] for point in found["records"]]
    text += [markdown(["records", *_RECORDS], rows), ""]
    text += ["Around a base case (d = 40, 100 frames, batches of 32, 16 shards), as many bytes each:", ""]
    rows = [
        [f"{name} = {point[name]}", f"{point['frames_per_second'] / 1e6:.2f}", f"{point['gigabytes_per_second']:.2f}"]
        for name, points in found.items()
        if name != "records"
        for point in points
    ]
    text += [markdown(["", "M frames/s", "GB/s"], rows), ""]
    return "\n".join([*text, "![scaling](pictures/scaling.svg)", ""])


_RECORDS = {
    "plan, s": "plan_seconds",
    "first batch, s": "first_batch_seconds",
    "resuming, s": "resume_seconds",
    "next epoch, s": "order_seconds",
    "state, bytes": "state_bytes",
    "own memory, MB": "anonymous_bytes",
    "mapped files, MB": "file_bytes",
}


def _scaled(heading: str, rounds: list[float]) -> str:
    median = statistics.median(rounds)
    return f"{median / 1e6:.0f}" if heading.endswith("MB") else f"{median:.3g}"


def memory(documents: Documents) -> str:
    """Whether memory stays flat."""
    document = documents["memory"]
    columns = {
        f"{name}, {engine}": described(figures) for name, engines in document["results"].items() for engine, figures in engines.items()
    }
    rows = [[heading, *(column[heading] for column in columns.values())] for heading in next(iter(columns.values()))]
    return "\n".join(
        ["## Memory over many epochs", "", origin(document), "", markdown(["", *columns], rows), "", "![memory](pictures/memory.svg)", ""]
    )


def layers(documents: Documents) -> str:
    """What masks cost."""
    document = documents["layers"]
    found, given = document["results"], document["arguments"]
    text = ["## Mask-aware layers", "", origin(document), ""]
    sizes = f"batch {given['batch']}, {given['frames']} frames, {given['width']} channels, {given['rounds']} rounds in turn"
    text += [f"A training step on the {found['backend']} backend: {sizes}.", ""]
    rows = [[name, f"{way['plain_ms']:.1f}", f"{way['masked_ms']:.1f}", f"{way['ratio']:.2f}"] for name, way in found["models"].items()]
    rows.append(["**median of the ratios**", "", "", f"**{found['median_ratio']:.2f}**"])
    return "\n".join([*text, markdown(["model", "plain, ms", "masked, ms", "ratio"], rows), ""])


def readme_speed(documents: Documents) -> str:
    """The README's table of speeds."""
    workloads = documents["throughput"]["results"]["workloads"]
    rows = [
        [label, *(cell for result in workloads.values() for cell in _speed(result["ways"][way]))]
        for way, label in _README_WAYS.items()
        if all(way in result["ways"] for result in workloads.values())
    ]
    return markdown(["", *(heading for name in workloads for heading in (name, "x", "valid"))], rows)


def _speed(way: dict[str, Any]) -> list[str]:
    valid = "" if way["valid_ratio"] is None else f"{way['valid_ratio']:.0%}"
    return [f"{way['frames_per_second'] / 1e6:.1f} M", f"{way['ratio']:.1f}", valid]


_README_WAYS = {
    "recipe": "the guides' way: FloatList, `bucket_by_sequence_length`, AUTOTUNE",
    "padded_batch": "bytes and `decode_raw`, `padded_batch`",
    "vlpipe mapped": "vlpipe, mapped (the default)",
    "vlpipe graph": "vlpipe, graph",
    "vlpipe stream": "vlpipe, stream",
    "copy floor, memoryview": "a bare copy into one warm buffer, no framework",
}


def readme_scores(documents: Documents) -> str:
    """The README's table of one recording in three batches."""
    scores = documents["layers"]["results"]["scores"]
    rows = [
        [name, label, *(f"{score:.6f}" for score in found[kind])]
        for name, found in scores.items()
        for kind, label in (("plain", "plain Keras"), ("mask_aware", "`mask_aware`"))
    ]
    return markdown(["model", "layers", "alone", "beside one of 64 frames", "beside one of 200 frames"], rows)


def readme_cost(documents: Documents) -> str:
    """The README's line about what masks cost."""
    found = documents["layers"]["results"]
    times, models = f"{found['median_ratio']:.2f}", len(found["models"])
    return f"**What it costs**: a training step takes {times} times that of the plain model (median over {models} models, CPU)."


README: dict[str, Callable[[Documents], str]] = {"speed": readme_speed, "scores": readme_scores, "cost": readme_cost}
