"""What vlpipe makes of a case: the files are written, opened, read and verified, in a child process whose death is an answer too."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import random
import resource
import select
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import vlpipe
from tests.attacks.mutate import Files, mutate
from tests.attacks.records import example, feature_list, floats, ints, texts
from tests.attacks.records import write as write_tfrecord
from vlpipe import layouts
from vlpipe.sources.compute_statistics import with_statistics
from vlpipe.sources.open import open_anywhere
from vlpipe.sources.records import Records

MAX_SECONDS = 60
MAX_BYTES = 1 << 30
MTIME = 1_700_000_000_000_000_000  # of third-party files: a cached index belongs to one modification time
_PAGE = resource.getpagesize()


class Target(NamedTuple):
    """A dataset to attack.

    Attributes:
        files: its files.
        layout: of third-party records; None: native.
        truth: the values of each record.
    """

    files: Files
    layout: Any
    truth: list[Any]


class Outcome(NamedTuple):
    """What became of a case.

    Attributes:
        kind: "same" or "different" values; "refused" with a `VlpipeError`; or a fault: "exception", "signal", "hang", "memory", "message"
            (control characters, or too long), "wrong" (other values, though a checksum of a native dataset was not repaired).
        text: the message.
        verified: whether `verify` found nothing; None: not asked, or refused.
    """

    kind: str
    text: str = ""
    verified: bool | None = None


TryAll = Callable[[str, Target, range, Path], Iterator[Outcome | None]]
FAULTS = {"exception", "signal", "hang", "memory", "message", "wrong"}
_REPAIRED = {"signed", "native_record", "index_rows"}  # changes whose checksums are right again

# ---- targets -------------------------------------------------------------------------------------------------------------------------


def native(directory: Path) -> Target:
    """A dataset with a field of each kind."""
    r = np.random.default_rng(3)
    schema = vlpipe.Schema(
        features=vlpipe.Sequence(6), transcript=vlpipe.Sequence((), "int32"), label=vlpipe.Fixed((), "int64"), speaker=vlpipe.Text()
    )
    with vlpipe.Writer(directory / "native", schema, num_shards=3) as writer:
        writer.metadata |= {"classes": ["ant", "bee", "cat"], "label": "label"}
        for n in range(10):
            record = {"features": r.normal(size=(n + 2, 6)).astype("f4"), "transcript": np.arange(n % 5, dtype="i4")}
            writer.write({**record, "label": n % 3, "speaker": f"s{n}"})
    return _target(directory / "native", None)


LAYOUTS = {
    "float_list": layouts.float_list("x", d=4, label="label", lists=("tags",)),
    "raw_bytes": layouts.raw_bytes("x", dtype="float32", d=4, label="label"),
    "int_list": layouts.int_list("x", d=4, label="label"),
    "float_frames": layouts.float_frames("x", label="label"),
    "byte_frames": layouts.byte_frames("x", dtype="uint8", label="label"),
}


def third_party(directory: Path, kind: str) -> Target:
    """A third-party file with its cached index and statistics."""
    r, records = np.random.default_rng(1), []
    for n in range(8):
        x, label = r.normal(size=(n + 2, 4)).astype("<f4"), ints(n % 3)
        if kind == "float_list":
            records.append(example({"x": floats(x), "label": label, "tags": ints(*range(n % 4)), "name": texts(b"n")}))
        elif kind == "raw_bytes":
            records.append(example({"x": texts(x.tobytes()), "label": label}))
        elif kind == "int_list":
            records.append(example({"x": ints(*r.integers(-500, 500, x.size).tolist()), "label": label}))
        elif kind == "float_frames":
            records.append(example({"label": label}) + feature_list("x", map(floats, x)))
        else:
            records.append(
                example({"label": label}) + feature_list("x", (texts(row.tobytes()) for row in r.integers(0, 255, (n + 2, 4), "u1")))
            )
    (directory / kind).mkdir()
    path = write_tfrecord(directory / kind / "a.tfrecord", records)
    os.utime(path, ns=(MTIME, MTIME))
    with_statistics(open_anywhere(path, LAYOUTS[kind]), workers=1)
    return _target(directory / kind, LAYOUTS[kind])


def targets(directory: Path) -> dict[str, Target]:
    """All of them, written below a directory."""
    return {"native": native(directory), **{kind: third_party(directory, kind) for kind in LAYOUTS}}


def _target(directory: Path, layout: Any) -> Target:
    files = {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}
    return Target(files, layout, values(_source(directory, layout), layout))


def _source(directory: Path, layout: Any) -> Path:
    return directory if layout is None else directory / "a.tfrecord"


def values(source: Path, layout: Any) -> list[Any]:
    """All values of all records, to be compared."""
    index = open_anywhere(source, layout)
    with Records(index) as records:
        return [
            {name: value if isinstance(value, bytes) else (value.dtype.str, value.shape, value.tobytes()) for name, value in entry.items()}
            for entry in (records.values(row) for row in range(len(index)))
        ]


# ---- one case ------------------------------------------------------------------------------------------------------------------------


def put(directory: Path, files: Files) -> None:
    """Write the files of a case into an empty directory."""
    shutil.rmtree(directory, ignore_errors=True)
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(MTIME, MTIME))


def attempt(directory: Path, target: Target, *, verify: bool) -> Outcome:
    """Open, plan, read and verify."""
    source = _source(directory, target.layout)

    def same() -> bool:
        vlpipe.plan(source, batch_size=4, **({} if target.layout is None else {"layout": target.layout})).report()
        return values(source, target.layout) == target.truth

    outcome = answer(same)
    if not verify or outcome.kind not in ("same", "different"):
        return outcome
    try:
        return outcome._replace(verified=vlpipe.verify(source, target.layout).ok)
    except vlpipe.VlpipeError:
        return outcome
    except BaseException as error:
        return Outcome("exception", f"verify: {type(error).__name__}: {error}"[:500])


def answer(same: Callable[[], bool]) -> Outcome:
    """The outcome of reading a case: whether the values are the `same`, or what came instead of them."""
    try:
        return Outcome("same" if same() else "different")
    except vlpipe.VlpipeError as error:
        text = str(error)
        fine = all(letter.isprintable() or letter == "\n" for letter in text) and len(text) < 5000
        return Outcome("refused" if fine else "message", text[:500])
    except MemoryError as error:
        return Outcome("memory", repr(error))
    except BaseException as error:  # what an attack must never bring about
        return Outcome("exception", f"{type(error).__name__}: {error}"[:500])


def case(kind: str, target: Target, seed: int) -> tuple[str, Files, bool]:
    """The case of a seed: what was done, its files, and whether to verify it."""
    r = random.Random(f"{kind}-{seed}")
    done, files = mutate(r, target.files)
    return done, files, r.random() < 0.3


def outcomes(kind: str, target: Target, seeds: range, directory: Path, try_all: TryAll | None = None) -> Iterator[tuple[int, Outcome]]:
    """The outcome of each seed. Children try many of them each; when one dies or hangs, another goes on.

    Args:
        try_all: what a child does; None: `open_all`.
    """
    first = seeds.start
    while first < seeds.stop:
        for seed, outcome in _child(kind, target, range(first, seeds.stop), directory, try_all or open_all):
            yield seed, outcome
            first = seed + 1


def _child(kind: str, target: Target, seeds: range, directory: Path, try_all: TryAll) -> Iterator[tuple[int, Outcome]]:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            signal.alarm(0)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            logging.disable(logging.CRITICAL)
            os.environ["XDG_CACHE_HOME"] = str(directory / "cache")
            _send(try_all(kind, target, seeds, directory), write)
        finally:
            os._exit(1)
    os.close(write)
    seed, hangs = seeds.start, False
    with os.fdopen(read, "rb", buffering=0) as answers:  # unbuffered, so that `select` sees what is there
        while seed < seeds.stop:
            hangs = not select.select([answers], [], [], MAX_SECONDS)[0]
            size = b"" if hangs else _exactly(answers, 4)
            if len(size) < 4:
                break
            yield seed, Outcome(*pickle.loads(_exactly(answers, int.from_bytes(size, "little"))))
            seed += 1
    if hangs:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if seed < seeds.stop and status:  # without a status it has ended by itself, for a new child to go on
        yield seed, Outcome("hang" if hangs else "signal", f"status {status}")


def _exactly(stream: Any, count: int) -> bytes:
    content = b""
    while len(content) < count and (part := stream.read(count - len(content))):
        content += part
    return content


def _send(tried: Iterator[Outcome | None], answers: int) -> None:
    next(tried)  # ready
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for outcome in filter(None, tried):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if (peak - before) << 10 > MAX_BYTES and outcome.kind not in FAULTS:
            outcome = Outcome("memory", f"{(peak - before) >> 10} MiB")
        message = pickle.dumps(tuple(outcome))
        os.write(answers, len(message).to_bytes(4, "little") + message)
        if peak - before > MAX_BYTES >> 12:
            os._exit(0)  # a new child has a new peak
    os._exit(0)


def open_all(kind: str, target: Target, seeds: range, directory: Path) -> Iterator[Outcome | None]:
    """Open the case of each seed, after a None when it is ready."""
    limit_memory(MAX_BYTES)
    yield None
    for seed in seeds:
        done, files, verify = case(kind, target, seed)
        put(directory / "case", files)
        shutil.rmtree(directory / "cache", ignore_errors=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = attempt(directory / "case", target, verify=verify)
        if outcome.kind == "different" and must_be_the_same(target, done):
            outcome = outcome._replace(kind="wrong")
        yield outcome


def must_be_the_same(target: Target, done: str) -> bool:
    """Whether a case that was changed so may not deliver other values: no checksum was repaired. (Third-party files may be anything.)"""
    return target.layout is None and not _REPAIRED & set(done.split(" + "))


def limit_memory(count: int) -> None:
    """Let this process have `count` bytes of address space more than it has now."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE
    resource.setrlimit(resource.RLIMIT_AS, (now + count, resource.RLIM_INFINITY))


def name_of(kind: str, files: Files) -> str:
    """The name of a found case."""
    digest = hashlib.sha256(b"".join(name.encode() + b"\0" + content for name, content in sorted(files.items())))
    return f"{kind}-{digest.hexdigest()[:12]}"
