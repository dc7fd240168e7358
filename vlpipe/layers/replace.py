"""The layers of other libraries: which mask-aware layer stands in for them, and the test that it passes before it is trusted."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from vlpipe.errors import ArgumentError
from vlpipe.layers.base import MaskAware
from vlpipe.layers.entry import LengthMask
from vlpipe.layers.model import Model
from vlpipe.layers.probe import check_windows
from vlpipe.layers.trial import run_trial
from vlpipe.layers.trial_inputs import inputs_of
from vlpipe.layers.trial_runs import ExtractMask

TOLERANCE = 1e-5  # relative, of a replacement against the layer on one sequence


class Unfilled(LengthMask):
    """Attach the mask, but leave the padding as it is: inside a model it holds whatever finite values the layers before have given."""

    def call(self, inputs: Any) -> Any:
        x = inputs["features"]
        return ops.where(ops.isfinite(x), x, ops.cast(7, x.dtype))


class Replacements:
    """The argument `layers` of `mask_aware`: mask-aware layers for layers that vlpipe does not know.

    Args:
        given: from classes of layers to mask-aware classes, or to functions that make the replacement from the layer.

    Raises:
        ArgumentError: `given` is no such dict.
    """

    def __init__(self, given: Mapping[type, Callable[..., Any]] | None) -> None:
        self.given: dict[type, Any] = dict(given or {})
        self.used: set[type] = set()
        self._tested: set[str] = set()
        for kind, make in self.given.items():
            known = isinstance(kind, type) and issubclass(kind, keras.layers.Layer)
            if not known or not callable(make):
                raise ArgumentError(
                    f"mask_aware: layers={{{kind!r}: {make!r}}}; expected classes of layers, each with its mask-aware class or a function "
                    "that makes the replacement from the layer. Pass layers={SincConv: AwareSincConv}."
                )

    def __call__(self, layer: Any, x: Any) -> Any:
        """Return the tested replacement for a layer that is called on `x`; None if its class is not among the given ones.

        Raises:
            ArgumentError: the replacement is not mask-aware, has other weights or another answer than the layer, or lets padding in.
        """
        make: Any = self.given.get(type(layer))
        if make is None:
            return None
        self.used.add(type(layer))
        name = f'mask_aware: the replacement for "{layer.name}" ({type(layer).__name__})'
        from_class = isinstance(make, type)
        replacement = make.from_config(layer.get_config()) if from_class else make(layer)
        trusted = isinstance(replacement, MaskAware)
        if not trusted:
            raise ArgumentError(
                f"{name} is a {type(replacement).__name__}; expected a layer with the base class vlpipe.layers.MaskAware, or Reduction if "
                "it leaves no frames. List that class first among its bases."
            )
        if len(x.shape) != 3 or not keras.backend.is_float_dtype(x.dtype):
            raise ArgumentError(
                f"{name} is called on {x.dtype} {tuple(x.shape)}; expected numbers [batch, frames, features], on which it can be tested. "
                "Build the model with a layer that has the base class vlpipe.layers.MaskAware."
            )
        if not replacement.built:
            replacement(keras.Input(batch_shape=(None, None, x.shape[2]), dtype=x.dtype))  # builds its inner layers as well
            copy_weights(name, replacement, layer)
        self._test(name, replacement, layer, x.shape[2])
        return replacement

    def check_used(self, model: str) -> None:
        """Raise ArgumentError if no layer of the model is of a given class."""
        for kind in set(self.given) - self.used:
            raise ArgumentError(
                f'mask_aware: layers={{{kind.__name__}: ...}}, but no layer of the model "{model}" that sees frames is a {kind.__name__}; '
                "expected the class of one of its layers. Pass type(layer) of the layer to replace."
            )

    def _test(self, name: str, replacement: Any, layer: Any, width: int) -> None:
        shortest = int(replacement.reach().span)
        lengths = (shortest, shortest + 2, shortest + 7)
        for n in lengths:
            compare_alone(name, replacement, layer, n, width)
        config = {key: value for key, value in replacement.get_config().items() if key != "name"}
        if (key := f"{type(replacement)} {width} {config}") not in self._tested:
            try:
                pass_contract(replacement, width, lengths)
            except AssertionError as error:
                text = str(error).partition(" Use vlpipe.layers.check_model")[0].partition(" Wrap the model")[0]
                raise ArgumentError(
                    f"{name}, {type(replacement).__name__}, lets padding in. {text} Set the padding to zero before each window or sum, and "
                    "give it compute_mask or output_frames."
                ) from None
            self._tested.add(key)


def copy_weights(name: str, replacement: Any, layer: Any) -> None:
    """Give a replacement the values of the weights of the layer."""
    old, new = ([tuple(weight.shape) for weight in one.weights] for one in (layer, replacement))
    if old != new:
        raise ArgumentError(
            f"{name} has weights of the shapes {new}; expected those of the layer, {old}, whose values it gets. Build it as the layer "
            "does, or return it built, with its weights, from a function: layers={...: make}."
        )
    replacement.set_weights(layer.get_weights())


def pass_contract(replacement: Any, width: int, lengths: tuple[int, ...]) -> None:
    """Raise AssertionError if padding changes the answer of a layer."""
    inputs = {"features": keras.Input((None, width), name="features"), "lengths": keras.Input((), dtype="int32", name="lengths")}
    model = Model(inputs, replacement(Unfilled()(inputs)))
    skip = ("compiled", "saved")  # slow, and its class need not be registered here
    run_trial(model, inputs_of(model, width, None), lengths, (1, 3, 31), TOLERANCE, np.random.default_rng(0), skip=skip)


def compare_alone(name: str, replacement: Any, layer: Any, frames: int, width: int) -> None:
    """Raise ArgumentError if the replacement answers a sequence without padding otherwise than the layer."""
    x = ops.convert_to_tensor(np.random.default_rng(frames).normal(size=(1, frames, width)).astype("float32"))
    want, cause = None, None
    try:
        check_windows(layer, x)
        want = ops.convert_to_numpy(layer(x))
        failure = f"returns {want.shape}" if want.ndim > 2 and not want.shape[1] else ""
    except Exception as error:  # whatever a layer of the user raises
        failure, cause = f"fails with {type(error).__name__}: {' '.join(str(error).split())[:200].rstrip('.')}", error
    if want is None or failure:
        raise ArgumentError(
            f"{name} says in reach() that a frame of its output depends on {int(replacement.reach().span)} frames, but on {frames} frames "
            f"the layer {failure}. Return in reach() as many frames as the layer needs for one."
        ) from cause
    y = replacement(LengthMask()({"features": x, "lengths": np.array([frames])}))
    got, mask = ops.convert_to_numpy(y), ExtractMask()(y)
    if mask is not None and tuple(mask.shape) != got.shape[:2]:
        raise ArgumentError(
            f"{name} gives an output of {got.shape} the mask {tuple(mask.shape)}; expected a mask [batch, frames]. Say in output_frames "
            "how many frames it gives for how many, or derive it from vlpipe.layers.Reduction if it leaves none."
        )
    scale = max(float(np.abs(want).max(initial=0)), 1e-30)
    difference = float(np.abs(got - want).max(initial=0)) / scale if got.shape == want.shape else np.inf
    if not difference <= TOLERANCE:
        raise ArgumentError(
            f"{name} answers a sequence of {frames} frames without padding by {got.shape}, {difference:.3g} from the answer {want.shape} "
            "of the layer; expected the same. Check that it has the weights of the layer, and that a mask of real frames alone changes "
            "nothing."
        )
