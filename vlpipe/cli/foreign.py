"""The commands for TFRecord files that vlpipe did not write: `vlpipe inspect` and `vlpipe index`."""

from __future__ import annotations

import shlex
import time
from typing import Any

import click

from vlpipe.cli.common import layout_option, one_or_many, parse_layout, print_json, progress
from vlpipe.errors import ArgumentError


@click.command()
@click.argument("file", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def inspect(file: tuple[str, ...], as_json: bool) -> None:
    """Show what the records of FILE hold: keys, kinds, sizes and ranges; which layout that is; and the call that reads it.

    Looks at the first records of the first files. Exit status 1 if they are no Examples.

    \b
    Examples:
      vlpipe inspect bal_train/00.tfrecord
      vlpipe inspect 'data/*.tfrecord' --json
    """
    report = inspect_files(one_or_many(file))
    if as_json:
        print_json(report)
    else:
        click.echo(_as_text(report))


def inspect_files(source: Any) -> dict[str, Any]:
    """What `vlpipe inspect` prints, as JSON values.

    Raises:
        VlpipeError: the files cannot be read, or their records are no Examples.
    """
    from vlpipe.files.compression import compression_of
    from vlpipe.files.filesystem import each, measured
    from vlpipe.layouts.detect import guess
    from vlpipe.layouts.sample import read_sample
    from vlpipe.layouts.sidecars import read_sidecars
    from vlpipe.sources.foreign.find_files import files_of, is_foreign

    paths = files_of(source)
    sample = read_sample(paths)
    shown = repr(source)
    report: dict[str, Any] = {
        "files": len(paths),
        "bytes": sum(found.bytes for found in each(measured, paths)),
        "records_read": len(sample.records),
    }
    report |= {
        "compression": compression_of(paths[0]),
        "message": " and ".join(sorted({"SequenceExample" if record.message.is_sequence else "Example" for record in sample.records})),
        "keys": [stats.to_json() for stats in sample.key_stats.values()],
    }
    if not is_foreign(source):
        return (
            report
            | {"layout": "vlpipe", "confidence": 1.0, "reasons": ["vlpipe.json lies beside it"], "candidates": []}
            | {"call": f"vlpipe.make_dataset({shown})"}
        )
    known = read_sidecars(paths)
    if known is not None:
        report |= {"layout": known[0].name, "confidence": 1.0, "reasons": [f"{known[1]} lies beside it"]}
        return report | {"call": f"vlpipe.make_dataset({shown})", "candidates": []}
    guesses = guess(sample)
    candidates = [
        {
            "layout": found.function,
            "confidence": found.confidence,
            "reasons": list(found.reasons),
            "call": f"vlpipe.make_dataset({shown}, layout={found.call})",
            "option": found.argument if found.is_complete else None,
        }
        for found in guesses.candidates
    ]
    best: dict[str, Any] = {"layout": None, "confidence": 0.0, "reasons": [], "call": None, "option": None}
    if guesses.only is not None:
        best = candidates[guesses.candidates.index(guesses.only)]
    return report | best | {"candidates": candidates, "refusals": list(guesses.refusals)}


def _as_text(report: dict[str, Any]) -> str:
    from rich.table import Table

    from vlpipe.text_tables import printable, text

    table = Table(box=None, pad_edge=False, header_style="")
    for heading in ("key", "in", "kind", "records", "values or frames", "bytes each", "range"):
        table.add_column(heading, justify="left" if heading in ("key", "in", "kind") else "right")
    for fact in report["keys"]:
        place = "feature list" if fact["place"] == "lists" else "context" if report["message"] == "SequenceExample" else "features"
        spans = [_span(fact.get(name)) for name in ("counts", "bytes", "values")]
        table.add_row(printable(fact["key"]), place, fact["kind"], f"{fact['records']:,}", *spans)
    compressed = f", compressed with {report['compression']}" if report["compression"] else ""
    files = f"{report['files']:,} files, {report['bytes']:,} bytes{compressed}"
    lines = [f"{files}; the first {report['records_read']:,} records are {report['message']}s"]
    lines += ["", text(table, width=120), ""]
    if report["layout"]:
        lines += [f"layout: {report['layout']}, {report['confidence']:.0%} sure: {'; '.join(report['reasons'])}", "", f"  {report['call']}"]
        lines += [f"  --layout {shlex.quote(report['option'])}"] if report.get("option") else []
    else:
        lines.append("layout: not known" + ("; it could be" if report["candidates"] else ""))
        for candidate in report["candidates"]:
            lines += [
                "",
                f"{candidate['layout']}, {candidate['confidence']:.0%}: {'; '.join(candidate['reasons'])}",
                f"  {candidate['call']}",
            ]
    lines += [f"note: {refusal}" for refusal in report.get("refusals", [])]
    return "\n".join(line.rstrip() for line in "\n".join(lines).splitlines())


def _span(values: list[int] | None) -> str:
    if values is None:
        return ""
    return f"{values[0]:,}" if values[0] == values[1] else f"{values[0]:,} to {values[1]:,}"


@click.command()
@click.argument("source", nargs=-1, required=True)
@layout_option
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: one a core, where there is work for them]")
def index(source: tuple[str, ...], layout: str | None, workers: int | None) -> None:
    """Index the TFRecord files SOURCE (files, globs or directories) that vlpipe did not write, as far as they are not indexed yet.

    `make_dataset` does the same when it first meets them. The index is kept beside the files, in .vlpipe-index, or in the user's cache.

    \b
    Examples:
      vlpipe index 'bal_train/*.tfrecord'
      vlpipe index 'data/*.tfrecord' --layout '{"float_list": {"key": "mel", "d": 80, "label": "class"}}'
    """
    from vlpipe.sources.foreign.build_index import build_index
    from vlpipe.sources.foreign.find_files import is_foreign

    if layout is None and not is_foreign(one_or_many(source)):
        raise ArgumentError(f"{', '.join(source)}: vlpipe wrote it, with its index: there is nothing to make.")
    started = time.monotonic()
    chosen = parse_layout(layout)
    with progress("files") as advance:
        found = build_index(one_or_many(source), chosen, workers=workers, progress=advance)
    seconds = time.monotonic() - started
    frames = {name: int(found.frames(name).sum()) for name in found.foreign.stored if name not in found.lists} if found.foreign else {}
    size = sum(shard.bytes for shard in found.shards)
    click.echo(
        f"{len(found.shards):,} files, {len(found):,} records, {size / 1e6:,.1f} MB, layout {found.metadata['layout']}, in {seconds:.1f} s"
    )
    for name, count in frames.items():
        click.echo(f"{name}: {count:,} frames of {list(found.schema.sequences[name].dimensions)} {found.schema.sequences[name].dtype}")
