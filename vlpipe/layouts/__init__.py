"""Layouts of TFRecord files that vlpipe did not write: where frames, lengths, labels and texts stand in their records.

    vlpipe.make_dataset("data/*.tfrecord", layout=vlpipe.layouts.float_list("mel", d=80, label="class"))
    vlpipe.make_dataset("bal_train/*.tfrecord", layout="audioset")

Most of these have the values of a frame next to each other as they are delivered, and the frames next to each other or at equal steps:
nothing is parsed, an index (`vlpipe.build_index`) says where each record's frames are, and the engines copy them like vlpipe's own. What
stands in another form (the varints of an Int64List, floats that are not packed, encoded audio) is parsed on read, a batch in one call.
Files may be compressed with GZIP or ZLIB: they are read from the beginning, by the stream engine. `vlpipe convert` makes vlpipe's own
format of any of these.

`vlpipe inspect FILE` shows what is in a file, which layout it seems to have, and how to ask for it. Without `layout=`, one is taken only if
it leaves no doubt. A directory that TensorFlow Datasets prepared, or in which SeqIO cached a task, has its own description, which is read.
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
