"""The first records of a source, with pictures of their frames and players for waveforms."""

from __future__ import annotations

import numpy as np

from vlpipe.audio import LogMel
from vlpipe.errors import VlpipeError
from vlpipe.reporting.charts import envelope, figure
from vlpipe.reporting.markup import Headings, Html, join, note, number, table
from vlpipe.reporting.media import as_samples, player, spectrogram
from vlpipe.sources.record_set import RecordSet
from vlpipe.sources.records import Records
from vlpipe.storage.index import Index
from vlpipe.storage.schema import Sequence

_FIRST = 6  # numbers of a field
_MAX_DRAWN = 1 << 22  # numbers of a sequence that are drawn
_MAX_FIELDS = 100


def first_records(source: RecordSet, count: int, most_audio: int, headings: Headings) -> Html:
    """Sections for the first records, in the order of the source.

    Args:
        count: maximum number of records.
        most_audio: maximum bytes of samples of one record.
        headings: of the page.
    """
    index, parts = source.index, []
    with Records(index) as records:
        for row in range(min(count, len(index))):
            shard = index.shards[int(index.rows["shard"][row])].name
            where = f"{shard}, byte {int(index.rows['offset'][row]):,}, {int(index.rows['bytes'][row]):,} bytes"
            content = [note(where), *_record(index, records, row, most_audio)]
            parts.append(headings.section(4, f"Record {int(index.ids[row]):,}", *content))
    return join(parts) if parts else note("There are no records.")


def _record(index: Index, records: Records, row: int, most_audio: int) -> list[Html]:
    record = f"record {int(index.ids[row]):,}"
    try:
        values = records.values(row)
    except VlpipeError as error:
        return [note(f"It cannot be read: {error}", kind="bad")]
    rows = [_field(name, value) for name, value in values.items()]
    parts = [table(f"Fields of {record}", ("field", "kind", "first values", "least", "greatest", "mean"), rows, most=_MAX_FIELDS)]
    for name, field in records.schema.sequences.items():
        value = values[name]
        if isinstance(value, np.ndarray) and value.size:
            parts += _pictures(index, name, field, value, record, most_audio)
    return parts


def _field(name: str, value: np.ndarray | bytes) -> tuple[object, ...]:
    if isinstance(value, bytes):
        try:
            return name, "text", value.decode("utf-8"), "", "", ""
        except UnicodeDecodeError:
            return name, f"{len(value):,} bytes", value[:64].decode("ascii", "backslashreplace"), "", "", ""
    kind = f"{list(value.shape)} {value.dtype.name}" if value.shape else value.dtype.name
    flat = value.reshape(-1)
    first = " ".join(number(entry) for entry in flat[:_FIRST].tolist()) + (" …" if len(flat) > _FIRST else "")
    finite = flat[np.isfinite(flat)]
    if not value.shape or not len(finite):
        return name, kind, first, "", "", ""
    return name, kind, first, finite.min().item(), finite.max().item(), float(finite.mean(dtype=np.float64))


def _pictures(index: Index, name: str, field: Sequence, value: np.ndarray, record: str, most_audio: int) -> list[Html]:
    """Pictures of one sequence that has values."""
    if int(np.prod(field.dimensions, dtype=np.int64)) > 1:
        frames = value.reshape(len(value), -1)
        frames = frames[: max(1, _MAX_DRAWN // frames.shape[1])]
        what = f"{name} of {record}: {len(frames):,} frames from left to right, {frames.shape[1]:,} dimensions from bottom to top."
        return [figure(spectrogram(frames, what), what)]
    series = value.reshape(-1)[:_MAX_DRAWN]
    what = f"{name} of {record}: {len(series):,} values from left to right."
    drawn = [figure(envelope(series, what), what)]
    rate = index.sample_rate
    is_first = name == next(iter(index.schema.sequences))
    return drawn + _sound(series, rate, record, most_audio) if is_first and rate is not None and rate < 1 << 20 else drawn


def _sound(series: np.ndarray, rate: int, record: str, most_audio: int) -> list[Html]:
    """A spectrogram and a player of a waveform."""
    samples = as_samples(series)
    parts = []
    if most_audio >= 2:
        control, seconds = player(samples, rate, most_audio, f"Waveform of {record}")
        parts.append(figure(control, f"The first {number(seconds)} of {number(len(samples) / rate)} seconds, {rate:,} Hz."))
    try:
        frames = LogMel(sample_rate=rate, mels=64)(samples[: 30 * rate])
    except VlpipeError:  # NaN, or a rate that is too low for mel bands: the waveform is drawn, and the player plays what it can
        return parts
    what = f"Log-mel spectrogram of {record}, 64 bands from 0 Hz at the bottom to {rate // 2:,} Hz."
    return [figure(spectrogram(frames, what), what), *parts]
