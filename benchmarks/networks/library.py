"""The networks of the packages classification-models-1D and keras-tcn, where these are installed by `pip install --no-deps`."""

from __future__ import annotations

import importlib.util
import sys
import types

import keras
from keras import layers

from benchmarks.networks.parts import FEATURES, NETWORKS, randomized
from benchmarks.networks.sound import TensorFlowSinc
from vlpipe.layers import MaskAware, Reach
from vlpipe.layers.base import pad_to_minimum


class LayersWithPlainNames:
    """`keras.layers` for code of Keras 2, whose names have slashes."""

    def __getattr__(self, kind):
        made = getattr(layers, kind)
        return lambda *args, **options: made(*args, **{k: v.replace("/", "_") if k == "name" and v else v for k, v in options.items()})


def provide_modules_of_keras_2():
    """Give the EfficientNets the modules that they import and Keras 3 does not have."""
    contents = {
        "keras.engine": {},
        "keras.engine.training": {"Model": keras.Model},
        "keras.utils.data_utils": {},
        "keras.utils.layer_utils": {},
    }
    for name, content in contents.items():
        module = sys.modules[name] = types.ModuleType(name)
        module.__dict__.update(content)
        parent, _, child = name.rpartition(".")
        setattr(sys.modules[parent], child, module)
    layers.VersionAwareLayers = LayersWithPlainNames


def classification_model(name):
    """Return a network of classification-models-1D: without weights, its features averaged over time."""
    provide_modules_of_keras_2()
    from classification_models_1D.models_factory import ModelsFactory
    from tensorflow.keras import backend

    keras.utils.set_random_seed(0)
    parts = {"backend": backend, "layers": LayersWithPlainNames(), "models": keras.models, "utils": keras.utils}
    make, _ = ModelsFactory().models[name]
    return randomized(make(input_shape=(None, FEATURES), include_top=False, weights=None, pooling="avg", **parts))


def classification_models():
    if not importlib.util.find_spec("classification_models_1D"):
        return []
    provide_modules_of_keras_2()
    from classification_models_1D.models_factory import ModelsFactory

    return ModelsFactory().models_names()


def from_keras_tcn(return_sequences):
    from tcn import TCN

    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, FEATURES))
    return randomized(keras.Model(inputs, TCN(16, 3, dilations=(1, 2, 4), return_sequences=return_sequences)(inputs)))


def replacements(name):
    """Return the argument `layers` of `mask_aware` for a network: one for the layer that is not written with `keras.ops`."""
    if name != "sinc-net-in-tensorflow":
        return {}

    class AwareSinc(MaskAware, TensorFlowSinc):
        def output_frames(self, frames):
            return (frames - self.size) // self.stride + 1

        def call(self, inputs, mask=None):
            return super().call(inputs if mask is None else pad_to_minimum(inputs, self.size))

        def reach(self):
            return Reach(self.size, self.stride)

    return {TensorFlowSinc: AwareSinc}


LIBRARY = classification_models()
for each in LIBRARY:
    NETWORKS[each] = ("classification-models-1D", "frames", lambda name=each: classification_model(name))
if importlib.util.find_spec("tcn"):
    for kind, whole in (("TCN, last frame", False), ("TCN, all frames", True)):
        NETWORKS[kind] = ("keras-tcn", "frames", lambda whole=whole: from_keras_tcn(whole))
