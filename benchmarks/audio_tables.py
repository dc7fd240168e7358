"""The section of REPORT.md and the table of docs/recipes/features.md that audio.json gives: features computed in training, or stored."""

from __future__ import annotations

from typing import Any

from benchmarks.tables import Documents, markdown, origin


def audio(documents: Documents) -> str:
    """The section on audio features, computed in training or stored."""
    document = documents["audio"]
    text = ["## Audio features", "", origin(document), ""]
    text += [
        "Padded batches of 32 log-mel sequences `[B, T, 80]`: computed from waveforms in every epoch, or stored beforehand. Core-seconds",
        "are those of all processes, for an hour of audio; ratios (x) are to `tf.signal`. `vlpipe, with noise` also adds noise and masks.",
        "",
    ]
    headings = ["way", "records/s", "x", "core-seconds", "x", "stored, MB an hour"]
    for name, result in document["results"].items():
        shortest, longest = result["seconds"]
        rounds = len(next(iter(result["ways"].values()))["rounds"])
        text += [
            f"**{name}**: {result['records']:,} waveforms of {shortest:.2g} to {longest:.2g} s at {result['rate']:,} Hz, "
            f"{result['hours']:.2f} h; medians of {rounds} interleaved rounds.",
            "",
            markdown(headings, (_way(way, result) for way in result["ways"])),
            "",
        ]
    return "\n".join(text)


def _way(way: str, result: dict[str, Any]) -> list[str]:
    own = result["ways"][way]
    speeds = [f"{own['records_per_second']:,.0f}", f"{own['ratio']:.1f}"]
    return [way, *speeds, f"{own['core_seconds_per_hour']:.2f}", f"{own['core_ratio']:.1f}", _megabytes_an_hour(way, result)]


def _megabytes_an_hour(way: str, result: dict[str, Any]) -> str:
    stored = "features" if way == "vlpipe, stored features" else "waveforms"
    return f"{result['megabytes'][stored] / result['hours']:.0f}"


def storing_table(documents: Documents) -> str:
    """The table in docs/recipes/features.md: what is stored, and what an epoch then costs."""
    if "audio" not in documents:
        return "No run is stored in this checkout; `python -m benchmarks.audio` makes one."
    headings = ["", "stored: MB an hour of audio", "records/s", "core-seconds an hour of audio"]
    rows = [
        [
            f"{name} at {result['rate'] / 1000:g} kHz: {label}",
            _megabytes_an_hour(way, result),
            f"{result['ways'][way]['records_per_second']:,.0f}",
            f"{result['ways'][way]['core_seconds_per_hour']:.2f}",
        ]
        for name, result in documents["audio"]["results"].items()
        for way, label in _SHOWN.items()
    ]
    return markdown(headings, rows)


_SHOWN = {
    "vlpipe, stored features": "features",
    "vlpipe, from waveforms": "waveforms, features in training",
    "vlpipe, with noise": "waveforms, with noise and masks",
}
