"""Layouts of third-party TFRecord files: the position of frames, lengths, labels and texts in their records.

    vlpipe.make_dataset("data/*.tfrecord", layout=vlpipe.layouts.float_list("mel", d=80, label="class"))
    vlpipe.make_dataset("bal_train/*.tfrecord", layout="audioset")

Most layouts store the values of a frame contiguously in their final encoding, and the frames contiguously or at a constant stride. Such
records are not parsed: an index (`vlpipe.build_index`) holds the position of the frames of each record, and the engines copy them like
vlpipe's own. Values in another encoding (the varints of an Int64List, unpacked floats, encoded audio) are parsed on read, one batch per
call. Files may be compressed with GZIP or ZLIB; the stream engine reads them from the beginning. `vlpipe convert` converts any of these
files to vlpipe's own format.

`vlpipe inspect FILE` shows the content of a file, its most likely layout, and the call that reads it. Without `layout=`, a layout is used
only if it is unambiguous. A directory prepared by TensorFlow Datasets, or with a task cached by SeqIO, contains its own description, which
is used.
"""

from vlpipe.layouts.base import Frames, Layout, Listed, Number, Words
from vlpipe.layouts.published import (
    audioset,
    byte_frames,
    encoded_audio,
    float_frames,
    float_list,
    int_list,
    ragged_rows,
    raw_bytes,
    serialized_tensor,
    youtube8m,
)
from vlpipe.layouts.registry import TABLE

__all__ = [
    "TABLE",
    "Frames",
    "Layout",
    "Listed",
    "Number",
    "Words",
    "audioset",
    "byte_frames",
    "encoded_audio",
    "float_frames",
    "float_list",
    "int_list",
    "ragged_rows",
    "raw_bytes",
    "serialized_tensor",
    "youtube8m",
]


def __dir__() -> list[str]:
    return list(__all__)
