"""The types of the arguments of `make_dataset`, `batches` and `plan`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from vlpipe.planning.damage import Skip
from vlpipe.storage.paths import Opened
from vlpipe.transforms.augmentations import Augmentation
from vlpipe.transforms.crop import Crop
from vlpipe.transforms.transform import Transform
from vlpipe.transforms.windows import Windows

if TYPE_CHECKING:
    from vlpipe.layouts.base import Layout

Batching = Literal["bucket", "pad", "ragged", "same_length"]
PadTo = Literal["longest", "boundary"]
Remainder = Literal["keep", "drop", "pad"]
Shapes = Literal["any", "static"]
OutOfRange = Literal["error", "drop", "truncate"]
Engine = Literal["auto", "mapped", "graph", "stream"]
Verify = Literal["first", "always", "never"]
OnDamage = Literal["error"] | Skip
CheckFinite = Literal["error", "zero"] | None
Weights = Literal["balanced"] | Mapping[int, float]
ClassWeight = Weights | Mapping[str, Weights] | None
Classes = Sequence[str] | str | os.PathLike[str] | Opened
LabelClasses = Classes | Mapping[str, Classes] | None


class Arguments(TypedDict, total=False):
    """The arguments of `make_dataset` after the source, for type checkers."""

    batching: Batching
    batch_size: int | None
    frames_per_batch: int | None
    multiple_of: int | None
    buckets: int | Iterable[int] | None
    pad_to: PadTo
    remainder: Remainder
    shapes: Shapes
    length_range: tuple[int | None, int | None]
    out_of_range: OutOfRange
    shuffle: bool
    seed: int | None
    repeat: bool
    resume: dict[str, Any] | None
    features: str | tuple[str, ...] | None
    label: str | tuple[str, ...] | Literal[False] | None
    aligned: str | tuple[str, ...] | Literal[False] | None
    lengths: bool
    ids: bool
    label_padding: int | Mapping[str, float]
    padding_value: float | Mapping[str, float]
    class_weight: ClassWeight
    dtype: str
    crop: int | Crop | None
    windows: int | Windows | None
    transform: Callable[[Any], Any] | Transform | None
    normalize: str | os.PathLike[str] | Opened | None
    augment: Augmentation | Sequence[Augmentation] | None
    layout: str | Layout | None
    label_classes: LabelClasses
    shard: tuple[int, int]
    engine: Engine
    verify: Verify
    on_damage: OnDamage
    check_finite: CheckFinite
    num_parallel_calls: int | None
