"""What a source shows of itself: `repr` and HTML of a `RecordSet`, from the index alone."""

from __future__ import annotations

import numpy as np

from vlpipe.errors import counted, shortened
from vlpipe.sources.mix import MAX_LETTERS
from vlpipe.sources.table import SECONDS, Table, listed
from vlpipe.storage.index import Index
from vlpipe.storage.schema import kind_in_words
from vlpipe.text_tables import MAX_ROWS


def overview(index: Index, selected: str) -> list[tuple[str, str]]:
    """What a person wants to know of a source first, each with its name.

    Args:
        selected: how its records were selected; "" where all are there.
    """
    table = Table(index)
    of = f" of {len(index.whole):,}" if len(index.whole) != len(index) else ""
    rows = [("records", f"{len(index):,}{of} in {counted(len(index.shards), 'file')}")]
    rows += [("selected", shortened(selected, MAX_LETTERS))] if selected else []
    for name in index.counted:
        frames = index.frames(name)
        lengths = f", T from {frames.min():,} to {frames.max():,}" if len(frames) else ""
        rows.append((name, f"{kind_in_words(index.schema.sequences[name])}{lengths}"))
    parts = [] if index.mixture is None else list(index.mixture.counts_by_name().items())
    rows += [("part", f"{name}: {count:,} an epoch") for name, count in parts[:MAX_ROWS]]
    rows += [("parts", f"and {len(parts) - MAX_ROWS:,} more")] if len(parts) > MAX_ROWS else []
    rows += [(name, _field_in_words(index, name)) for name in index.schema.fields if name not in index.counted]
    if SECONDS in table:
        rows.insert(1, ("hours", f"{table[SECONDS].sum() / 3600:,.2f}"))
    return rows


def _field_in_words(index: Index, name: str) -> str:
    if name in index.texts:
        used = index.texts[name][np.unique(index.codes(name))]
        return f"text, {len(used):,} different: {listed(used)}"
    return kind_in_words(index.schema.fields[name])
