"""How much memory the features of a batch take at most."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from vlpipe.planning.dtypes import itemsize_of
from vlpipe.planning.frame_plan import FramePlan


@dataclass(frozen=True, eq=False)
class BatchMemory:
    """The bytes of the largest batches, which come in different buckets.

    Attributes:
        frame_plan: what happens to frames between reading and padding.
        frame_bytes: bytes of a delivered frame, by feature.
        most_frames: frames of the longest record, by feature.
        longest_read: frames of the key feature in the longest piece, as it is read.
        largest: rows and frames of the largest batch of each bucket that has any.
    """

    frame_plan: FramePlan = field(repr=False)
    frame_bytes: dict[str, int]
    most_frames: dict[str, int]
    longest_read: int
    largest: list[tuple[int, int]]

    @property
    def peak_batch_bytes(self) -> int:
        """Maximum bytes of the features of a batch."""
        part, sizes = self.frame_plan.selection.part, self.frame_bytes.items()
        with_key = sum(size for name, size in sizes if part(name).with_key)
        others = sum(self.most_frames[name] * size for name, size in sizes if not part(name).with_key)
        return max((rows * (frames * with_key + others) for rows, frames in self.largest), default=0)

    def peak_bytes(self, name: str) -> int:
        """Maximum bytes of one feature in a batch."""
        own, with_key = self.most_frames[name], self.frame_plan.selection.part(name).with_key
        return max((rows * (frames if with_key else own) * self.frame_bytes[name] for rows, frames in self.largest), default=0)

    def peak_bytes_read(self, name: str) -> int:
        """Maximum bytes of one feature in a batch as it is read, before a transform."""
        plan = self.frame_plan
        frames = self.peak_bytes(name) // self.frame_bytes[name]
        is_transformed = name in plan.traced and plan.lengths is not None
        has_speeds = name == plan.selection.key and plan.options.speed is not None
        if is_transformed or has_speeds:
            longest, waveform = self.longest_read, plan.waveform(name)
            if waveform is not None:  # which may be padded to whole blocks as it is read
                longest += int(waveform.missing(np.array(longest)))
            frames = max((rows for rows, _ in self.largest), default=0) * longest
        stored = plan.index.schema.sequences[name]
        return frames * int(np.prod(stored.dimensions, dtype=np.int64)) * itemsize_of(plan.reading_dtype(name))
