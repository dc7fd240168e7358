"""Layers around another layer: called once for all frames, frame by frame, or with a normalized kernel."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from typing import Any

import keras
from keras import ops

from vlpipe.layers.base import MaskAware, Reach, registered
from vlpipe.layers.reduce import Reduction


class Around(MaskAware):
    """A layer around another one, `layer`, which says how it treats frames if it is mask-aware."""

    layer: Any

    def output_frames(self, frames: Any) -> Any:
        return self.layer.output_frames(frames) if isinstance(self.layer, MaskAware) else frames

    def reach(self) -> Reach:
        return self.layer.reach() if isinstance(self.layer, MaskAware) else Reach()

    def sides(self) -> Any:
        return self.layer.sides() if isinstance(self.layer, MaskAware) else (0, 0)


@registered
class TimeDistributed(MaskAware, keras.layers.TimeDistributed):
    """`keras.layers.TimeDistributed` that calls its layer or model once, on the frames of all rows as one batch.

    Its parent builds a graph for one number of frames, in which `fit` and `predict` of Keras may answer batches of others: their answers
    then have the number of frames of the first, or the step fails.

    Takes the arguments of its parent; the layer must treat the rows of a batch independently, as all but BatchNormalization do.
    Shapes: `[B, T, ...]` in, `[B, T, ...]` out, with the mask.

    Example:
        >>> import keras, numpy as np
        >>> from vlpipe.layers import TimeDistributed
        >>> tuple(TimeDistributed(keras.layers.GlobalMaxPooling1D())(np.ones((2, 5, 8, 4), "float32")).shape)
        (2, 5, 4)
    """

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        options = {"training": training} if self.layer._call_has_training_arg else {}  # as its parent asks
        batch, frames, *rest = ops.shape(inputs)
        # As its parent does, by `call`, in the dtypes of this layer; on a new tensor, so without the mask of the frames.
        outputs = self.layer.call(ops.reshape(inputs, (-1, *rest)), **options)

        def unfolded(y: Any) -> Any:
            return ops.reshape(y, (batch, frames, *ops.shape(y)[1:]))

        return keras.tree.map_structure(unfolded, outputs)


@registered
class FrameWise(MaskAware, keras.layers.Wrapper):
    """A layer that treats each frame alone and knows nothing of masks; `mask_aware` puts it around such layers, so that masks get through.

    Shapes: those of the layer; `[B, T, ...]` with mask `[B, T]` in, `[B, T, ...]` with the mask out.

    Example:
        >>> import keras, numpy as np
        >>> from vlpipe.layers import FrameWise
        >>> tuple(FrameWise(keras.layers.Permute((1, 3, 2)))(np.ones((2, 5, 8, 4), "float32")).shape)
        (2, 5, 4, 8)
    """

    def __init__(self, layer: Any, **kwargs: Any) -> None:
        casts = layer.autocast and layer._convert_input_args  # which layers that take codes do not
        super().__init__(layer, **{"dtype": layer.dtype_policy, "autocast": casts, **kwargs})

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        options = {"training": training} if self.layer._call_has_training_arg else {}
        return self.layer.call(inputs, **options)  # not the layer itself: Keras would warn that it loses the mask

    def compute_output_spec(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return self.layer.compute_output_spec(inputs)


@registered
class SeveralInputs(Around, keras.layers.Wrapper):
    """A layer that is called on several tensors, such as a GRU with its `initial_state`, and gets the mask of the first.

    Keras gives a layer no `mask` if it is called on several tensors; `mask_aware` puts this layer around it.

    Args:
        layer: the layer; its `call` has a `mask`.
        names: what the tensors are called, in order: the name of a parameter of the layer, and how many tensors it takes as a list, or 0.
        constants: further arguments.

    Shapes: a list of tensors in, the first `[B, T, ...]` with mask `[B, T]`; those of the layer out.

    Example:
        >>> import keras, numpy as np
        >>> from vlpipe.layers import SeveralInputs
        >>> gru = SeveralInputs(keras.layers.GRU(3), {"sequences": 0, "initial_state": 0})
        >>> tuple(gru([np.ones((2, 5, 4), "float32"), np.ones((2, 3), "float32")]).shape)
        (2, 3)
    """

    def __init__(self, layer: Any, names: dict[str, int], constants: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(layer, autocast=False, **kwargs)
        self.names, self.constants = dict(names), dict(constants or {})

    def build(self, input_shape: Any) -> None:
        if not self.layer.built:
            self.layer.build(input_shape[0])
        self.built = True

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        options = {"training": training} if self.layer._call_has_training_arg else {}
        first = None if mask is None else mask[0]
        return self.layer(**{**options, **self.constants, **self._named(inputs)}, mask=first)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        first = None if mask is None else mask[0]
        return None if isinstance(first, keras.KerasTensor) or first is None else self.layer.compute_mask(inputs[0], first)

    def compute_output_spec(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return self.layer.compute_output_spec(**self.constants, **self._named(inputs))

    def endless(self) -> str:
        return self.layer.endless() if isinstance(self.layer, MaskAware) else "carries a state through all frames"

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "names": list(self.names.items()), "constants": self.constants}

    def _named(self, inputs: Any) -> dict[str, Any]:
        """Return the tensors by the names of the parameters of the layer."""
        rest: list[Any] = list(inputs)
        named: dict[str, Any] = {}
        for name, count in self.names.items():
            named[name], rest = (rest[:count], rest[count:]) if count else (rest[0], rest[1:])
        return named


@registered
class Weight(Reduction, keras.layers.Layer):
    """A weight as a tensor: what a layer of the user multiplies by, once `mask_aware` has taken its operations out of it.

    Args:
        shape: of the weight.
        trainable: whether training changes it.

    Shapes: anything in; `shape` out.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import Weight
        >>> tuple(Weight((4, 1))(np.ones((2, 5, 4), "float32")).shape)
        (4, 1)
    """

    def __init__(self, shape: Any, trainable: bool = True, **kwargs: Any) -> None:
        super().__init__(trainable=trainable, **kwargs)
        self.shape = tuple(shape)

    def build(self, input_shape: Any) -> None:
        self.weight = self.add_weight(name="weight", shape=self.shape, trainable=self.trainable)

    def call(self, inputs: Any, mask: Any = None) -> Any:
        return ops.convert_to_tensor(ops.cast(self.weight, self.compute_dtype))

    def compute_output_spec(self, inputs: Any, mask: Any = None) -> Any:
        return keras.KerasTensor(self.shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "shape": self.shape}


@registered
class SpectralNormalization(Around, keras.layers.SpectralNormalization):
    """`keras.layers.SpectralNormalization` of a mask-aware layer, such as `vlpipe.layers.Conv1D`, or of a Dense layer.

    Takes the arguments of its parent; shapes of the layer that it wraps.

    Example:
        >>> import numpy as np
        >>> from vlpipe.layers import Conv1D, SpectralNormalization
        >>> tuple(SpectralNormalization(Conv1D(3, 3, padding="same"))(np.ones((2, 5, 4), "float32")).shape)
        (2, 5, 3)
    """

    def call(self, inputs: Any, training: Any = False, mask: Any = None) -> Any:
        return super().call(inputs, training=training)  # the mask reaches the layer with the tensor
