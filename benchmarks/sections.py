"""Generate the sections of REPORT.md and the tables of README.md and docs/, each from the JSON of one script."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks import anatomy as parts
from benchmarks import consuming
from benchmarks.audio_tables import storing_table
from benchmarks.memory import summarise
from benchmarks.racing import speed_ratio
from benchmarks.tables import Documents, markdown, origin, training_cells


def throughput(documents: Documents) -> str:
    """The section on throughput: every way to read batches."""
    document = documents["throughput"]
    text = [
        "## Throughput",
        "",
        origin(document),
        "",
        "Valid frames per second (padding is not counted), without a model: in a Python loop, and where given in a graph (`consuming.py`).",
        "",
        "`recipe`: FloatLists, `tf.io.parse_single_example` and `bucket_by_sequence_length`, as in TensorFlow's guides;",
        "`by hand, bytes`: the same with frames that are stored as raw bytes; `padded_batch`: that in place of buckets;",
        "`copy floor`: the same batches, copied from the mapped files into one buffer; `copy on every core`: by a process for each core,",
        "into a buffer each. `x`: the ratio to the recipe, consumed alike. Each way has a process of its own.",
        "",
    ]
    for name, result in document["results"]["workloads"].items():
        size = f"{result['records']:,} records, {result['frames'] / 1e6:.1f} M frames x {result['d']}, batches of {result['batch_size']}"
        rounds = len(next(iter(result["ways"].values()))["seconds"])
        headings = ["way", "M frames/s", "k records/s", f"x {result['base']}", "share of bare copy", "valid frames"]
        text += [f"**{name}**: {size}; medians of {rounds} interleaved rounds.", ""]
        rows = [[*_way(way, figures), *consuming.summary(figures)] for way, figures in result["ways"].items()]
        text += [markdown([*headings, *consuming.HEADINGS], rows), "", *_to_pytorch(result["ways"])]
    return "\n".join([*text, "![throughput](pictures/throughput.svg)", ""])


def _to_pytorch(ways: dict[str, Any]) -> list[str]:
    """The line with the ratios to PyTorch's loader; none if the run was without it."""
    if "PyTorch" not in ways:
        return []
    base, mapped = ways["PyTorch"]["seconds"], ways["vlpipe mapped"]
    taken = mapped["seconds"], mapped["graph"]["seconds"], ways["vlpipe batches"]["seconds"]
    loop, graph, arrays = (f"{speed_ratio(base, own):.2f}" for own in taken)
    return [
        f"Times PyTorch, as the median over the rounds: `vlpipe mapped` {loop} in a Python loop and {graph} in a graph, "
        f"`vlpipe batches` {arrays}.",
        "",
    ]


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
    """The section on third-party files."""
    document = documents["foreign"]
    figures = document["results"]
    rounds = len(next(iter(figures["sources"].values()))["index_seconds"])
    text = ["## Third-party TFRecord files", "", origin(document), ""]
    text += [
        f"Thousand records per second, and the ratio (x) to the pipeline that publishers document; medians of {rounds} interleaved rounds.",
        "",
    ]
    headings = ["files", "documented", "mapped", "x", "first epoch x", "graph x", "stream x", "indexed, k records/s", "indexed, MB/s"]
    text += [markdown(headings, (_foreign_row(*item) for item in figures["sources"].items())), ""]
    again = figures["again"]
    return "\n".join([*text, f"Indexing {again['files']:,} unchanged files a second time: {again['seconds']:.2f} s.", ""])


def _foreign_row(name: str, result: dict[str, Any]) -> list[str]:
    ways, records = result["ways"], result["records"]
    speeds = [f"{ways[way]['records_per_second'] / 1e3:.1f}" for way in ("documented", "vlpipe mapped")]
    ratios = [ways["vlpipe mapped"]["ratio"], result["first_epoch_ratio"], ways["vlpipe graph"]["ratio"], ways["vlpipe stream"]["ratio"]]
    indexed = result["indexed_per_second"]
    megabytes = indexed * result["bytes"] / records / 1e6
    return [name, *speeds, *(f"{ratio:.1f}" for ratio in ratios), f"{indexed / 1e3:.0f}", f"{megabytes:.0f}"]


