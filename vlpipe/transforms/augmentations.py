"""The argument `augment`: one augmentation or several, each at its own stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from vlpipe.audio.augment import Augment
from vlpipe.audio.features import Feature
from vlpipe.errors import ArgumentError
from vlpipe.transforms.augment import SpecAugment
from vlpipe.transforms.mixup import Mixup
from vlpipe.transforms.noise import AddNoise
from vlpipe.transforms.speed import SpeedPerturb
from vlpipe.transforms.transform import Transform
from vlpipe.transforms.waveforms import Gain, TimeShift

# Each has a `stage`, which says what it changes: the "samples" of a waveform, before `transform`; the "features", after `normalize`; or a
# "batch", after these; the number of random `draws` for each sequence; and whether it `makes_fractions` of integers.
Augmentation = Gain | TimeShift | SpeedPerturb | AddNoise | Augment | SpecAugment | Mixup
STAGES = ("samples", "features", "batch")


def checked_augment(augment: Any) -> tuple[Augmentation, ...] | None:
    """The augmentations in the order in which they are applied: by stage, and within a stage as they came; None without any.

    Raises:
        ArgumentError: it is neither an augmentation nor a list of them.
    """
    if augment is None:
        return None
    several = tuple(augment) if isinstance(augment, Sequence) and not isinstance(augment, (str, bytes)) else (augment,)
    kinds = get_args(Augmentation)
    for entry in several:
        if not isinstance(entry, kinds):
            if isinstance(entry, type) and issubclass(entry, kinds):
                raise ArgumentError(f"augment: came as the class {entry.__name__}, expected an object. Call it: {entry.__name__}(...).")
            if isinstance(entry, (Feature, Transform)):
                raise ArgumentError(f"augment: came as {entry!r:.100}, which is a transform. Pass transform=..., beside augment=[...].")
            names = ", ".join(f"vlpipe.{'audio.' if kind is Augment else ''}{kind.__name__}(...)" for kind in kinds)
            raise ArgumentError(f"augment: came as {entry!r:.200}, expected one of {names}, a list of these, or None.")
    if len(of_stage(several, "batch")) > 1:
        raise ArgumentError(f"augment: has {len(of_stage(several, 'batch'))} vlpipe.Mixup, expected one. Use one with a greater alpha.")
    if sum(isinstance(entry, SpeedPerturb) for entry in several) > 1:
        raise ArgumentError("augment: has several vlpipe.SpeedPerturb, expected one. Give one all the factors.")
    return tuple(sorted(several, key=lambda entry: STAGES.index(entry.stage))) or None


def of_stage(augments: tuple[Augmentation, ...] | None, stage: str) -> list[tuple[int, Any]]:
    """The augmentations of a stage, with their positions among all."""
    return [(position, augment) for position, augment in enumerate(augments or ()) if augment.stage == stage]


def python_in(augments: tuple[Augmentation, ...] | None) -> Augment | None:
    """The first augmentation that calls Python, which a pure graph cannot."""
    return next((augment for augment in augments or () if isinstance(augment, Augment)), None)


def identity_of(augments: tuple[Augmentation, ...] | None, batch_size: int | None, world: int) -> str | None:
    """What of the augmentations decides what is delivered, for a resume state."""

    def identity(augment: Augmentation) -> str:
        if isinstance(augment, Mixup):  # partners come from the batch of a rank
            return f"Mixup({augment.values}, batch_size={batch_size}, world={world})"
        return augment.identity if isinstance(augment, AddNoise) else repr(augment)

    return None if augments is None else ", ".join(map(identity, augments))
