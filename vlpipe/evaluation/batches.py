"""The batches that a model is run on: of a source, each record once, or those of a dataset of the user's."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from vlpipe.dataset import batches_of
from vlpipe.errors import ArgumentError
from vlpipe.planning.begin_run import with_seed
from vlpipe.planning.make_plan import make_plan
from vlpipe.planning.options import Options
from vlpipe.planning.plan import Plan
from vlpipe.sources.open import open_anywhere
from vlpipe.storage.index import Index
from vlpipe.storage.paths import Source
from vlpipe.text_tables import progress_bar

# What would deliver a record twice, never, or in another place than the result says.
_REFUSED: dict[str, tuple[Any, str]] = {
    "shuffle": (False, "the order of the result is that of the source"),
    "repeat": (False, "each record is taken once, not again and again"),
    "on_damage": ("error", "a record that is left out has no answer. Leave it out before: source.select(without=vlpipe.verify(source))"),
    "resume": (None, "each record is taken, from the first on"),
    "remainder": ("keep", 'repeated rows ("pad") would count twice, left-out ones ("drop") not at all'),
    "shard": ((0, 1), "a rank would take only its own records: select them, or run on one rank"),
}


@dataclass(frozen=True)
class Batch:
    """One batch, with the true lengths in it.

    Attributes:
        x: as `make_dataset` delivers it with the arguments of the user, or the user's dataset.
        features: the features by name.
        parts: all that a model may take by key: the features, their lengths, the ids.
        frames: int64 `[B]`, the true lengths by feature; only those that are known.
        y: the labels, NumPy; None without.
        label_frames: int64 `[B]`, the true lengths of labels that are sequences, by name ("label" for a single one).
        weight: the sample weights, NumPy, as Keras takes them; None without.
        starts: int64 `[B]`, the first frame of each window; None without windows.
        ids: int64 `[B]`; None where the dataset does not deliver them.
        is_real: bool `[B]`: not a row that only completes the batch.
    """

    x: Any
    features: dict[str, Any]
    parts: dict[str, Any]
    frames: dict[str, np.ndarray]
    y: Any
    label_frames: dict[str, np.ndarray]
    weight: Any
    starts: np.ndarray | None
    ids: np.ndarray | None
    is_real: np.ndarray

    @property
    def rows(self) -> int:
        """Records in the batch."""
        return len(self.is_real)

    @property
    def is_unpadded(self) -> bool:
        """Whether all sequences of each feature have the same length, known to be that of the batch."""
        return self.features.keys() == self.frames.keys() and all(
            not isinstance(x, tf.RaggedTensor) and bool((self.frames[name] == x.shape[1]).all()) for name, x in self.features.items()
        )


def plan_of(source: Source, arguments: dict[str, Any], *, exact: bool) -> tuple[Options, Plan]:
    """The options of the user, and the plan that delivers every record of a source once, with lengths and ids.

    Args:
        arguments: of `make_dataset`.
        exact: padding does not change the answers of the model; otherwise the default is batches without padding.

    Raises:
        ArgumentError: an argument would deliver a record twice or not at all.
    """
    if isinstance(source, tf.data.Dataset):
        raise ArgumentError(
            "predict: came with a tf.data.Dataset, expected a source, such as a directory: only its index knows every record and their "
            "order. Pass the source and the arguments of make_dataset."
        )
    for name, (expected, reason) in _REFUSED.items():
        if arguments.get(name, expected) not in (expected, list(expected) if isinstance(expected, tuple) else expected):
            raise ArgumentError(f"{name}: came as {arguments[name]!r}, which predict and evaluate cannot follow: {reason}. Leave it out.")
    arguments = arguments if exact or padding_of(arguments) else _unpadded(arguments)
    options = with_seed(_options({"multiple_of": 1, **arguments, "shuffle": False}))
    index = open_anywhere(source, options.layout, options.label_classes, options.label)
    return options, make_plan(_once(index), dataclasses.replace(options, lengths=True, ids=True))


def padding_of(arguments: dict[str, Any]) -> list[str]:
    """The arguments by which the user chose batches that may be padded; a None chooses nothing."""
    chosen = [name for name in ("batching", "pad_to", "buckets") if arguments.get(name) is not None]
    return chosen if arguments.get("shapes", "any") == "any" else [*chosen, "shapes"]


def _options(arguments: dict[str, Any]) -> Options:
    """The options; with shapes="static", short last batches stay short, so that no record comes twice."""
    if arguments.get("shapes", "any") == "any":
        return Options.of(**arguments)
    static = Options.of(**{name: value for name, value in arguments.items() if name != "remainder"})
    return dataclasses.replace(static, shapes="any", remainder="keep")


def _unpadded(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments for batches without padding: of equal lengths, or of several features, which differ where the first does not, alone."""
    features = arguments.get("features")
    if isinstance(features, (tuple, list)) and len(features) > 1:
        return {**arguments, "batch_size": 1, "frames_per_batch": None}
    return {**arguments, "batching": "same_length"}


