"""Turn a folder of recordings into datasets: the work of `vlpipe ingest`.

Several processes decode the files and compute features. Records are written in the order of the paths, so that the datasets do
not depend on the number of processes. All datasets are committed at the end, or none.
"""

from vlpipe.ingest.conversion import IngestError, IngestResult, Totals, ingest
from vlpipe.ingest.manifest import read_manifest
from vlpipe.ingest.recordings import (
    EXTENSIONS,
    Recording,
    find_recordings,
    label_by_parent,
    label_by_regex,
    parse_splits,
    split_of,
)
from vlpipe.ingest.waveform import Waveform
from vlpipe.sources.class_list import read_classes

__all__ = [
    "EXTENSIONS",
    "IngestError",
    "IngestResult",
    "Recording",
    "Totals",
    "Waveform",
    "find_recordings",
    "ingest",
    "label_by_parent",
    "label_by_regex",
    "parse_splits",
    "read_classes",
    "read_manifest",
    "split_of",
]
