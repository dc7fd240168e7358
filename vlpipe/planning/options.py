"""The arguments of `make_dataset` and `plan`, checked once and then immutable."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from vlpipe.arguments import MAX_FRAMES, Default, integer
from vlpipe.errors import ArgumentError
from vlpipe.planning.argument_checks import (
    checked_buckets,
    checked_check_finite,
    checked_names,
    checked_normalize,
    checked_range,
    checked_shard,
)
from vlpipe.planning.argument_types import (
    Batching,
    CheckFinite,
    ClassWeight,
    Engine,
    LabelClasses,
    OnDamage,
    OutOfRange,
    PadTo,
    Remainder,
    Shapes,
    Verify,
)
from vlpipe.planning.class_weights import checked_class_weight
from vlpipe.planning.damage import Skip, checked_on_damage
from vlpipe.planning.dtypes import FLOAT_DTYPES, INTEGER_DTYPES
from vlpipe.planning.paddings import checked_label_padding, checked_padding
from vlpipe.planning.static_shapes import Batched, batched
from vlpipe.sources.conditions import nearest
from vlpipe.storage.paths import Opened
from vlpipe.transforms.augmentations import Augmentation, checked_augment
from vlpipe.transforms.crop import Crop
from vlpipe.transforms.speed import SpeedPerturb
from vlpipe.transforms.transform import Transform
from vlpipe.transforms.windows import Windows

if TYPE_CHECKING:
    from vlpipe.layouts.base import Layout

DEFAULT_BATCH_SIZE = 32
MAX_BATCH_SIZE = 2**24  # TensorFlow allocates a batch before it has seen one, and the process dies if that fails
DEFAULT_DTYPE = Default("float32")  # integers that it may not hold are delivered as they are
DEFAULT_PAD_TO = cast("PadTo", Default("longest"))
DEFAULT_REMAINDER = cast("Remainder", Default("keep"))

_CHOICES = {
    "batching": get_args(Batching),
    "pad_to": get_args(PadTo),
    "remainder": get_args(Remainder),
    "shapes": get_args(Shapes),
    "out_of_range": get_args(OutOfRange),
    "engine": get_args(Engine),
    "verify": get_args(Verify),
    "dtype": FLOAT_DTYPES + INTEGER_DTYPES,
}
_FLAGS = ("shuffle", "repeat", "lengths", "ids")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments of `make_dataset`, checked; its docstring has their meaning.

    Raises:
        ArgumentError: a value is not one that the option accepts, or two options exclude each other.
    """

    batching: Batching = "bucket"
    batch_size: int | None = None
    frames_per_batch: int | None = None
    multiple_of: int | None = None  # None becomes the replicas of the strategy in scope
    buckets: int | tuple[int, ...] | None = None
    pad_to: PadTo = DEFAULT_PAD_TO
    remainder: Remainder = DEFAULT_REMAINDER
    shapes: Shapes = "any"
    length_range: tuple[int | None, int | None] = (1, None)
    out_of_range: OutOfRange = "error"
    shuffle: bool = True
    seed: int | None = None
    repeat: bool = False
    resume: dict[str, Any] | None = None
    features: str | tuple[str, ...] | None = None
    label: str | tuple[str, ...] | Literal[False] | None = None
    aligned: str | tuple[str, ...] | Literal[False] | None = None
    lengths: bool = False
    ids: bool = False
    label_padding: int | Mapping[str, float] = -1
    padding_value: float | Mapping[str, float] = 0.0
    class_weight: ClassWeight = None
    dtype: str = DEFAULT_DTYPE
    crop: Crop | None = None
    windows: Windows | None = None
    transform: Transform | None = None
    normalize: str | Opened | None = None  # "utterance", "global", an absolute path, or an open source
    augment: tuple[Augmentation, ...] | None = None
    layout: str | Layout | None = None
    label_classes: LabelClasses = None
    shard: tuple[int, int] = (0, 1)
    engine: Engine = "auto"
    verify: Verify = "first"
    on_damage: OnDamage = "error"
    check_finite: CheckFinite = None
    num_parallel_calls: int | None = None

    @classmethod
    def of(cls, **arguments: Any) -> Options:
        """The options given by keyword.

        Raises:
            ArgumentError: as the class, or a name is unknown; the message lists the known ones.
        """
        known = [entry.name for entry in dataclasses.fields(cls)]
        unknown = sorted(set(arguments) - set(known))
        if unknown:
            named = ", ".join(name + nearest(name, set(known)) for name in unknown)
            raise ArgumentError(f"unknown argument {named}; the arguments are {', '.join(known)}.")
        return cls(**arguments)

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if not isinstance(getattr(self, name), str) or getattr(self, name) not in choices:
                raise ArgumentError(f"{name}: came as {getattr(self, name)!r}, expected one of {', '.join(map(repr, choices))}.")
        for name in _FLAGS:
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise ArgumentError(f"{name}: came as {getattr(self, name)!r}, expected True or False.")
        for name, most in (("batch_size", MAX_BATCH_SIZE), ("frames_per_batch", 2**62), ("num_parallel_calls", 2**16)):
            if getattr(self, name) is not None:
                self._set(name, integer(name, getattr(self, name), 1, most))
        replicas = replicas_in_scope() if self.multiple_of is None else self.multiple_of
        self._set("multiple_of", integer("multiple_of", replicas, 1, MAX_BATCH_SIZE))
        if self.seed is not None:
            self._set("seed", integer("seed", self.seed, 0))
        self._set("label_padding", checked_label_padding(self.label_padding))
        self._set("class_weight", checked_class_weight(self.class_weight))
        self._set("buckets", checked_buckets(self.buckets))
        for name, value in batched(self.shapes, self.batching, Batched(self.pad_to, self.remainder, self.buckets))._asdict().items():
            self._set(name, value)
        self._set("on_damage", checked_on_damage(self.on_damage))
        self._set("check_finite", checked_check_finite(self.check_finite))
        self._set("length_range", checked_range(self.length_range))
        self._set("shard", checked_shard(self.shard))
        self._set("padding_value", checked_padding(self.padding_value, self.dtype))
        self._set("features", checked_names("features", self.features))
        for name in ("label", "aligned"):
            if getattr(self, name) is not False:
                self._set(name, checked_names(name, getattr(self, name)))
        self._check_transforms()
        self._check_together()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_transforms(self) -> None:
        """The arguments that change frames."""
        if self.crop is not None and not isinstance(self.crop, Crop):
            self._set("crop", Crop(integer("crop", self.crop, 1, MAX_FRAMES)))
        if self.windows is not None and not isinstance(self.windows, Windows):
            expected = "a number of frames, or a vlpipe.Windows(...)"
            self._set("windows", Windows(integer("windows", self.windows, 1, MAX_FRAMES, expected=expected)))
        if self.transform is not None and not isinstance(self.transform, Transform):
            self._set("transform", Transform(self.transform))
        if self.transform is not None and self.transform.features is not None and self.dtype in INTEGER_DTYPES:
            kind = type(self.transform.features).__name__
            raise ArgumentError(f'transform: {kind} computes fractions, which dtype={self.dtype!r} cannot hold. Use dtype="float32".')
        self._set("normalize", checked_normalize(self.normalize))
        self._set("augment", checked_augment(self.augment))
        fractions = any(augment.makes_fractions for augment in self.augment or ())
        if self.dtype in INTEGER_DTYPES and (self.normalize is not None or fractions):
            name = "normalize" if self.normalize is not None else "augment"
            raise ArgumentError(f'{name}: results are fractions, which dtype={self.dtype!r} cannot hold. Use dtype="float32".')

    def _check_together(self) -> None:
        if self.buckets is not None and self.batching != "bucket":
            raise ArgumentError(f'buckets: only batching="bucket" has buckets, but batching is {self.batching!r}. Leave buckets out.')
        if self.pad_to == "boundary" and self.batching in ("ragged", "same_length"):
            raise ArgumentError(f'pad_to="boundary": batching={self.batching!r} does not pad. Leave pad_to out, or use "bucket" or "pad".')
        if self.windows is not None and self.crop is not None:
            raise ArgumentError(f"windows: {self.windows!r} limits the frames already; leave crop={self.crop.frames} out, or windows.")
        if self.windows is not None and self.windows.tail == "pad" and self.batching == "ragged":
            raise ArgumentError('windows: batching="ragged" does not pad, but tail is "pad". Use tail="keep", or another batching.')
        if self.shard[1] > 1 and self.remainder == "keep":
            raise ArgumentError(
                f'shard={self.shard}: with remainder="keep" the ranks would have different numbers of steps. Use remainder="pad" (short '
                'batches are completed by repeated rows of weight 0) or remainder="drop" (left-out records are counted).'
            )
        if self.skips and self.verify == "never":
            raise ArgumentError(f'on_damage: verify="never" looks for no damage, so {self.on_damage!r} finds none. Use verify="first".')
        if self.skips and self.remainder != "pad" and (self.multiple_of or 1) > 1:
            raise ArgumentError(
                f"on_damage: a batch without its damaged records is no multiple of {self.multiple_of} (multiple_of, or the replicas of the "
                'strategy). Pass remainder="pad", which repeats rows with weight 0 in their place.'
            )
        if self.windows is not None and self.speed is not None:
            raise ArgumentError(
                "windows: SpeedPerturb would make windows of different lengths. Leave one out, or pass crop=vlpipe.Crop(..., random=True), "
                "which need not be of one length."
            )
        if self.resume is not None and not self.repeat:
            raise ArgumentError("resume: needs repeat=True, an endless run of epochs that can start at any batch.")
        if self.resume is not None and self.seed is None and self.is_random:
            raise ArgumentError("resume: needs the seed of the run that it continues. Pass seed=...")

    @property
    def label_lengths(self) -> bool:
        """Whether the true lengths of labels are needed, to be delivered or to weigh no padding."""
        return self.lengths or self.class_weight is not None

    @property
    def needs_ids(self) -> bool:
        """Whether batches have the ids of their records, to be delivered or to be named in an error."""
        return self.ids or self.check_finite is not None

    @property
    def skips(self) -> bool:
        """Whether damaged records are left out."""
        return isinstance(self.on_damage, Skip)

    @property
    def is_random(self) -> bool:
        """Whether the delivered batches depend on the seed."""
        moved = (self.crop and self.crop.random) or (self.windows and self.windows.jitter)
        return bool(self.shuffle or self.augment or moved)

    @property
    def speed(self) -> SpeedPerturb | None:
        """The augmentation that makes copies of the pieces; None where each piece comes once."""
        return next((augment for augment in self.augment or () if isinstance(augment, SpeedPerturb)), None)

    @property
    def speeds(self) -> int:
        """At how many speeds each piece comes in an epoch."""
        return 1 if self.speed is None else len(self.speed.factors)

    @property
    def has_transforms(self) -> bool:
        """Whether frames are changed between reading and padding (a crop only leaves frames out)."""
        return bool(self.transform or self.normalize is not None or self.augment)

    @property
    def truncation(self) -> int | None:
        """Frames that `length_range` truncates the key feature to; None where it does not."""
        return self.length_range[1] if self.out_of_range == "truncate" else None

    @property
    def batch_cap(self) -> int | None:
        """Maximum sequences in a batch; None where only the budget of frames limits it."""
        if self.batch_size is not None or self.frames_per_batch is not None:
            return self.batch_size
        return DEFAULT_BATCH_SIZE

    def batch_size_for(self, frames: int) -> int:
        """Sequences in a batch that is padded to `frames` frames: `batch_cap`, or fewer to stay within the budget of frames.

        A multiple of `multiple_of`: at least that many, whatever the others say.
        """
        sizes = [MAX_BATCH_SIZE if self.batch_cap is None else self.batch_cap]
        if self.frames_per_batch is not None:
            sizes.append(max(1, self.frames_per_batch // max(1, frames)))
        size, multiple = min(sizes), self.multiple_of or 1
        return max(multiple, size - size % multiple)


def replicas_in_scope() -> int:
    """Replicas of the `tf.distribute` strategy in scope; 1 without one. A process that has not loaded TensorFlow has none."""
    tensorflow = sys.modules.get("tensorflow")
    return int(tensorflow.distribute.get_strategy().num_replicas_in_sync) if tensorflow is not None else 1


def default_parallelism(options: Options, per_core: int = 1) -> int:
    """Batches or records that are made in parallel: as the user says, or by the number of cores."""
    return options.num_parallel_calls or max(1, min(8, per_core * (os.cpu_count() or 1)))