def _once(index: Index) -> Index:
    """Each record of an index once: of a mix without its weights, also where several of its parts have it."""
    if index.mixture is None:
        return index
    _, first = np.unique(index.ids, return_index=True)
    return dataclasses.replace(index.take(np.sort(first)) if len(first) < len(index) else index, mixture=None)


def with_progress(what: str, batches: Iterable[Batch], total: int) -> Generator[Batch, None, None]:
    """Yield batches, and show on a terminal how many the consumer has done.

    Args:
        what: the consumer does, such as "predicting".
        total: the number of batches; negative: unknown, and nothing is shown.
    """
    with progress_bar(what, "batches", after=2) as show:
        for done, batch in enumerate(batches):
            if total > 0:
                show(done, total)
            yield batch


def of_plan(plan: Plan, options: Options) -> Iterator[Batch]:
    """The batches of a plan."""
    names, single = plan.selection.features, plan.selection.single_feature
    dataset = batches_of(plan)  # held while it is iterated over
    for x, *rest in dataset:
        features = {name: x["features" if single else name] for name in names}
        frames = {name: x["lengths" if single else f"{name}_lengths"] for name in names}
        lengths = {key for key in x if key.endswith("lengths")} - set(names)
        labels = {key.removesuffix("_lengths"): x[key] for key in lengths if key.removesuffix("_lengths") not in (*names, "lengths")}
        requested = set(x) - (set() if options.lengths else lengths) - (set() if options.ids else {"id", "start", "partner"})
        y, label_frames, weight = _labels(rest, labels)
        yield Batch(
            x=x["features"] if requested == {"features"} and single else {key: x[key] for key in x if key in requested},
            features=features,
            parts={**x, **features},
            frames={name: np.asarray(value, np.int64) for name, value in frames.items()},
            y=y,
            label_frames=label_frames,
            weight=weight,
            starts=np.asarray(x["start"]) if "start" in x else None,
            ids=np.asarray(x["id"]),
            is_real=np.ones(len(x["id"]), bool),
        )


def of_dataset(dataset: tf.data.Dataset) -> Iterator[Batch]:
    """The batches of a dataset of `x`, `(x, y)` or `(x, y, sample_weight)`.

    Raises:
        ArgumentError: it never ends.
    """
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ArgumentError("evaluate: the dataset never ends. Make it with repeat=False, or pass dataset.take(steps).")
    for element in dataset:
        x, *rest = element if isinstance(element, tuple) else (element,)
        parts = x if isinstance(x, dict) else {"features": x}
        known = {key.removesuffix("_lengths"): value for key, value in parts.items() if key.endswith("_lengths")}
        labels = [name for name in known if name not in parts]
        companions = {"id", "lengths", *(f"{name}_lengths" for name in known)}
        if "id" in parts and "start" in parts and parts["start"].shape.rank == 1:  # of windows; a feature has frames
            companions.add("start")
        features = {key: value for key, value in parts.items() if key not in companions}
        frames = {name: known[name] for name in known if name in features}
        if "lengths" in parts:
            frames |= dict.fromkeys(["features"] if "features" in features else features, parts["lengths"])
        frames |= {name: value.row_lengths() for name, value in features.items() if isinstance(value, tf.RaggedTensor)}
        y, label_frames, weight = _labels(rest, {name: known[name] for name in labels})
        yield Batch(
            x=x,
            features=features,
            parts=dict(parts),
            frames={name: np.asarray(value, np.int64) for name, value in frames.items()},
            y=y,
            label_frames=label_frames,
            weight=weight,
            starts=None,
            ids=np.asarray(parts["id"]) if "id" in parts else None,
            is_real=_real_rows(weight, next(iter(features.values()))),
        )


def _real_rows(weight: Any, feature: Any) -> np.ndarray:
    """Which rows have a weight: remainder="pad" completes a batch by rows without."""
    rows = int(feature.nrows()) if isinstance(feature, tf.RaggedTensor) else feature.shape[0]
    weights = [] if weight is None else tf.nest.flatten(weight)
    return np.any([part.reshape(rows, -1).any(axis=1) for part in weights] or [np.ones(rows, bool)], axis=0)


def _labels(rest: list[Any], lengths: dict[str, Any]) -> tuple[Any, dict[str, np.ndarray], Any]:
    """The labels, the lengths of those that are sequences, and the weights, in NumPy."""
    y, weight = (None if part is None else tf.nest.map_structure(_dense, part) for part in (*rest, None, None)[:2])
    return y, {name: np.asarray(value, np.int64) for name, value in lengths.items()}, weight


def _dense(part: Any) -> np.ndarray:
    return np.asarray(part.to_tensor() if isinstance(part, tf.RaggedTensor) else part)
