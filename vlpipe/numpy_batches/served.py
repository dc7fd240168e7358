"""What `vlpipe.batches` serves, and what it refuses because it needs a graph of TensorFlow."""

from __future__ import annotations

from typing import NoReturn

from vlpipe.engines.parsed_fields import ParsedFields
from vlpipe.errors import ArgumentError
from vlpipe.planning.options import Options
from vlpipe.planning.plan import Plan
from vlpipe.transforms.augment import SpecAugment
from vlpipe.transforms.mixup import Mixup

_INSTEAD = "vlpipe.make_dataset serves it."


def check_options(options: Options) -> None:
    """Refuse arguments that need a graph, before anything is read.

    Raises:
        ArgumentError: the message names the argument.
    """
    if options.transform is not None:
        _refuse("transform", "is a function of TensorFlow's operations")
    if options.batching == "ragged":
        _refuse('batching="ragged"', "delivers ragged tensors, which NumPy does not have")
    if options.engine not in ("auto", "mapped"):
        _refuse(f"engine={options.engine!r}", "is an engine of tf.data; only mapped files are read here")
    for augment in options.augment or ():
        if not isinstance(augment, (SpecAugment, Mixup)):
            _refuse("augment", f"{type(augment).__name__} changes the samples of waveforms in the graph")


def check_plan(plan: Plan) -> None:
    """Refuse sources whose values are parsed in a graph, or that cannot be mapped.

    Raises:
        ArgumentError: the message names the fields, or the first file.
    """
    if plan.engine != "mapped":
        _refuse(plan.index.shards[0].path, "cannot be mapped into memory: it is compressed, or not a local file")
    parsed = ParsedFields(plan)
    if parsed:
        _refuse(", ".join([*parsed.lengths, *parsed.labels]), "cannot be copied as stored: a graph parses or decodes the values")


def _refuse(what: str, why: str) -> NoReturn:
    raise ArgumentError(f"batches: {what}: {why}. {_INSTEAD}")
