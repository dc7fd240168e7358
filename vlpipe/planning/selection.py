"""Which fields of the schema are delivered: features, labels, and the names that they get."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from vlpipe.errors import SchemaError
from vlpipe.planning.options import INTEGER_DTYPES, Options
from vlpipe.planning.paddings import Paddings, Part, label_dtype, paddings
from vlpipe.storage.index import Index
from vlpipe.storage.schema import Fixed, Schema, Sequence, Text


@dataclass(frozen=True)
class FramePart:
    """A part of a batch that is a sequence in each record: a feature, or a label of varying length.

    Attributes:
        flat: its name in a flat batch, such as "x:features" or "y:label".
        name: of the field.
        with_key: the same frames of it are read as of the key feature, and it is padded to the same T: it is the key feature, or aligned.
    """

    flat: str
    name: str
    with_key: bool

    @property
    def is_feature(self) -> bool:
        """Whether it is a feature, not a label."""
        return self.flat.startswith("x:")


@dataclass(frozen=True)
class Selection:
    """The fields of the schema that are delivered.

    Attributes:
        features: names of the sequences; the first is the key feature.
        labels: names of the labels; without any, elements are `(x,)`.
        single_feature: x is an array, not a dict.
        single_label: y is an array, not a dict.
        paddings: what each of them is padded with.
        aligned: names of the further features and labels that have one value for each frame of the key feature.
    """

    features: tuple[str, ...]
    labels: tuple[str, ...]
    single_feature: bool
    single_label: bool
    paddings: Paddings
    aligned: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The key feature: its length decides about buckets and batches."""
        return self.features[0]

    def part(self, name: str) -> FramePart:
        """The part of a sequence that is delivered."""
        return FramePart(f"{'x' if name in self.features else 'y'}:{name}", name, name == self.key or name in self.aligned)

    @property
    def frame_parts(self) -> tuple[FramePart, ...]:
        """The parts that are read, transformed and padded frame by frame: the features, and the labels that are aligned."""
        return tuple(self.part(name) for name in (*self.features, *self.labels) if name in self.features or name in self.aligned)


def select(schema: Schema, options: Options, label: str | None = None) -> Selection:
    """The fields that the options select.

    Args:
        label: the default label, if the options name none.

    Raises:
        SchemaError: a name is not in the schema or has the wrong kind, or the options name none and several fields are candidates.
        ArgumentError: a padding has the name of a field that is not delivered, or a value that its dtype cannot hold.
    """
    features, labels = options.features, options.label
    if features is None:
        features = only_candidate(
            "features", schema, [name for name, entry in schema.sequences.items() if entry.dimensions and not entry.aligned]
        )
        if features is None:
            features = only_candidate(
                "features", schema, [name for name, entry in schema.sequences.items() if name != label and not entry.aligned]
            )
    if labels is None:
        taken = (features,) if isinstance(features, str) else features or ()
        rest = [name for name in schema.fields if name not in taken]
        labels = label if label in rest else "label" if "label" in rest else None
    if labels is None:
        labels = only_candidate("label", schema, [name for name in rest if isinstance(schema.fields[name], Fixed)])
        if labels is None:
            numbers = [name for name in rest if name in schema.sequences and not schema.sequences[name].dimensions]
            labels = only_candidate("label", schema, numbers)
    names = (features,) if isinstance(features, str) else tuple(features or ())
    label_names = () if labels is None or labels is False else (labels,) if isinstance(labels, str) else tuple(labels)
    for option, option_names in (("features", names), ("label", label_names)):
        for name in option_names:
            if name not in schema.fields:
                raise SchemaError(f'{option}: the schema has no field "{name}"; its fields are {list(schema.fields)}.')
    for name in names:
        if not isinstance(schema.fields[name], Sequence):
            raise SchemaError(f'features: "{name}" is {schema.fields[name]!r}, expected a Sequence; deliver it as label="{name}".')
        _check_dtype(name, schema.sequences[name], options.dtype)
    selection = Selection(
        names, label_names, not isinstance(features, tuple), isinstance(labels, str), _paddings(schema, names, label_names, options)
    )
    _check_collisions(schema, selection, options)
    return selection


def selection_of(index: Index, options: Options) -> Selection:
    """The fields of a source that the options select.

    Raises:
        SchemaError: as `select`; or the parts of a mix have different schemas and would deliver different fields.
    """
    if index.written:
        places = {schema: os.path.dirname(shard.path) for schema, shard in reversed(list(zip(index.written, index.shards, strict=True)))}
        delivered = {place: _delivered(schema, options, index.label) for schema, place in reversed(places.items())}
        if len(set(delivered.values())) > 1:
            each = "; ".join(f"{place}: {fields}" for place, fields in delivered.items())
            raise SchemaError(f"mix: the sources differ in what they deliver: {each}. Name fields that all have alike (features=, label=).")
    return select(index.schema, options, index.label)


def _delivered(schema: Schema, options: Options, label: str | None) -> str:
    """What a schema delivers, for people."""
    try:
        selection = select(schema, options, label)
    except SchemaError as error:
        return str(error)
    return ", ".join(f"{name}={schema.fields[name]!r}" for name in (*selection.features, *selection.labels))


def _paddings(schema: Schema, features: tuple[str, ...], labels: tuple[str, ...], options: Options) -> Paddings:
    parts = {f"x:{name}": Part(name, "padding_value", options.dtype) for name in features}
    for name in labels:
        field = schema.fields[name]
        dtype = label_dtype(field) if isinstance(field, Sequence) else "string" if isinstance(field, Text) else field.dtype
        parts[f"y:{name}"] = Part(name, "label_padding", dtype, varies=isinstance(field, Sequence))
    return paddings(parts, padding_value=options.padding_value, label_padding=options.label_padding)


def only_candidate(option: str, schema: Schema, candidates: list[str]) -> str | None:
    """The candidate with the name of the option, else the only candidate; None if there is none."""
    if option in candidates:
        return option
    if len(candidates) > 1:
        raise SchemaError(f"{option}: the candidates are {candidates}, the schema is {schema}. Name one: {option}={candidates[0]!r}.")
    return candidates[0] if candidates else None


def _check_dtype(name: str, entry: Sequence, dtype: str) -> None:
    if dtype in INTEGER_DTYPES and not np.can_cast(entry.dtype, dtype, "safe"):
        raise SchemaError(f'dtype={dtype!r}: "{name}" is stored as {entry.dtype}, which would change. Use a wider dtype, or a float.')


def _check_collisions(schema: Schema, selection: Selection, options: Options) -> None:
    """With several features, fields, lengths and ids share one dict: their names must differ."""
    added: list[str] = []
    if options.lengths:
        added += ["lengths"] if selection.single_feature else [f"{name}_lengths" for name in selection.features]
        lists = [name for name in selection.labels if isinstance(schema.fields[name], Sequence)]
        added += ["label_lengths" for _ in lists] if selection.single_label else [f"{name}_lengths" for name in lists]
    added += ["id"] if options.ids else []
    added += ["start"] if options.ids and options.windows is not None else []
    names = [*added, *(["features"] if selection.single_feature else selection.features)]
    both = sorted({name for name in names if names.count(name) > 1})
    overlap = sorted(set(selection.features) & set(selection.labels))
    if both:
        raise SchemaError(f"features: {both} name fields, and also entries that lengths=True or ids=True adds. Rename the fields.")
    if overlap:
        raise SchemaError(f"label: {overlap} is also among the features. Name each field once.")
