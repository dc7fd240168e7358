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
    "plan": "vlpipe.planning",
    "build_index": "vlpipe.foreign",
    "Plan": "vlpipe.planning",
    "Schema": "vlpipe.schema",
    "Sequence": "vlpipe.schema",
    "Fixed": "vlpipe.schema",
    "Text": "vlpipe.schema",
    "Crop": "vlpipe.cropping",
    "Transform": "vlpipe.transformation",
    "SpecAugment": "vlpipe.augmentation",
    "Writer": "vlpipe.writer",
    "write": "vlpipe.writer",
    "verify": "vlpipe.verification",
    "class_weights": "vlpipe.summary",
    "VlpipeError": "vlpipe.errors",
    "ArgumentError": "vlpipe.errors",
    "SchemaError": "vlpipe.errors",
    "DatasetError": "vlpipe.errors",
    "DatasetExistsError": "vlpipe.errors",
    "AudioError": "vlpipe.errors",
    "MissingExtraError": "vlpipe.errors",
}
_SUBMODULES = ("audio", "builders", "callbacks", "layers", "layouts")

__all__ = [*_HOMES, *_SUBMODULES]

if TYPE_CHECKING:  # the same names, for type checkers and editors
    from vlpipe import audio as audio
    from vlpipe import builders as builders
    from vlpipe import callbacks as callbacks
    from vlpipe import layers as layers
    from vlpipe import layouts as layouts
    from vlpipe.augmentation import SpecAugment as SpecAugment
    from vlpipe.cropping import Crop as Crop
    from vlpipe.dataset import make_dataset as make_dataset
    from vlpipe.errors import ArgumentError as ArgumentError
    from vlpipe.errors import AudioError as AudioError
    from vlpipe.errors import DatasetError as DatasetError
    from vlpipe.errors import DatasetExistsError as DatasetExistsError
    from vlpipe.errors import MissingExtraError as MissingExtraError
    from vlpipe.errors import SchemaError as SchemaError
    from vlpipe.errors import VlpipeError as VlpipeError
    from vlpipe.foreign import build_index as build_index
    from vlpipe.planning import Plan as Plan
    from vlpipe.planning import plan as plan
    from vlpipe.schema import Fixed as Fixed
    from vlpipe.schema import Schema as Schema
    from vlpipe.schema import Sequence as Sequence
    from vlpipe.schema import Text as Text
    from vlpipe.summary import class_weights as class_weights
    from vlpipe.transformation import Transform as Transform
    from vlpipe.verification import verify as verify
    from vlpipe.writer import Writer as Writer
    from vlpipe.writer import write as write


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"vlpipe.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'vlpipe' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
