"""Which fields of the schema are delivered: features, labels, and the names that they get."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vlpipe.arguments import Default
from vlpipe.errors import SchemaError
from vlpipe.layouts.label_evidence import counts_up, is_bookkeeping_name, is_label_name, is_no_label
from vlpipe.planning.conversions import is_wide
from vlpipe.planning.dtypes import INTEGER_DTYPES
from vlpipe.planning.options import Options
from vlpipe.planning.paddings import Paddings, Part, label_dtype, paddings
from vlpipe.storage.field_access import Location
from vlpipe.storage.index import Index
from vlpipe.storage.schema import Fixed, Schema, Sequence, Text
from vlpipe.transforms.augmentations import of_stage

_log = logging.getLogger("vlpipe")


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
        dtypes: in which each feature is delivered.
        paddings: what each of them is padded with.
        aligned: names of the further features and labels that have one value for each frame of the key feature.
    """

    features: tuple[str, ...]
    labels: tuple[str, ...]
    single_feature: bool
    single_label: bool
    dtypes: Mapping[str, str]
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


def select(schema: Schema, options: Options, label: str | None = None, *, index: Index | None = None) -> Selection:
    """The fields that the options select.

    Args:
        label: the default label, if the options name none.
        index: of the source: it says which sequences are features if the options name none, and what speaks against a label.

    Raises:
        SchemaError: a name is not in the schema or has the wrong kind, or the options name none and several fields are candidates.
        ArgumentError: a padding has the name of a field that is not delivered, or a value that its dtype cannot hold.
    """
    features, labels = options.features, options.label
    if features is None:
        default = None if index is None else index.default_features
        sequences = schema.sequences if default is None else {name: schema.sequences[name] for name in default}
        sequences = {name: entry for name, entry in sequences.items() if not entry.aligned}
        features = only_candidate("features", schema, [name for name, entry in sequences.items() if entry.dimensions])
        if features is None:
            features = only_candidate("features", schema, [name for name in sequences if name != label])
    if labels is None:
        taken = (features,) if isinstance(features, str) else features or ()
        rest = [name for name in schema.fields if name not in taken]
        labels = label if label in rest else only_label(schema, rest, index)
    names = (features,) if isinstance(features, str) else tuple(features or ())
    label_names = () if labels is None or labels is False else (labels,) if isinstance(labels, str) else tuple(labels)
    for option, option_names in (("features", names), ("label", label_names)):
        for name in option_names:
            if name not in schema.fields:
                reason = {} if index is None or index.foreign is None else index.foreign.left_out
                why = f": this key cannot be delivered ({reason[name]})" if name in reason else ""
                raise SchemaError(f'{option}: the schema has no field "{name}"{why}; its fields are {list(schema.fields)}.')
    for name in names:
        if not isinstance(schema.fields[name], Sequence):
            raise SchemaError(f'features: "{name}" is {schema.fields[name]!r}, expected a Sequence; deliver it as label="{name}".')
        if index is not None and not index.access(name, as_feature=True).is_counted:
            raise SchemaError(
                f'features: "{name}" is not counted by the layout\'s length_fn. Leave length_fn out, or deliver it as a label.'
            )
        _check_dtype(name, schema.sequences[name], options.dtype)
    dtypes = {name: _delivered_dtype(schema.sequences[name].dtype, options, is_key=name == names[0]) for name in names}
    paddings_of = _paddings(schema, dtypes, label_names, options)
    selection = Selection(names, label_names, not isinstance(features, tuple), isinstance(labels, str), dtypes, paddings_of)
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
    return select(index.schema, options, index.label, index=index)


def _delivered(schema: Schema, options: Options, label: str | None) -> str:
    """What a schema delivers, for people."""
    try:
        selection = select(schema, options, label)
    except SchemaError as error:
        return str(error)
    return ", ".join(f"{name}={schema.fields[name]!r}" for name in (*selection.features, *selection.labels))


def _delivered_dtype(stored: str, options: Options, *, is_key: bool) -> str:
    """The dtype of a feature: as the user says; else float32, and integers that float32 may not hold as they are, unless something is
    computed from them.
    """
    if not isinstance(options.dtype, Default):
        return options.dtype
    is_computed = options.normalize is not None or (is_key and (options.transform is not None or options.augment is not None))
    return stored if is_wide(stored) and not is_computed else str(options.dtype)


def _paddings(schema: Schema, features: Mapping[str, str], labels: tuple[str, ...], options: Options) -> Paddings:
    parts = {f"x:{name}": Part(name, "padding_value", dtype) for name, dtype in features.items()}
    for name in labels:
        field = schema.fields[name]
        dtype = label_dtype(field) if isinstance(field, Sequence) else "string" if isinstance(field, Text) else field.dtype
        parts[f"y:{name}"] = Part(name, "label_padding", dtype, varies=isinstance(field, Sequence))
    return paddings(parts, padding_value=options.padding_value, label_padding=options.label_padding)


def only_label(schema: Schema, names: list[str], index: Index | None) -> str | None:
    """The field among `names` that is the label although nobody says so; None if there is none.

    It has the name of a label, or is the only number (else the only list of integers) that nothing speaks against: neither its name nor
    its values say that it is a length, a rate, a time or a number of the record.

    Raises:
        SchemaError: there are several candidates.
    """
    fixed = [name for name in names if isinstance(schema.fields[name], Fixed)]
    lists = [name for name in names if isinstance(field := schema.fields[name], Sequence) and not field.dimensions]
    known = [name for name in (*fixed, *lists) if is_label_name(name)]
    integers = [name for name in lists if np.dtype(schema.sequences[name].dtype).kind in "iu"]
    if "label" in names or known:
        return "label" if "label" in names else only_candidate("label", schema, known)
    for candidates in (fixed, integers):
        plausible = [name for name in candidates if not is_bookkeeping_name(name) and not _speaks_against(index, name)]
        if plausible:
            return only_candidate("label", schema, plausible)
    if fixed or integers:
        _log.info("no label: %s look like lengths, rates, times or numbers of the record; label=NAME delivers one", [*fixed, *integers])
    return None


def _speaks_against(index: Index | None, name: str) -> bool:
    """Whether the values of a field, as far as the index has them, show that it is no label."""
    if index is None or index.access(name).location is not Location.ROW:
        return False
    values = index.access(name).row_values(index.rows)
    files = [values[part] for part in index.parts() if len(part)]  # each may count its records from 0
    return is_no_label(values, [index.frames(name) for name in index.counted]) or (bool(files) and all(map(counts_up, files)))


def only_candidate(option: str, schema: Schema, candidates: list[str]) -> str | None:
    """The candidate with the name of the option, else the only candidate; None if there is none."""
    if option in candidates:
        return option
    if len(candidates) > 1:
        none = ", or label=False for none" if option == "label" else ""
        raise SchemaError(f"{option}: the candidates are {candidates}, the schema is {schema}. Name one: {option}={candidates[0]!r}{none}.")
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
    added += ["partner"] if options.ids and of_stage(options.augment, "batch") else []
    added += ["start"] if options.ids and options.windows is not None else []
    names = [*added, *(["features"] if selection.single_feature else selection.features)]
    both = sorted({name for name in names if names.count(name) > 1})
    overlap = sorted(set(selection.features) & set(selection.labels))
    if both:
        raise SchemaError(f"features: {both} name fields, and also entries that lengths=True or ids=True adds. Rename the fields.")
    if overlap:
        raise SchemaError(f"label: {overlap} is also among the features. Name each field once.")
