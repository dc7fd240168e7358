"""`predict`: the answers of a model for every record, in the order of the source, without those for padding."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from vlpipe.evaluation.batches import Batch, of_plan, padding_of, plan_of
from vlpipe.evaluation.runner import Output, Runner, is_exact
from vlpipe.planning.options import Options
from vlpipe.planning.plan import Plan
from vlpipe.storage.paths import Source

if TYPE_CHECKING:  # the package that provides it is TensorFlow's own requirement, and only type checkers need it
    from typing_extensions import Unpack

    from vlpipe.planning.argument_types import Arguments

_log = logging.getLogger("vlpipe")


class RecordArray(np.ndarray):
    """An array with one answer a record.

    Attributes:
        ids: int64 `[records]`, the row of each in the index on disk, as "id" in `source.table()`; None of a part of the array.
        starts: int64 `[records]`, with `windows` the first frame of each; else None.
    """

    ids: np.ndarray | None = None
    starts: np.ndarray | None = None


class RecordList(list[Any]):
    """A list with one array a record, `[T', ...]`: an answer for each frame.

    Attributes:
        ids: int64 `[records]`, the row of each in the index of the source.
        starts: int64 `[records]`, with `windows` the first frame of each; else None.
    """

    ids: np.ndarray
    starts: np.ndarray | None = None


def predict(model: Any, source: Source, **arguments: Unpack[Arguments]) -> Any:
    """The answers of a model for every record of a source, each once, in the order of the source, and none for padding.

    `model.predict(dataset)` answers in the order of the batches, and stacks the answers for padded frames with the others.

    By default, records are batched so that each gets the answer that it would get alone: by similar length ("bucket") if padding changes
    no answer of the model (`vlpipe.layers.check_model` finds nothing, as after `mask_aware`), else by equal length ("same_length"; of
    several features, alone, whatever `batch_size` says), which pads nothing. Pass `batching`, `pad_to`, `buckets` or `shapes` to choose:
    padding then does to a plain model what it does in `fit`. With shapes="static" nothing fills up a short last batch, which may have a
    shape of its own. Models with `keras.layers.TimeDistributed`, which in a graph of Keras may answer with the
    frames of an earlier batch, run eagerly.

    Args:
        model: a Keras model, on any backend. A model of named inputs gets the parts of a batch by name ("features", "lengths", "id", or
            the names of the features, NAME_lengths), whatever `lengths` and `ids` say; one with a call of its own gets what
            `make_dataset` would deliver.
        source: as for `make_dataset`.
        **arguments: as for `make_dataset`, such as `features`, `normalize`, `crop`, `length_range`; labels are not read. Records that
            `out_of_range` leaves out are logged and not in the result: its `ids` are those of the others. Of a mix, each record of its
            parts comes once, whatever the weights and `records`, in the order of the parts.

    Returns:
        An array `[records, ...]` if the model gives one answer a record; a list of arrays `[T', ...]`, one for each record and cut to its
        true length after the strides of the model, if it gives one a frame. Both have `ids` (int64 `[records]`), the row of each record in
        the index of the source. With `windows`, there is one answer for each window, in the order of their first frames within a record,
        and `starts` has these, as `vlpipe.stitch` takes them. For a model with several outputs, a dict or list of these, as from
        `model.predict`.

    Raises:
        VlpipeError: as for `make_dataset`; or `shard`, `repeat`, `resume`, `shuffle` or `remainder` would deliver a record twice, not at
            all, or elsewhere; the model has an input that the batches lack, is stateful, or cannot answer a batch of these shapes; or how
            many frames of an output are real cannot be known, because layers cannot be followed and the batches are padded.

    Example:
        >>> vlpipe.write("data/test", ({"features": np.ones((t, 4), np.float32), "label": 0} for t in (5, 2, 9)))
        >>> x = keras.Input((None, 4))
        >>> tagger = keras.Model(x, keras.layers.Conv1D(3, 2, strides=2)(x))
        >>> answers = vlpipe.predict(tagger, "data/test")
        >>> [y.shape for y in answers], answers.ids.tolist()
        ([(2, 3), (1, 3), (4, 3)], [0, 1, 2])
    """
    runner = Runner(model)
    exact = is_exact(model)
    options, plan = plan_of(source, {**arguments, "label": False}, exact=exact)
    warn_of_padding(runner, arguments, options, plan, exact=exact)
    return _Answers(runner, plan).of(options)


def warn_of_padding(runner: Runner, arguments: Mapping[str, Any], options: Options, plan: Plan, *, exact: bool) -> None:
    """Log that the user chose batches in which padding may change the answers of the model."""
    # Batches of one length may differ in the lengths of further features.
    pads = options.batching in ("bucket", "pad") or (options.batching == "same_length" and len(plan.selection.features) > 1)
    if not exact and pads and options.batch_cap != 1:
        chosen = " and ".join(f"{name}={arguments[name]!r}" for name in padding_of(dict(arguments)))
        _log.warning(
            'model "%s": padding may change its answers (vlpipe.layers.check_model), and %s pads. Leave this out, or use '
            "vlpipe.layers.mask_aware(model)",
            runner.name,
            chosen,
        )


class _Answers:
    """Collects the answers for the batches of a plan, and returns them in the order of the index."""

    def __init__(self, runner: Runner, plan: Plan) -> None:
        self._runner, self._plan = runner, plan
        self._ids: list[np.ndarray] = [np.zeros(0, np.int64)]
        self._starts: list[np.ndarray] = []
        self._flat: list[list[Any]] = []  # for each output, the answers batch by batch, or record by record where they have frames
        self._structure: Any = None

    def of(self, options: Options) -> Any:
        """The answers in the structure of the model's outputs."""
        for batch in of_plan(self._plan, options):
            self._add(self._runner(batch), batch)
        if self._structure is None and self._runner.inputs is None:
            return _with_ids(np.zeros(0, np.float32).view(RecordArray), self._ids[0], None)  # no record has shown what the model returns
        structure = self._runner.structure if self._structure is None else self._structure
        delivered = np.concatenate(self._ids)
        # Copies of a record have one id; which of them is which makes no difference.
        ids = np.asarray(self._plan.index.ids[np.sort(self._plan.rows)])
        order = np.empty(len(ids), np.int64)
        starts = np.concatenate(self._starts) if self._starts else None
        order[np.argsort(ids, kind="stable")] = np.lexsort((delivered,) if starts is None else (starts, delivered))
        collected = self._flat or [[] for _ in self._runner.outputs]
        parts = [_ordered(output, answers, order) for output, answers in zip(self._runner.outputs, collected, strict=True)]
        parts = [_with_ids(part, ids, None if starts is None else starts[order]) for part in parts]
        return keras.tree.pack_sequence_as(structure, parts)

    def _add(self, answers: Any, batch: Batch) -> None:
        arrays = keras.tree.flatten(answers)
        self._structure = answers
        self._flat = self._flat or [[] for _ in arrays]
        for output, array, collected in zip(self._runner.outputs, arrays, self._flat, strict=True):
            if output.has_frames:
                counts = self._runner.frames_of(output, array, batch)
                # Keras passes a sequence without frames through a convolution as it is, with the features of the input.
                widths = [n or got for n, got in zip(output.shape[2:], array.shape[2:], strict=False)]
                collected += [row[:n] if n else np.zeros((0, *widths), row.dtype) for row, n in zip(array, counts.tolist(), strict=True)]
            else:
                collected.append(array)
        self._ids.append(np.asarray(batch.ids))
        if batch.starts is not None:
            self._starts.append(batch.starts)


def _ordered(output: Output, collected: list[Any], order: np.ndarray) -> RecordArray | RecordList:
    if output.has_frames:
        return RecordList(collected[position] for position in order.tolist())
    none = np.zeros((0, *(n or 0 for n in output.shape[1:])), np.float32)
    return (np.concatenate(collected)[order] if collected else none).view(RecordArray)


def _with_ids(result: Any, ids: np.ndarray, starts: np.ndarray | None) -> Any:
    result.ids, result.starts = ids, starts
    return result
