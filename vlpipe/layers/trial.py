"""The cases of `assert_padding_invariant`: what is compared with what each sequence gives alone."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from vlpipe.layers.trial_inputs import Inputs, Row, inputs_of
from vlpipe.layers.trial_runs import Outputs, eager, gradients_of, other_weights, tensors_of, ways

COMPILED_SLACK = 10  # XLA takes sums in an order of its own
GRADIENT_SLACK = 100  # a gradient is a sum over all frames of all rows
WAY_OUT = "Use vlpipe.layers.check_model(model) to find the layer, or wrap the model in vlpipe.layers.mask_aware."


def run_trial(
    model: Any,
    inputs: Inputs,
    lengths: Sequence[int | Sequence[int]],
    padding: Sequence[int],
    tolerance: float,
    rng: Any,
    *,
    plain: Any = None,
    comparable: Sequence[bool] | None = None,
    skip: Sequence[str] = (),
) -> None:
    """Run all cases; the arguments are those of `assert_padding_invariant`, and for which sequences the plain model has an answer.

    Raises:
        AssertionError: an output changed, or the model failed.
    """
    rows = [inputs.row(rng, length) for length in lengths]
    if not model.built:  # so that it has weights, to be changed, and on JAX to be passed to it
        longest = max(rows, key=lambda row: inputs.longest([row]))
        with contextlib.suppress(Exception):  # of which the first case tells
            model(tensors_of(inputs.batch([longest], rng)))
    with other_weights(model, None if "weights" in skip else rng):
        trial = Trial(model, inputs, rows, rng, tolerance)
        if plain is not None:
            trial.compare_with_plain(plain, [row for row in trial.everyone if comparable is None or comparable[row]])
        trial.compare_padded(padding)
        trial.compare_batches()
        if "compiled" not in skip:
            trial.compare_compiled()
        if "gradients" not in skip:
            trial.compare_gradients()
        if "saved" not in skip:
            trial.compare_saved()


class Trial:
    """A model, some sequences, and the outputs that it gives for each of them alone."""

    def __init__(self, model: Any, inputs: Inputs, rows: list[Row], rng: Any, tolerance: float) -> None:
        self.model, self.inputs, self.rows, self.rng, self.tolerance = model, inputs, rows, rng, tolerance
        self.everyone = list(range(len(rows)))
        self.ways = ways(model, inputs.batch(rows, rng), inputs.open_axes())
        self.alone = [self.outputs(self.ways["alone"], f"{self.label([row])} alone", [row], self.batch([row]))[0] for row in self.everyone]
        names = getattr(model, "output_names", None) or [str(number) for number in range(len(self.alone[0]))]
        self.output_labels = [f'the output "{name}"' for name in names] if len(names) > 1 else ["the output"]

    def compare_padded(self, padding: Sequence[int]) -> None:
        """Compare each sequence with the same one padded."""
        for row in self.everyone:
            for amount in padding:
                for content in self.inputs.paddings:
                    case = f"{self.label([row])} padded by {amount} frames of {content}"
                    self.compare(case, [row], self.batch([row], content, amount))

    def compare_batches(self) -> None:
        """Compare each sequence with the same one in a batch of all, and beside rows that are no sequences at all."""
        for content in self.inputs.paddings:
            for way in ("alone", "graph"):
                self.compare(self.together(content), self.everyone, self.batch(self.everyone, content), way)
        for name, strangers in self.strangers():
            batch = self.inputs.batch([*self.rows, *strangers], self.rng, self.inputs.paddings[-1])
            self.compare(f"{self.label(self.everyone)} beside a row of {name}", self.everyone, batch)

    def compare_compiled(self) -> None:
        """Compare each sequence with the same one in a batch for a graph that XLA has compiled."""
        if "compiled" in self.ways:
            case, content = f"{self.together('noise')}, compiled by XLA", "noise"
            self.compare(case, self.everyone, self.batch(self.everyone, content), "compiled", COMPILED_SLACK)

    def strangers(self) -> Iterator[tuple[str, list[Row]]]:
        """Yield rows that may not change what others get: what they hold, and the rows."""
        longest = self.inputs.longest(self.rows)
        yield "large noise", [self.inputs.row(self.rng, longest, scale=1e4)]
        for value in (np.float32("nan"), np.float32("inf")):
            row = self.inputs.row(self.rng, longest)
            yield str(value), [{key: x * value if x.dtype.kind == "f" else x for key, x in row.items()}]
        if self.inputs.told_lengths:
            yield "no frames", [self.inputs.row(self.rng, 0)]

    def compare_with_plain(self, plain: Any, rows: list[int]) -> None:
        """Compare the outputs for each of some sequences alone with those of the model that this one was made from, where it has any.

        A plain model may fail on some lengths, as one with branches does, but not on all of them.
        """
        inputs = inputs_of(plain, None, self.inputs.vocabulary)
        names = [(theirs.key, ours.key) for theirs, ours in zip(inputs.parts, self.inputs.parts, strict=True)]
        failure: AssertionError | None = None
        compared = 0
        for row in rows:
            x = inputs.batch([{theirs: self.rows[row][ours] for theirs, ours in names}], self.rng)
            case = f"{self.label([row])} given to the plain model"
            try:
                y = [values[0] for values, _ in self.called(lambda x: eager(plain, x), case, x)]
            except AssertionError as error:
                failure = error
                continue
            compared += 1
            for label, output, alone in zip(self.output_labels, y, self.alone[row], strict=True):
                if alone.size or output.size == 0:
                    check(f"{case}: {label}", output, alone, self.tolerance, True)
        if failure and not compared:
            raise failure

    def compare_saved(self) -> None:
        """Compare each sequence with the same one in a batch for the model that comes from a file."""
        case, batch = f"{self.together('noise')} in a model from a file", self.batch(self.everyone, "noise")

        def run(x: Any) -> Outputs:
            with tempfile.TemporaryDirectory() as folder:
                self.model.save(Path(folder) / "model.keras")
                return eager(keras.saving.load_model(Path(folder) / "model.keras"), x)

        self.check_all(case, self.everyone, self.outputs(run, case, self.everyone, batch), 1)

    def compare_gradients(self) -> None:
        """Compare the gradients of a batch with those of its sequences: their sum for weights, each for its inputs."""
        chosen = sorted({0, len(self.rows) // 2, len(self.rows) - 1})  # JAX compiles anew for each of them
        ranks = [values.ndim for values, _ in self.ways["alone"](self.batch([0])) if values.dtype.kind == "f"]
        if not ranks:  # integers, such as those of an argmax, have no gradient
            return
        factors = {row: [self.rng.normal(size=y.shape).astype("float32") for y in floats(self.alone[row])] for row in chosen}
        slope = gradients_of(self.model, self.batch([0]), self.inputs.open_axes(), ranks)

        def gradients(rows: list[int], content: str) -> Any:
            batch = self.batch(rows, content)
            case = f"{self.label(rows)} in one batch, padded with {content}: the gradients"
            shapes = [y.shape for y in floats([values for values, _ in self.ways["graph"](batch)])]
            return self.called(lambda x: slope(x, spread([factors[row] for row in rows], shapes)), case, batch)

        singles = [gradients([row], "zeros") for row in chosen]
        case = f"{self.label(chosen)} in one batch, padded with {self.inputs.paddings[-1]}"
        weights, inputs = gradients(chosen, self.inputs.paddings[-1])
        names = [f'"{weight.path}"' for weight in self.model.trainable_variables]
        totals = [sum(single[0][index] for single in singles) for index in range(len(weights))]
        pairs = [*zip(names, weights, totals, strict=True)]
        for position, row in enumerate(chosen):
            for mine, own in zip(inputs, singles[chosen.index(row)][1], strict=True):
                behind = [(0, whole - part) for whole, part in zip(mine[position].shape, own[0].shape, strict=True)]
                pairs.append((f"the input of {self.label([row])}", mine[position], np.pad(own[0], behind)))
        largest = max((float(np.max(np.abs(total), initial=0)) for _, _, total in pairs), default=0)
        for name, got, total in pairs:
            check_gradient(f"{case}: the gradient for {name}", got, total, GRADIENT_SLACK * self.tolerance, largest)

    def compare(self, case: str, rows: list[int], batch: Any, way: str = "graph", slack: float = 1) -> None:
        """Compare the outputs of a batch, whose first rows are sequences, with those of these sequences alone."""
        self.check_all(case, rows, self.outputs(self.ways[way], case, rows, batch), slack)

    def check_all(self, case: str, rows: list[int], outputs: list[list[Any]], slack: float) -> None:
        for row, mine in zip(rows, outputs, strict=True):
            name = case if len(rows) == 1 else f"{self.label([row])} {case.removeprefix(self.label(rows)).lstrip()}"
            for label, output, alone in zip(self.output_labels, mine, self.alone[row], strict=True):
                check(f"{name}: {label}", output, alone, slack * self.tolerance, self.inputs.told_lengths)

    def outputs(self, run: Callable[[Any], Outputs], case: str, rows: list[int], batch: Any) -> list[list[Any]]:
        """Return all outputs for each of the rows, of an output with a mask only its real frames."""
        found: list[list[Any]] = [[] for _ in rows]
        for values, mask in self.called(run, case, batch):
            for position, mine in enumerate(found):
                y = values[position]
                if mask is not None:
                    if len(y) != mask.shape[1]:
                        raise AssertionError(f"{case}: an output has {len(y)} frames, but its mask has {mask.shape[1]}. {WAY_OUT}")
                    y, behind = y[mask[position]], y[~mask[position]]
                    if y.dtype.kind == "f" and np.isfinite(y).all() and not np.isfinite(behind).all():
                        raise AssertionError(
                            f"{case}: the padding of the output has NaN or infinite values, which stay in the loss, because Keras "
                            "multiplies them by zero. Call vlpipe.layers.FillPadding()(y) on the output."
                        )
                mine.append(y)
        return found

    def called(self, function: Callable[[Any], Any], case: str, x: Any) -> Any:
        try:
            return function(x)
        except Exception as error:  # whatever a model raises, it gives no answer where one sequence alone has one
            text = " ".join(str(error).split())[:400]
            raise AssertionError(
                f"{case}: the model fails with {type(error).__name__}: {text.rstrip('.')}. Pass lengths that each layer has an answer for, "
                "or wrap a model that padding makes fail in vlpipe.layers.mask_aware."
            ) from error

    def batch(self, rows: list[int], content: str = "zeros", extra: int = 0) -> Any:
        return self.inputs.batch([self.rows[row] for row in rows], self.rng, content, extra)

    def label(self, rows: list[int]) -> str:
        lengths = [" and ".join(str(len(self.rows[row][part.key])) for part in self.inputs.sequences) for row in rows]
        return f"A sequence of {lengths[0]} frames" if len(rows) == 1 else f"Sequences of {', '.join(lengths)} frames"

    def together(self, content: str) -> str:
        return f"{self.label(self.everyone)} in one batch with one of {self.inputs.longest(self.rows)}, padded with {content}"


def floats(arrays: list[Any]) -> list[Any]:
    return [array for array in arrays if array.dtype.kind == "f"]


def spread(rows: list[list[Any]], shapes: list[Any]) -> list[Any]:
    """Return one array of each shape with the arrays of the rows at its beginning, and zeros behind them."""
    whole = [np.zeros(shape, "float32") for shape in shapes]
    for position, arrays in enumerate(rows):
        for target, array in zip(whole, arrays, strict=True):
            place = (position, *map(slice, array.shape))
            target[place] = array
    return whole


def check(case: str, output: Any, alone: Any, tolerance: float, told_lengths: bool) -> None:
    """Raise AssertionError if `output` differs from `alone` by more than `tolerance`."""
    if not told_lengths and output.ndim == alone.ndim > 1 and len(output) > len(alone):
        output = output[: len(alone)]  # a model without masks: the frames that the sequence has alone are the first ones
    if output.shape != alone.shape:
        raise AssertionError(f"{case} has shape {output.shape}, but {alone.shape} for the sequence alone. {WAY_OUT}")
    if alone.size == 0:
        return
    output, alone = output.astype("float64"), alone.astype("float64")
    difference = float(np.max(np.abs(output - alone)) / max(float(np.max(np.abs(alone))), 1e-30))
    if not difference <= tolerance:  # written so that a NaN fails
        raise AssertionError(
            f"{case} differs by {difference:.3g} of its largest value from that of the sequence alone; tolerance={tolerance:g}. {WAY_OUT}"
        )


def check_gradient(case: str, got: Any, total: Any, tolerance: float, largest: float) -> None:
    """Raise AssertionError if a gradient differs from that of the single sequences, by their largest value or a thousandth of `largest`."""
    if not np.isfinite(total).all():
        return  # the sequence alone has none: that is not the padding's doing
    if not np.isfinite(got).all():
        raise AssertionError(
            f"{case} has NaN or infinite values, but that of each sequence alone has none: padding meets an operation without a finite "
            "gradient. Call vlpipe.layers.FillPadding(1.0)(x) before the operation, or wrap the plain model in vlpipe.layers.mask_aware."
        )
    difference = float(np.max(np.abs(got - total), initial=0)) / max(float(np.max(np.abs(total), initial=0)), largest / 1000, 1e-30)
    if difference > tolerance:
        raise AssertionError(f"{case} differs by {difference:.3g} from that of the sequences alone; tolerance={tolerance:g}. {WAY_OUT}")
