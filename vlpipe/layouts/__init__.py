"""Layouts of TFRecord files that vlpipe did not write: where frames, lengths, labels and texts stand in their records.

    vlpipe.make_dataset("data/*.tfrecord", layout=vlpipe.layouts.float_list("mel", d=80, label="class"))
    vlpipe.make_dataset("bal_train/*.tfrecord", layout="audioset")

What can be read is what stands on the wire as it is delivered: the values of a frame next to each other, and the frames next to each
other or at equal steps. Nothing is copied or converted; an index (`vlpipe.build_index`) says where each record's frames are, and the
engines read them like vlpipe's own. Not read: integers as varints (Int64List), floats that are not packed, encoded audio, compressed files.

`vlpipe inspect FILE` shows what is in a file, which layout it seems to have, and how to ask for it. Without `layout=`, one is taken only if
it leaves no doubt. A directory that TensorFlow Datasets prepared has its own description, which is read.
"""

from vlpipe.layouts.base import Frames, Layout, Listed, Number, Words
from vlpipe.layouts.published import audioset, byte_frames, float_frames, float_list, ragged_rows, raw_bytes, serialized_tensor, youtube8m
from vlpipe.layouts.table import TABLE

__all__ = [
    "TABLE",
    "Frames",
    "Layout",
    "Listed",
    "Number",
    "Words",
    "audioset",
    "byte_frames",
    "float_frames",
    "float_list",
    "ragged_rows",
    "raw_bytes",
    "serialized_tensor",
    "youtube8m",
]