def anatomy(documents: Documents) -> str:
    """The section on the time of a batch, by part."""
    document = documents["anatomy"]
    workloads = document["results"]
    text = ["## Where each microsecond of a batch is spent", "", origin(document), ""]
    text += ["Microseconds of processor time per batch in the mapped engine, sampled by `perf` (`benchmarks/anatomy.py`).", ""]
    rows = [
        [f"{part}: {description}", *(f"{result['parts_us'][part]:.0f}" for result in workloads.values())]
        for part, description in parts.PARTS.items()
    ]
    rows += [[f"**{label}**", *(f"{result[key]:.0f}" for result in workloads.values())] for key, label in _TOTALS.items()]
    rows += [[label, *(f"{result[key]:.1f}" for result in workloads.values())] for key, label in _COUNTS.items()]
    text += [markdown(["part", *(f"{name}, us" for name in workloads)], rows), ""]
    return "\n".join([*text, _conclusions(documents), "", "![anatomy](pictures/anatomy.svg)", ""])


_TOTALS = {
    "cpu_us": "processor time of both cores",
    "wall_us": "time from batch to batch",
    "idle_us": "idle time of both cores: threads wait for each other",
}
_COUNTS = {"faults": "page faults per batch", "switches": "thread switches per batch"}


def _conclusions(documents: Documents) -> str:
    """Return what the figures imply for the goal of 80 % of the speed of the bare copy loop."""
    lines = ["The goal is 80 % of the speed of a loop that only copies the frames of the same batches:", ""]
    for name, result in documents["anatomy"]["results"].items():
        floor, every_core = _copy_us(documents, name, "copy floor"), _copy_us(documents, name, "copy on every core")
        consumer = result["parts_us"]["consumer, Python"] + result["parts_us"]["consumer, TensorFlow"]
        copying = result["parts_us"]["copying"] + result["parts_us"]["finding pages"]
        mapped = documents["throughput"]["results"]["workloads"][name]["ways"]["vlpipe mapped"]
        lines.append(
            f"- **{name}**: the bare copy loop takes {floor:.0f} us per batch, so that 80 % of its speed would be {floor / 0.8:.0f} us. "
            f"If no core were idle, the work would take {result['cpu_us'] / 2:.0f} us on two cores. TensorFlow's next() takes "
            f"{consumer:.0f} us of the work, copying {copying:.0f} us. Processes that only copy, one for each core, take "
            f"{every_core:.0f} us per batch. Measured: {mapped['share_of_floor']:.0%} of the speed of the loop."
        )
    return "\n".join(lines)


def _copy_us(documents: Documents, name: str, ways: str) -> float:
    """Microseconds per batch of the fastest of the copies whose names begin so."""
    result = documents["throughput"]["results"]["workloads"][name]
    fastest = max(way["records_per_second"] for label, way in result["ways"].items() if label.startswith(ways))
    return result["batch_size"] / fastest * 1e6


def training(documents: Documents) -> str:
    """The section on training."""
    runs = {name: document for name, document in documents.items() if document["script"] == "training"}
    text = ["## Training", ""]
    text += [
        "Whole epochs of a Conv1D classifier; medians. Each way runs in its own process, and the processes take turns. `waiting` is the",
        "share of `next()` in an epoch of a loop that reads each loss, `in fit` the share that `InputMonitor` gives for an epoch of `fit`;",
        "`x free` is the ratio to the same number of steps on batches that are already on the device; `compiled` counts compilations. JAX",
        "compiles a shape when it first occurs, be it in a timed epoch: with many shapes and few epochs, that is most of `s/epoch` and of",
        "`x free`. `waiting` and `in fit` are of different epochs, and differ where only one of them compiles.",
        "",
    ]
    for document in runs.values():
        text += [origin(document), ""]
        for name, result in document["results"]["workloads"].items():
            text += [_training_title(name, result), "", _training_table(result), ""]
    devices = {result["device"] for document in runs.values() for result in document["results"]["workloads"].values()}
    if devices <= {"cpu"}:
        text += [
            "No run on an accelerator is stored; `python -m benchmarks.training --backend jax --device gpu` makes one.",
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
        "s/epoch",
        "k valid frames/s",
        "valid",
        "waiting",
        "in fit",
        "x free",
        "compiled",
        "compilation, s",
        "loss",
        "host, GB",
        "device, GB",
    ]
    return markdown(headings, (_training_row(*item) for item in result["ways"].items()))


def _training_row(name: str, way: dict[str, Any]) -> list[str]:
    peaks = ["" if way[peak] is None else f"{way[peak] / 1e9:.2f}" for peak in ("host_peak_bytes", "device_peak_bytes")]
    return [name, *training_cells(way).values(), *peaks]


