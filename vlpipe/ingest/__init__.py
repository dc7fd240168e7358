"""From a folder of recordings to datasets: what `vlpipe ingest` does.

Files are decoded and turned into features by several processes and written in the order of their paths, so that the
datasets are the same whatever the number of processes. All of them are committed in the end, or none.
"""

from vlpipe.ingest.conversion import IngestError, Summary, Totals, ingest
from vlpipe.ingest.recordings import (
    EXTENSIONS,
    Recording,
    find_recordings,
    label_by_parent,
    label_by_regex,
    parse_splits,
    read_manifest,
    split_of,
)

__all__ = [
    "EXTENSIONS",
    "IngestError",
    "Recording",
    "Summary",
    "Totals",
    "find_recordings",
    "ingest",
    "label_by_parent",
    "label_by_regex",
    "parse_splits",
    "read_manifest",
    "split_of",
]
