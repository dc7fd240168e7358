"""Gradients that are written out, because TensorFlow would take longer for those that it derives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras


def with_gradient(forward: Callable[[Any], tuple[Any, Callable[..., Any]]], x: Any) -> Any:
    """Return the first result of `forward(x)`, whose second one maps the gradient for it to the gradient for `x`.

    Only TensorFlow is given this gradient: XLA joins the steps of a derived one, and PyTorch reduces without tiling.
    """
    if keras.backend.backend() != "tensorflow":
        return forward(x)[0]
    import tensorflow as tf

    return tf.custom_gradient(forward)(x)
