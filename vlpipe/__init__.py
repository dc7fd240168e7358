"""tf.data input pipelines for variable-length sequences in TFRecord.

    import vlpipe

    vlpipe.write("data/train", ({"features": x, "label": y} for x, y in examples))   # x: [T, d]
    model.fit(vlpipe.make_dataset("data/train"))                                     # batches [B, T, d], bucketed by length

`import vlpipe` is quick: each name below loads its room, and TensorFlow if that needs it, when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "make_dataset": "vlpipe.dataset",
    "plan": "vlpipe.planning.make_plan",
    "open": "vlpipe.sources.open",
    "mix": "vlpipe.sources.open",
    "build_index": "vlpipe.sources.foreign.build_index",
    "Plan": "vlpipe.planning.plan",
    "batches": "vlpipe.numpy_batches.batches",
    "Schema": "vlpipe.storage.schema",
    "Sequence": "vlpipe.storage.schema",
    "Fixed": "vlpipe.storage.schema",
    "Text": "vlpipe.storage.schema",
    "Crop": "vlpipe.transforms.crop",
    "Windows": "vlpipe.transforms.windows",
    "stitch": "vlpipe.transforms.stitch",
    "Transform": "vlpipe.transforms.transform",
    "Gain": "vlpipe.transforms.waveforms",
    "AddNoise": "vlpipe.transforms.noise",
    "TimeShift": "vlpipe.transforms.waveforms",
    "SpeedPerturb": "vlpipe.transforms.speed",
    "SpecAugment": "vlpipe.transforms.augment",
    "Mixup": "vlpipe.transforms.mixup",
    "Skip": "vlpipe.planning.damage",
    "Writer": "vlpipe.storage.writer",
    "write": "vlpipe.storage.writer",
    "verify": "vlpipe.verification",
    "predict": "vlpipe.evaluation.predict",
    "evaluate": "vlpipe.evaluation.evaluate",
    "class_weights": "vlpipe.inspection.summary",
    "VlpipeError": "vlpipe.errors",
    "ArgumentError": "vlpipe.errors",
    "SchemaError": "vlpipe.errors",
    "DatasetError": "vlpipe.errors",
    "DatasetExistsError": "vlpipe.errors",
    "AudioError": "vlpipe.errors",
    "MissingExtraError": "vlpipe.errors",
}
_SUBMODULES = ("audio", "builders", "callbacks", "layers", "layouts", "testing")

__all__ = [*_HOMES, *_SUBMODULES]

if TYPE_CHECKING:  # the same names, for type checkers and editors
    from vlpipe import audio as audio
    from vlpipe import builders as builders
    from vlpipe import callbacks as callbacks
    from vlpipe import layers as layers
    from vlpipe import layouts as layouts
    from vlpipe import testing as testing
    from vlpipe.dataset import make_dataset as make_dataset
    from vlpipe.errors import ArgumentError as ArgumentError
    from vlpipe.errors import AudioError as AudioError
    from vlpipe.errors import DatasetError as DatasetError
    from vlpipe.errors import DatasetExistsError as DatasetExistsError
    from vlpipe.errors import MissingExtraError as MissingExtraError
    from vlpipe.errors import SchemaError as SchemaError
    from vlpipe.errors import VlpipeError as VlpipeError
    from vlpipe.evaluation.evaluate import evaluate as evaluate
    from vlpipe.evaluation.predict import predict as predict
    from vlpipe.inspection.summary import class_weights as class_weights
    from vlpipe.numpy_batches.batches import batches as batches
    from vlpipe.planning.damage import Skip as Skip
    from vlpipe.planning.make_plan import plan as plan
    from vlpipe.planning.plan import Plan as Plan
    from vlpipe.sources.foreign.build_index import build_index as build_index
    from vlpipe.sources.open import mix as mix
    from vlpipe.sources.open import open as open
    from vlpipe.storage.schema import Fixed as Fixed
    from vlpipe.storage.schema import Schema as Schema
    from vlpipe.storage.schema import Sequence as Sequence
    from vlpipe.storage.schema import Text as Text
    from vlpipe.storage.writer import Writer as Writer
    from vlpipe.storage.writer import write as write
    from vlpipe.transforms.augment import SpecAugment as SpecAugment
    from vlpipe.transforms.crop import Crop as Crop
    from vlpipe.transforms.mixup import Mixup as Mixup
    from vlpipe.transforms.noise import AddNoise as AddNoise
    from vlpipe.transforms.speed import SpeedPerturb as SpeedPerturb
    from vlpipe.transforms.stitch import stitch as stitch
    from vlpipe.transforms.transform import Transform as Transform
    from vlpipe.transforms.waveforms import Gain as Gain
    from vlpipe.transforms.waveforms import TimeShift as TimeShift
    from vlpipe.transforms.windows import Windows as Windows
    from vlpipe.verification import verify as verify


if not TYPE_CHECKING:  # type checkers would take it to mean that every name exists

    def __getattr__(name: str) -> Any:
        if name in _SUBMODULES:
            return importlib.import_module(f"vlpipe.{name}")
        if name in _HOMES:
            value = getattr(importlib.import_module(_HOMES[name]), name)
            globals()[name] = value
            return value
        raise AttributeError(f"module 'vlpipe' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__all__", "__doc__", "__file__", "__name__", "__path__", "__version__"])
