"""Third-party files with every kind of key beside the frames: what becomes of each key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tests.helpers.foreign_files import example, floats, ints, raw, sequence_example
from vlpipe import layouts

RECORDS = 50  # more than the first records, which complete a layout
FIRST = 40  # the first record with a key that comes late
_RANDOM = np.random.default_rng(11)
X = [_RANDOM.normal(size=(int(t), 3)).astype("f4") for t in _RANDOM.integers(0, 9, RECORDS)]
LABELS = [int(number) for number in _RANDOM.integers(0, 9, RECORDS)]
COUNTS = _RANDOM.integers(0, 6, RECORDS).tolist()
FLOATS = [_RANDOM.normal(size=n).astype("f4") for n in COUNTS]
INTEGERS = [_RANDOM.integers(-(2**62), 2**62, n) for n in COUNTS]


@dataclass(frozen=True)
class Keys:
    """A file whose records have further keys beside the frames `x` and the label `label`.

    Attributes:
        records: the serialized records.
        kept: the value of each key in each record that a converted dataset has.
        refused: words of the reason, by key that cannot be delivered.
        layout: the layout.
    """

    records: list[bytes]
    kept: dict[str, list[Any]]
    refused: dict[str, str]
    layout: layouts.Layout


def texts(*values: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def steps(values: Any, make: Callable[[Any], tf.train.Feature]) -> list[tf.train.Feature]:
    return [make(value) for value in values]


def numbers(value: Any) -> tf.train.Feature:
    return ints(*np.atleast_1d(value).tolist())


def flat(
    make: Callable[[int], dict[str, Any]], kept: dict[str, list[Any]] | None = None, refused: dict[str, str] | None = None, **more: Any
) -> Keys:
    """Return a file of Examples."""
    records = [example({"x": floats(X[n]), "label": ints(LABELS[n]), **make(n)}) for n in range(RECORDS)]
    return Keys(records, kept or {}, refused or {}, layouts.float_list("x", d=3, label="label", **more))


def listed(
    make: Callable[[int], dict[str, Any]],
    context: Callable[[int], dict[str, Any]] = lambda _: {},
    kept: dict[str, list[Any]] | None = None,
    refused: dict[str, str] | None = None,
    **more: Any,
) -> Keys:
    """Return a file of SequenceExamples."""
    records = [sequence_example({"label": ints(LABELS[n]), **context(n)}, {"x": steps(X[n], floats), **make(n)}) for n in range(RECORDS)]
    return Keys(records, kept or {}, refused or {}, layouts.float_frames("x", label="label", **more))


def per_frame(*shape: int, dtype: str = "f4") -> list[np.ndarray]:
    """Return one value of a shape for each frame."""
    if dtype == "f4":
        return [_RANDOM.normal(size=(len(x), *shape)).astype("f4") for x in X]
    limits = np.iinfo(dtype)
    return [_RANDOM.integers(limits.min, limits.max, (len(x), *shape)).astype(dtype) for x in X]


def files() -> dict[str, Keys]:
    """Return the files by the kind of their keys."""
    none: list[Any] = [np.zeros(0, "f4")] * RECORDS
    some = [FLOATS[n][:1] for n in range(RECORDS)]
    phones, triples, pitch, quads, codes = (
        per_frame(dtype="i8"),
        per_frame(3, dtype="i8"),
        per_frame(),
        per_frame(4),
        per_frame(5, dtype="u1"),
    )
    wide = [_RANDOM.normal(size=5000).astype("f4") for _ in range(RECORDS)]
    late = [int(n >= FIRST) * n for n in range(RECORDS)]

    def if_late(n: int, **features: Any) -> dict[str, Any]:
        return features if n >= FIRST else {}

    return {
        "a float that some records lack": flat(lambda n: {"snr": floats(some[n])} if len(some[n]) else {}, {"snr": some}),
        "floats of varying length": flat(lambda n: {"energy": floats(FLOATS[n])}, {"energy": FLOATS}),
        "a vector": flat(lambda n: {"v": floats(np.full(7, n))}, {"v": [np.full(7, n, "f4") for n in range(RECORDS)]}),
        "a long vector": flat(lambda n: {"v": floats(wide[n])}, {"v": wide}),
        "no floats at all": flat(lambda n: {"none": floats([])}, {"none": none}),
        "integers of varying length": flat(lambda n: {"words": ints(*INTEGERS[n].tolist())}, {"words": INTEGERS}),
        "an integer": flat(lambda n: {"speaker": ints(-n)}, {"speaker": [np.int64(-n) for n in range(RECORDS)]}),
        "an integer that some records lack": flat(
            lambda n: {"task": ints(n)} if n % 3 else {}, {"task": [np.arange(n, n + (n % 3 > 0)) for n in range(RECORDS)]}
        ),
        "a text": flat(
            lambda n: {"name": raw(b"r%d" % n)} if n % 2 else {}, {"name": [b"r%d" % n if n % 2 else b"" for n in range(RECORDS)]}
        ),
        "several texts": flat(lambda n: {"tags": texts(*[b"a"] * (1 + n % 3))}, refused={"tags": "a record has up to 3 texts"}),
        "a late key": flat(lambda n: if_late(n, late=ints(n)), refused={"late": f"it first appears in a.tfrecord, record {FIRST}"}),
        "a late key with a default": flat(
            lambda n: if_late(n, late=ints(n)), {"late": [np.int64(value) for value in late]}, default={"late": 0}
        ),
        "floats with defaults": flat(
            lambda n: {"snr": floats([n, 1])} if n % 3 else {},
            {"snr": [np.array([n, 1] if n % 3 else [-1, 2], "f4") for n in range(RECORDS)], "gain": [np.float32(0.5)] * RECORDS},
            default={"snr": [-1, 2], "gain": 0.5},
        ),
        "several kinds": flat(lambda n: {"mixed": ints(n) if n % 2 else floats([n])}, refused={"mixed": "several kinds: float, int64"}),
        "no values": flat(lambda _: {"empty": tf.train.Feature()}, refused={"empty": "it has no values in the first records"}),
        "a name that is not printable": flat(lambda n: {"a\nb": ints(n)}, refused={"a\nb": "its name is empty or not printable"}),
        "left out": Keys(
            flat(lambda n: {"tags": texts(b"a", b"b"), "n": ints(n), **if_late(n, late=ints(n))}).records,
            {"n": [np.int64(n) for n in range(RECORDS)]},
            {},
            layouts.float_list("x", d=3, label="label").only("n"),
        ),
        "several rates": Keys(
            [
                example({"x": floats(X[n]), "audio": floats(np.repeat(X[n], 8)), "f0": floats(X[n][::2, 0]), "label": ints(LABELS[n])})
                for n in range(RECORDS)
            ],
            {"audio": [np.repeat(x, 8).reshape(-1, 4) for x in X], "f0": [x[::2, :1] for x in X]},
            {},
            layouts.float_list("x", "audio", "f0", d={"x": 3, "audio": 4, "f0": 1}, label="label"),
        ),
        "an integer for each frame": listed(lambda n: {"phones": steps(phones[n], numbers)}, kept={"phones": phones}),
        "integers for each frame": listed(lambda n: {"boxes": steps(triples[n], numbers)}, kept={"boxes": triples}),
        "floats for each frame": listed(
            lambda n: {"pitch": steps(pitch[n], floats), "quads": steps(quads[n], floats)}, kept={"pitch": pitch, "quads": quads}
        ),
        "bytes for each frame": listed(lambda n: {"codes": steps(codes[n], raw)}, kept={"codes": codes}),
        "lists that some records lack": listed(
            lambda n: {"phones": steps(phones[n], numbers), "pitch": steps(pitch[n], floats)} if n % 2 else {},
            kept={
                "phones": [p if n % 2 else p[:0] for n, p in enumerate(phones)],
                "pitch": [p if n % 2 else p[:0] for n, p in enumerate(pitch)],
            },
        ),
        "segments": listed(
            lambda n: {},
            lambda n: {"times": ints(*INTEGERS[n].tolist()), "scores": floats(FLOATS[n])},
            {"times": INTEGERS, "scores": FLOATS},
        ),
        "a text for each frame": listed(
            lambda n: {"words": steps([b"w%d" % t for t in range(len(X[n]))], raw)}, refused={"words": "its steps are texts"}
        ),
        "steps of varying size": listed(
            lambda n: {"boxes": steps([np.ones(1 + t % 2) for t in range(len(X[n]))], floats), "raw": steps([bytes(1 + n % 3)], raw)},
            refused={"boxes": "its steps have 1 to 2 numbers, expected the same", "raw": "its steps have 1 to 3 bytes, expected the same"},
        ),
        "a late list": listed(
            lambda n: if_late(n, pitch=steps(pitch[n], floats)), refused={"pitch": f"it first appears in a.tfrecord, record {FIRST}"}
        ),
        "a list and a feature of one name": listed(
            lambda n: {"both": steps(pitch[n], floats)}, lambda n: {"both": ints(n)}, refused={"both": "a feature of the context and a"}
        ),
    }
