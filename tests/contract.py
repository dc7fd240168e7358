"""What users of vlpipe can rely on, as one JSON document: names, signatures, commands, error classes, states, and bytes.

`golden/contract.json` holds it. `python -m tests.contract` writes it anew, after a change of the contract that is meant and has its line
in CHANGELOG.md.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

import vlpipe
from vlpipe.cli import main

GOLDEN = Path(__file__).parent / "golden" / "contract.json"

FIELDS = {"features": "features", "label": ("label", "vector", "text", "pitch")}
STATES: dict[str, dict[str, Any]] = {
    "defaults": {"seed": 7, "out_of_range": "drop"},
    "everything": {
        "seed": 1,
        "batch_size": 3,
        "buckets": [3, 8, 40],
        "remainder": "pad",
        "shard": (1, 2),
        "crop": vlpipe.Crop(5, random=True),
        "augment": vlpipe.SpecAugment(time_width=3, frequency_masks=0),
        "normalize": "utterance",
        "out_of_range": "truncate",
        "length_range": (0, 9),
    },
    "not shuffled": {"shuffle": False, "frames_per_batch": 40, "out_of_range": "drop"},
    "same length": {"batching": "same_length", "seed": 3, "length_range": (0, None)},
}

BATCHES: dict[str, dict[str, Any]] = {
    "bucket": {"out_of_range": "drop", "seed": 7, "batch_size": 3},
    "pad": {"out_of_range": "drop", "seed": 7, "batching": "pad", "remainder": "pad", "batch_size": 3, "padding_value": -1.5},
    "ragged": {"out_of_range": "drop", "seed": 7, "batching": "ragged", "batch_size": 3, "lengths": True, "ids": True},
    "same length": {"out_of_range": "drop", "seed": 7, "batching": "same_length", "lengths": True},
    "boundary": {"out_of_range": "drop", "seed": 7, "pad_to": "boundary", "buckets": 2, "batch_size": 3, "ids": True},
    "rank": {"out_of_range": "drop", "seed": 7, "shard": (1, 2), "remainder": "pad", "batch_size": 2, "ids": True},
    "cropped": {"out_of_range": "drop", "seed": 7, "crop": vlpipe.Crop(2, random=True), "lengths": True, "batch_size": 3},
    "truncated": {"out_of_range": "truncate", "seed": 7, "length_range": (1, 2), "batch_size": 3},
    "in order": {"out_of_range": "drop", "shuffle": False, "batch_size": 3},
    "integers": {"out_of_range": "drop", "seed": 7, "dtype": "float64", "batch_size": 3},
}


def document() -> dict[str, Any]:
    """The contract as it is now."""
    with tempfile.TemporaryDirectory() as scratch:
        return _document(Path(scratch) / "data")


def _document(dataset: Path) -> dict[str, Any]:
    modules = ("vlpipe", *(f"vlpipe.{name}" for name in ("audio", "builders", "callbacks", "layers", "layouts")))
    return {
        "names": {name: sorted(_public(importlib.import_module(name))) for name in modules},
        "signatures": {
            f"{name}.{entry}": _described(value) for name in modules for entry, value in _public(importlib.import_module(name)).items()
        },
        "commands": {name: [_option(option) for option in command.params] for name, command in sorted(main.commands.items())},
        "errors": {
            name: [base.__name__ for base in getattr(vlpipe, name).__mro__] for name in sorted(vlpipe.__all__) if name.endswith("Error")
        },
        "layouts": {name: layout.digest for name, layout in sorted(_layouts().items())},
        "files": _files(dataset),
        "states": {name: vlpipe.plan(dataset, **FIELDS, **arguments).state(1, 0) for name, arguments in STATES.items()},
        "batches": {name: _delivered(dataset, **arguments) for name, arguments in BATCHES.items()},
    }


def _public(module: Any) -> dict[str, Any]:
    names = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]
    return {name: getattr(module, name) for name in names if not inspect.ismodule(getattr(module, name))}


def _described(value: Any) -> Any:
    """A function by its parameters; a class by those of its public methods, and its public attributes."""
    if not inspect.isclass(value):
        return _parameters(value) if callable(value) else f"{type(value).__name__} {sorted(value) if isinstance(value, dict) else value!r}"
    own = [base for base in value.__mro__ if base.__module__.startswith("vlpipe")]
    members: dict[str, Any] = {}
    for base in reversed(own):
        for name, member in vars(base).items():
            if isinstance(member, (staticmethod, classmethod)):
                member = member.__func__
            if name == "__init__" or not name.startswith("_"):
                members[name] = _parameters(member) if inspect.isfunction(member) else "attribute"
    return members


def _parameters(function: Any) -> list[str]:
    """Each parameter by its kind, name and default."""
    entries = inspect.signature(function).parameters.values()
    return [
        f"{entry.kind.name.lower()} {entry.name}" + ("" if entry.default is entry.empty else f" = {_default(entry.default)}")
        for entry in entries
    ]


def _default(value: Any) -> str:
    return "a function" if inspect.isfunction(value) else repr(value)


def _option(option: click.Parameter) -> dict[str, Any]:
    default = option.default if isinstance(option.default, (str, int, float, bool, type(None))) else None
    return {
        "names": [*option.opts, *option.secondary_opts],
        "type": option.type.name,
        "choices": [str(choice) for choice in getattr(option.type, "choices", [])],
        "required": option.required,
        "default": default,
        "multiple": getattr(option, "multiple", False),
        "nargs": option.nargs,
    }


def _layouts() -> dict[str, Any]:
    layouts = vlpipe.layouts
    return {
        "audioset": layouts.audioset(),
        "byte_frames": layouts.byte_frames("x", dtype="uint8", d=4, label="y", lists=("words",)),
        "encoded_audio": layouts.encoded_audio("audio"),
        "float_frames": layouts.float_frames("x", d=4),
        "float_list": layouts.float_list("mel", d=80, label="class"),
        "int_list": layouts.int_list("x", d=2),
        "ragged_rows": layouts.ragged_rows("x"),
        "raw_bytes": layouts.raw_bytes("x", dtype="int16", d=2, byteorder="big", length="n"),
        "serialized_tensor": layouts.serialized_tensor("x"),
        "youtube8m": layouts.youtube8m(classes=3862),
    }


def _files(path: Path) -> dict[str, str]:
    """Write a dataset with a field of each kind; the digests of its files."""
    random = np.random.default_rng(0)
    schema = vlpipe.Schema(
        features=vlpipe.Sequence(3),
        pitch=vlpipe.Sequence((), "int16"),
        label=vlpipe.Fixed(),
        vector=vlpipe.Fixed(2, "float32"),
        text=vlpipe.Text(),
    )
    records = [
        {
            "features": random.normal(size=(n, 3)).astype(np.float32),
            "pitch": np.arange(2 * n, dtype=np.int16),
            "label": n % 5 - 1,
            "vector": np.float32([n, 0.5]),
            "text": f"n° {n}",
        }
        for n in (*range(24), 300, 7, 7, 7)
    ]
    with vlpipe.Writer(path, schema, num_shards=2) as writer:
        writer.metadata = {"classes": ["a", "b"], "label": "label"}
        for record in records:
            writer.write(record)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(path.iterdir())}


def _delivered(dataset: Path, **arguments: Any) -> str:
    """A digest of two epochs of batches; tests/engines/test_engines.py compares the engines."""
    return _digest(vlpipe.make_dataset(dataset, engine="mapped", **FIELDS, **arguments))


def _digest(dataset: Any) -> str:
    import tensorflow as tf

    digest = hashlib.sha256()
    for _ in range(2):
        for batch in dataset:
            for value in tf.nest.flatten(batch, expand_composites=True):
                array = value.numpy()
                digest.update(f"{array.dtype} {array.shape}".encode())
                digest.update(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(document(), indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
