"""How the frames of a sequence are stored in their records, and how their bytes become values again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlpipe.audio.channels import Channels
from vlpipe.storage.schema import Sequence


@dataclass(frozen=True)
class Stored:
    """How the frames of a sequence are stored in the records of third-party files; the defaults describe vlpipe's own.

    Attributes:
        gap: bytes before each frame that do not belong to it.
        byteorder: "little" or "big".
        scale: the stored bytes q are delivered as `q * scale[0] + scale[1]`, in float32; None: unchanged.
        parsed: the encoding of values whose bytes cannot simply be copied: "integers" (varints), "floats" (perhaps not packed), "audio"
            (the bytes of an audio file), "given" (returned by the user's function); "" where they can. The index does not know where
            parsed values begin.
        channels: those of an audio file that are delivered: "mix", "first" or "all".
    """

    gap: int = 0
    byteorder: str = "little"
    scale: tuple[float, float] | None = None
    parsed: str = ""
    channels: Channels = "mix"

    def table(self, dtype: np.dtype) -> np.ndarray | None:
        """The delivered value of each stored byte, `[256]`; None where values are delivered unchanged."""
        if self.scale is None:
            return None
        return (np.arange(256, dtype=np.float32) * np.float32(self.scale[0]) + np.float32(self.scale[1])).astype(dtype)

    def stride(self, field: Sequence) -> int:
        """Bytes from one frame to the next."""
        return self.gap + field.frame_bytes


class FrameDecoder:
    """Turns the stored bytes of frames into values, for a batch of the mapped engine and for a single record alike.

    Args:
        field: the sequence, as the schema has it.
        stored: how its frames are stored.
        dtype: of the values that are delivered.

    Attributes:
        stride: bytes from one frame to the next.
        is_copy: the stored bytes are the values, so that they need only be copied.
    """

    def __init__(self, field: Sequence, stored: Stored, dtype: np.dtype) -> None:
        self._stored_dtype = np.dtype(field.dtype).newbyteorder("<" if stored.byteorder == "little" else ">")
        self._gap, self._table = stored.gap, stored.table(dtype)
        self._frame_values = math.prod(field.dimensions)
        self.stride = stored.stride(field)
        self.is_copy = self._stored_dtype == dtype and not self._gap and self._table is None

    def begins(self, starts: Any) -> Any:
        """Where to read from, for frames that start at these bytes (an int or an array): from the gap before the first of them."""
        return np.maximum(starts - self._gap, 0) if self._gap else starts  # a record without frames starts nowhere

    def values(self, raw: np.ndarray) -> np.ndarray:
        """The values of whole frames, `[frames * values of a frame]`, in the stored dtype or that of the table.

        Args:
            raw: uint8, `stride` bytes for each frame.
        """
        if self._gap:
            raw = np.ascontiguousarray(raw.reshape(-1, self.stride)[:, self._gap :]).reshape(-1)
        return raw.view(self._stored_dtype) if self._table is None else self._table[raw]
