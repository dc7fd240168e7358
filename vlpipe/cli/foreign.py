"""Commands for third-party TFRecord files: `vlpipe inspect` and `vlpipe index`."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING, Any

import click

from vlpipe.cli.common import echo, layout_option, one_or_many, parse_layout, print_json
from vlpipe.errors import ArgumentError, counted, printable, shortened

if TYPE_CHECKING:
    from vlpipe.layouts.guesses import Guess

_MOST_CANDIDATES = 5  # shown; a record with 80 keys can have as many


@click.command(short_help="Show what third-party files hold and the call that reads them.")
@click.argument("file", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def inspect(file: tuple[str, ...], as_json: bool) -> None:
    """Show the keys of the records in FILE with kinds, sizes and ranges; the layout of the records; and the call that reads them.

    Reads the first records of the first files. Exit status 1 if they are not Examples.

    \b
    Examples:
      vlpipe inspect bal_train/00.tfrecord
      vlpipe inspect 'data/*.tfrecord' --json
    """
    report = inspect_files(one_or_many(file))
    if as_json:
        print_json(report)
    else:
        echo(_as_text(report))


def inspect_files(source: Any) -> dict[str, Any]:
    """The output of `vlpipe inspect` as JSON values.

    Raises:
        VlpipeError: the files cannot be read, or their records are not Examples.
    """
    from vlpipe.files.compression import compression_of
    from vlpipe.files.filesystem import each, stat_file
    from vlpipe.layouts.deliverable import field_of
    from vlpipe.layouts.detect import guess
    from vlpipe.layouts.sample import read_sample
    from vlpipe.layouts.sidecars import read_sidecars
    from vlpipe.sources.foreign.find_files import files_of, is_foreign

    paths = files_of(source)
    sample = read_sample(paths)
    argument = repr(source)
    report: dict[str, Any] = {
        "files": len(paths),
        "bytes": sum(found.bytes for found in each(stat_file, paths)),
        "records_read": len(sample.records),
    }
    report |= {
        "compression": compression_of(paths[0]),
        "message": " and ".join(sorted({"SequenceExample" if record.message.is_sequence else "Example" for record in sample.records})),
        "keys": [stats.to_json() for stats in sample.key_stats.values()],
    }
    if is_foreign(source):
        fields = {key: field_of(stats, len(sample.records)) for key, stats in sample.key_stats.items()}
        report["cannot_be_delivered"] = {key: reason for key, reason in fields.items() if isinstance(reason, str)}
    if not is_foreign(source):
        return (
            report
            | {"layout": "vlpipe", "confidence": 1.0, "reasons": ["vlpipe.json is beside the files"], "candidates": []}
            | {"call": f"vlpipe.make_dataset({argument})"}
        )
    known = read_sidecars(paths)
    if known is not None:
        report |= {"layout": known[0].name, "confidence": 1.0, "reasons": [f"{known[1]} is beside the files"]}
        return report | {"call": f"vlpipe.make_dataset({argument})", "candidates": []}
    guesses = guess(sample)
    candidates = [_describe_guess(candidate, argument) for candidate in guesses.candidates]
    best: dict[str, Any] = {"layout": None, "confidence": 0.0, "reasons": [], "call": None, "option": None}
    if guesses.only is not None:
        best = candidates[guesses.candidates.index(guesses.only)]
    return report | best | {"candidates": candidates, "refusals": list(guesses.refusals)}


def _describe_guess(guess: Guess, argument: str) -> dict[str, Any]:
    return {
        "layout": guess.function,
        "confidence": guess.confidence,
        "reasons": list(guess.reasons),
        "call": f"vlpipe.make_dataset({argument}, layout={guess.call})",
        "option": guess.argument if guess.is_complete else None,
    }


def _as_text(report: dict[str, Any]) -> str:
    from rich.table import Table

    from vlpipe.text_tables import text

    table = Table(box=None, pad_edge=False, header_style="")
    for heading in ("key", "in", "kind", "records", "values or frames", "bytes each", "range"):
        table.add_column(heading, justify="left" if heading in ("key", "in", "kind") else "right")
    for fact in report["keys"]:
        place = "feature list" if fact["place"] == "lists" else "context" if report["message"] == "SequenceExample" else "features"
        spans = [_span(fact.get(name)) for name in ("counts", "bytes", "values")]
        table.add_row(shortened(fact["key"], 60), place, fact["kind"], f"{fact['records']:,}", *spans)
    compressed = f", compressed with {report['compression']}" if report["compression"] else ""
    files = f"{counted(report['files'], 'file')}, {counted(report['bytes'], 'byte')}{compressed}"
    read = report["records_read"]
    kind = f"record is a {report['message']}" if read == 1 else f"{read:,} records are {report['message']}s"
    lines = [f"{files}; the first {kind}"]
    lines += ["", text(table, width=120), ""]
    undeliverable = report.get("cannot_be_delivered", {})
    lines += [f"{printable(key)} cannot be delivered beside the frames: {reason}" for key, reason in undeliverable.items()]
    lines += [""] * bool(undeliverable)
    if report["layout"]:
        lines += [f"layout: {report['layout']}, {report['confidence']:.0%} sure: {'; '.join(report['reasons'])}", "", f"  {report['call']}"]
        lines += [f"  --layout {shlex.quote(report['option'])}"] if report.get("option") else []
    else:
        lines.append("layout: unknown" + ("; candidates:" if report["candidates"] else ""))
        for candidate in report["candidates"][:_MOST_CANDIDATES]:
            lines += [
                "",
                f"{candidate['layout']}, {candidate['confidence']:.0%}: {'; '.join(candidate['reasons'])}",
                f"  {candidate['call']}",
            ]
        more = len(report["candidates"]) - _MOST_CANDIDATES
        lines += ["", f"… and {counted(more, 'more candidate')}, which --json lists"] if more > 0 else []
    lines += [f"note: {refusal}" for refusal in report.get("refusals", [])]
    return "\n".join(line.rstrip() for line in "\n".join(lines).splitlines())


def _span(values: list[int] | None) -> str:
    if values is None:
        return ""
    return f"{values[0]:,}" if values[0] == values[1] else f"{values[0]:,} to {values[1]:,}"


@click.command(short_help="Index third-party files, so that they open at once.")
@click.argument("source", nargs=-1, required=True)
@layout_option
@click.option("--workers", type=click.IntRange(1), help="Number of processes.  [default: one per core, fewer for little data]")
def index(source: tuple[str, ...], layout: str | None, workers: int | None) -> None:
    """Index the third-party TFRecord files in SOURCE (files, globs or directories) that are not indexed yet.

    `make_dataset` does the same when it first opens them. The index is stored in .vlpipe-index beside the files, or in the user's cache.

    \b
    Examples:
      vlpipe index 'bal_train/*.tfrecord'
      vlpipe index 'data/*.tfrecord' --layout '{"float_list": {"key": "mel", "d": 80, "label": "class"}}'
    """
    from vlpipe.sources.foreign.build_index import build_index
    from vlpipe.sources.foreign.find_files import is_foreign

    if layout is None and not is_foreign(one_or_many(source)):
        raise ArgumentError(f"{', '.join(source)}: already has an index, which vlpipe wrote with the dataset. Pass third-party files.")
    started = time.monotonic()
    parsed = parse_layout(layout)
    built = build_index(one_or_many(source), parsed, workers=workers)
    seconds = time.monotonic() - started
    size = sum(shard.bytes for shard in built.shards)
    echo(
        f"{counted(len(built.shards), 'file')}, {counted(len(built), 'record')}, {size / 1e6:,.1f} MB, "
        f"layout {built.metadata['layout']}, in {seconds:.1f} s"
    )
    for name in built.foreign.stored if built.foreign else ():
        if name not in built.lists:
            sequence = built.schema.sequences[name]
            echo(f"{name}: {counted(int(built.frames(name).sum()), 'frame')} of {list(sequence.dimensions)} {sequence.dtype}")