def scaling(documents: Documents) -> str:
    """The section on scaling."""
    document = documents["scaling"]
    series = document["results"]
    text = ["## Scaling", "", origin(document), "", "Tiny records, each row in a fresh process; seconds are medians.", ""]
    rows = [[f"{point['records']:,}", *(_scaled(heading, point[key]) for heading, key in _RECORDS.items())] for point in series["records"]]
    text += [markdown(["records", *_RECORDS], rows), ""]
    text += ["Variations of a base case (d = 40, 100 frames, batches of 32, 16 shards), each with the same number of bytes:", ""]
    rows = [
        [f"{name} = {point[name]}", f"{point['frames_per_second'] / 1e6:.2f}", f"{point['gigabytes_per_second']:.2f}"]
        for name, points in series.items()
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
    "anonymous memory, MB": "anonymous_bytes",
    "mapped files, MB": "file_bytes",
}


def _scaled(heading: str, rounds: list[float]) -> str:
    median = statistics.median(rounds)
    return f"{median / 1e6:.0f}" if heading.endswith("MB") else f"{median:.3g}"


def memory(documents: Documents) -> str:
    """The section on memory."""
    document = documents["memory"]
    columns = {
        f"{name}, {engine}": summarise(figures) for name, engines in document["results"].items() for engine, figures in engines.items()
    }
    rows = [[heading, *(column[heading] for column in columns.values())] for heading in next(iter(columns.values()))]
    return "\n".join(
        ["## Memory over many epochs", "", origin(document), "", markdown(["", *columns], rows), "", "![memory](pictures/memory.svg)", ""]
    )


def layers(documents: Documents) -> str:
    """The section on mask-aware layers."""
    document = documents["layers"]
    figures, options = document["results"], document["arguments"]
    text = ["## Mask-aware layers", "", origin(document), ""]
    sizes = f"batch {options['batch']}, {options['frames']} frames, {options['width']} channels, {options['rounds']} interleaved rounds"
    text += [f"A training step on the {figures['backend']} backend: {sizes}. The goal is a median ratio of at most 1.25.", ""]
    rows = [
        [name, f"{model['plain_ms']:.1f}", f"{model['masked_ms']:.1f}", f"{model['ratio']:.2f}"]
        for name, model in figures["models"].items()
    ]
    rows.append(["**median of the ratios**", "", "", f"**{figures['median_ratio']:.2f}**"])
    return "\n".join([*text, markdown(["model", "plain, ms", "masked, ms", "ratio"], rows), ""])


def speed_table(documents: Documents) -> str:
    """The table of speeds in README.md and docs/how/costs.md: for each workload in a loop, in a graph, and the share of valid frames."""
    workloads = documents["throughput"]["results"]["workloads"]
    rows = [
        [label, *(cell for result in workloads.values() for cell in _speed(result["ways"][way]))]
        for way, label in _SHOWN_WAYS.items()
        if all(way in result["ways"] for result in workloads.values())
    ]
    return markdown(["", *(heading for name in workloads for heading in (f"{name}: loop", "graph", "valid"))], rows)


def _speed(way: dict[str, Any]) -> list[str]:
    valid = "" if way["valid_ratio"] is None else f"{way['valid_ratio']:.0%}"
    return [_of_recipe(way), _of_recipe(way["graph"]) if "graph" in way else "", valid]


def _of_recipe(figures: dict[str, Any]) -> str:
    return f"{figures['frames_per_second'] / 1e6:.1f} M ({figures['ratio']:.1f}x)"


_SHOWN_WAYS = {
    "recipe": "TensorFlow's guides: FloatList, `bucket_by_sequence_length`, AUTOTUNE",
    "padded_batch": "bytes and `decode_raw`, `padded_batch`",
    "vlpipe mapped": "vlpipe, mapped (the default)",
    "vlpipe graph": "vlpipe, graph",
    "vlpipe stream": "vlpipe, stream",
    "vlpipe batches": "`vlpipe.batches`, without tf.data",
    "copy floor, memoryview": "a bare copy into one warm buffer, no framework",
}


def scores_table(documents: Documents) -> str:
    """The table in docs/why.md of the scores of one recording in three batches."""
    scores = documents["layers"]["results"]["scores"]
    rows = [
        [name, label, *(f"{score:.6f}" for score in kinds[kind])]
        for name, kinds in scores.items()
        for kind, label in (("plain", "plain Keras"), ("mask_aware", "`mask_aware`"))
    ]
    return markdown(["model", "layers", "alone", "with one of 64 frames", "with one of 200 frames"], rows)


def cost_sentence(documents: Documents) -> str:
    """The sentence in docs/how/exactness.md on the cost of masks."""
    figures = documents["layers"]["results"]
    times, models = f"{figures['median_ratio']:.2f}", len(figures["models"])
    return f"**Cost**: a training step takes {times} times as long as that of the plain model (median over {models} models, CPU)."


TABLES: dict[str, Callable[[Documents], str]] = {
    "speed": speed_table,
    "scores": scores_table,
    "cost": cost_sentence,
    "storing": storing_table,
}
