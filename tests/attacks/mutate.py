"""Change the files of a dataset on purpose, knowing their structure: a change reaches deep, because the digests around it are repaired.

A case is a dict from the name of a file to its content. `mutate` is a pure function of a random number generator and a case, so that a seed
is enough to make a case again.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import google_crc32c
import numpy as np

from tests.attacks.records import framed, header, masked, records_of

Files = dict[str, bytes]

HOSTILE: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 3, 7, 255, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64),
    *(-(2**63), 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "a", "0", "float16", "float64", "int8", "sequence", "fixed", "text", "a" * 100_000, "\ud800", "\0", "../x", "/etc/passwd"),
    *("..", ".", "a/b", "gs://b/x", "file:///etc/passwd", "~", "\x1b[2J"),
    *([], {}, [[]], [None], [1], [0], [2**40], [1] * 40, [2**31], {"kind": "text"}, {"kind": "sequence", "shape": [1], "dtype": "uint8"}),
]
LENGTHS = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 16, 2**64 - 12]

# ---- bytes ---------------------------------------------------------------------------------------------------------------------------


def flip(r: random.Random, content: bytes) -> bytes:
    """Flip one bit."""
    changed = bytearray(content or b"\0")
    changed[r.randrange(len(changed))] ^= 1 << r.randrange(8)
    return bytes(changed)


def cut(r: random.Random, content: bytes) -> bytes:
    """Keep the beginning."""
    return content[: r.randrange(len(content) + 1)]


def longer(r: random.Random, content: bytes) -> bytes:
    """Append something."""
    return content + r.choice([b"\0", bytes(12), framed(b""), header(2**40), content, r.randbytes(20)])


def zeros(r: random.Random, content: bytes) -> bytes:
    """Overwrite a part with zeros."""
    at, size = r.randrange(len(content) + 1), r.choice([1, 2, 8, 64, 512])
    return (content[:at] + bytes(size) + content[at + size :])[: len(content)]


def junk(r: random.Random, content: bytes) -> bytes:
    """Something else altogether."""
    return r.choice([b"", r.randbytes(len(content)), bytes(len(content)), b"\x1f\x8b\x08" + content[3:], b"RIFF" + content[4:]])


def compressed(r: random.Random, content: bytes) -> bytes:
    """The same, compressed."""
    return r.choice([gzip.compress, zlib.compress])(content)


BYTES: tuple[Callable[[random.Random, bytes], bytes], ...] = (flip, cut, longer, zeros, junk, compressed)

# ---- JSON ----------------------------------------------------------------------------------------------------------------------------


def places(document: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The keys that lead to each value of a document."""
    inner = document.items() if isinstance(document, dict) else enumerate(document[:4]) if isinstance(document, list) else ()
    return [at, *(place for key, value in inner for place in places(value, (*at, key)))]


def json_value(r: random.Random, content: bytes) -> bytes:
    """Set, remove or repeat one value of a JSON document."""
    document = json.loads(content)
    *outer, last = r.choice(places(document)[1:])
    parent = document
    for key in outer:
        parent = parent[key]
    how = r.randrange(6)
    if how == 0:
        del parent[last]
    elif how == 1 and isinstance(parent, list):
        parent.append(parent[last])
    elif how == 1:
        parent[str(last) + r.choice(["x", "\x1b", " "])] = parent[last]
    elif how == 2:  # the same key twice
        return json.dumps(document).encode().replace(b"{", b'{"%s": 1, ' % str(last).encode("utf-8", "replace")[:20], 1)
    else:
        parent[last] = r.choice(HOSTILE)
    return json.dumps(document).encode()


def json_bomb(r: random.Random, content: bytes) -> bytes:
    """Add something large or deep to a JSON document."""
    size = r.choice([1000, 50_000, 300_000])
    bomb = r.choice([b"[" * size + b"]" * size, b"[" + b"[]," * size + b"[]]", b"9" * size, b'"' + b"\\u001b" * size + b'"'])
    return b'{"x": ' + bomb + b"," + content.lstrip()[1:]


# ---- records of protocol buffers -----------------------------------------------------------------------------------------------------


def wire(r: random.Random, data: bytes) -> bytes:
    """Change the bytes of a record."""
    changed, at = bytearray(data), r.randrange(len(data) + 1)
    how = r.randrange(8)
    if how == 0:
        return flip(r, data)
    if how == 1 and data:
        changed[r.randrange(min(40, len(data)))] = r.choice([0, 1, 8, 0x0A, 0x12, 0x1A, 0x7F, 0x80, 0xFF])
    elif how == 2:
        changed[at:at] = bytes(r.choice([0x80, 0xFF, 0x0A, 0]) for _ in range(r.choice([1, 2, 9, 10, 11])))
    elif how == 3:
        del changed[at:]
    elif how == 4:
        del changed[at : at + r.choice([1, 2, 4, 8])]
    elif how == 5:
        changed += r.choice([b"\x0a\0", b"\x12\0", b"\x0a\xff\xff\xff\xff\x0f", b"\0", data, b"\x0a" + b"\x80" * 9 + b"\1", b"\x1f"])
    elif how == 6:
        changed[at:at] = changed[at : at + r.randrange(1, 20)]
    else:
        return r.choice([b"", r.randbytes(50), b"\x0a\0" * r.choice([1, 1000, 30_000]) + data])
    return bytes(changed)


def one_record(r: random.Random, content: bytes) -> bytes:
    """Change one record, with the right checksums around it, or its length, or the order of all."""
    records = records_of(content)
    if not records:
        return junk(r, content)
    number, how = r.randrange(len(records)), r.randrange(8)
    if how == 0:
        lengths = [r.choice(LENGTHS) if position == number else len(data) for position, data in enumerate(records)]
        return b"".join(header(n) + data + struct.pack("<I", masked(data)) for n, data in zip(lengths, records, strict=True))
    if how == 1:
        r.shuffle(records)
    elif how == 2:
        records = records[:number]
    else:
        records[number] = wire(r, records[number])
    return b"".join(map(framed, records))


# ---- arrays --------------------------------------------------------------------------------------------------------------------------


def npy(text: str, body: bytes, version: int = 1) -> bytes:
    """An array file with any text for a header."""
    content = text.encode("utf-8", "replace")
    content += b" " * (-(len(content) + 11 + 2 * (version > 1)) % 64) + b"\n"
    size = struct.pack("<H", len(content) & 0xFFFF) if version == 1 else struct.pack("<I", len(content))
    return b"\x93NUMPY" + bytes([version, 0]) + size + content + body


def split_npy(content: bytes) -> tuple[str, bytes]:
    """The header and the bytes of an intact array file."""
    wide = content[6] > 1
    (size,) = struct.unpack_from("<I" if wide else "<H", content, 8)
    begin = 12 if wide else 10
    return content[begin : begin + size].decode("utf-8"), content[begin + size :]


def npy_header(r: random.Random, content: bytes) -> bytes:
    """Change the header of an array file."""
    text, body = split_npy(content)
    size = r.choice([100, 5000, 60_000, 400_000])
    bombs = [
        "(" * size + ")" * size,
        "[" * size,
        "-" * size + "1",
        "1+" * size + "1",
        "1," * size,
        "'a'" * size,
        "\n" * size,
        "not " * size,
    ]
    shape = r.choice(["()", "(-1,)", "(0,)", "(1,)", f"({2**62},)", f"({10**40},)", "(2, 0)", "None", "(True,)", "(1.0,)", "'x'"])
    dtype = r.choice(["'<u4'", "'|O'", "'<U0'", "''", "'<M8[D]'", "'|S1000000000'", "[('a', '<u4')]", "[[]]", "None", "{}"])
    others = ["", "[]", "None", "__import__('os').abort()", "{'descr': '<u4'}", text[:-1], text + text, text.replace("<", ">")]
    changed = r.choice(
        [
            re.sub(r"'shape': \(.*?\)", f"'shape': {shape}", text),
            re.sub(r"'descr': (\[.*?\]|'.*?')", lambda _: f"'descr': {dtype}", text),
            text.replace("False", r.choice(["True", "1", "None"])),
            r.choice(bombs),
            text.replace("'descr':", f"'x': {r.choice(bombs)}, 'descr':"),
            r.choice(others),
            flip(r, text.encode()).decode("utf-8", "replace"),
        ]
    )
    return npy(changed, body, r.choice([1, 1, 2, 3, 7]) if len(changed) < 60_000 else 2)


# ---- a native dataset ------------------------------------------------------------------------------------------------------------------


def sign(files: Files) -> None:
    """Repair the digest of `vlpipe.json`, where it is an object."""
    try:
        document = json.loads(files["vlpipe.json"])
        document.pop("digest", None)
        text = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        document["digest"] = f"crc32c:{google_crc32c.value(text):08x}"
        files["vlpipe.json"] = json.dumps(document).encode()
    except (ValueError, AttributeError, RecursionError):
        pass  # no longer a document


def put_rows(files: Files, rows: np.ndarray, count: bool) -> None:
    """Store rows with the right digest."""
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    files["index.npy"] = buffer.getvalue()
    document = json.loads(files["vlpipe.json"])
    document["index"]["digest"] = f"crc32c:{google_crc32c.value(rows.tobytes()):08x}"
    if count:
        document["records"] = len(rows)
    files["vlpipe.json"] = json.dumps(document).encode()


def rows_of(files: Files) -> np.ndarray:
    """The rows of an intact index."""
    return np.array(np.load(io.BytesIO(files["index.npy"])))


def index_rows(r: random.Random, files: Files) -> None:
    """Change values or the order of the rows, with the right digests."""
    rows = rows_of(files)
    row, other, how = r.randrange(len(rows)), r.randrange(len(rows)), r.randrange(6)
    column = r.choice([name for name in rows.dtype.names or () if rows.dtype[name].kind in "ui"])
    if how <= 2:
        limits, old = np.iinfo(rows.dtype[column]), int(rows[column][row])
        value = r.choice([0, 1, old - 1, old + 1, old // 2, old * 2, limits.max, limits.max - 15, limits.max // 2 + 1, 2**31, 2**32 - 1])
        rows[column][row] = min(max(value, limits.min), limits.max)
    elif how == 3:
        rows[column][row], rows[column][other] = rows[column][other], rows[column][row]
    elif how == 4:
        rows[[row, other]] = rows[[other, row]]
    else:
        rows = rows[:row] if r.random() < 0.5 else np.concatenate([rows, rows[row : row + 1]])
    put_rows(files, rows, r.random() < 0.7)


def native_record(r: random.Random, files: Files) -> None:
    """Change one record, and repair everything that describes it: checksums, offsets, sizes, digests."""
    document, rows = json.loads(files["vlpipe.json"]), rows_of(files)
    number = r.randrange(len(document["shards"]))
    shard = document["shards"][number]
    records = records_of(files[shard["name"]])
    if records:
        changed = r.randrange(len(records))
        records[changed] = wire(r, records[changed])
    content = b"".join(map(framed, records))
    files[shard["name"]] = content
    shard |= {"bytes": len(content), "digest": f"sha256:{hashlib.sha256(content).hexdigest()}"}
    mine, at = np.flatnonzero(rows["shard"] == number), 0
    for row, data in zip(mine[np.argsort(rows["offset"][mine])], records, strict=True):
        rows["offset"][row], rows["bytes"][row], rows["checksum"][row] = at, len(data), masked(data)
        at += 16 + len(data)
    files["vlpipe.json"] = json.dumps(document).encode()
    put_rows(files, rows, count=False)


def on(name: str, *changes: Callable[[random.Random, bytes], bytes]) -> Callable[[random.Random, Files], None]:
    """A change of the bytes of one file; "*" stands for any shard."""

    def change(r: random.Random, files: Files) -> None:
        target = r.choice(sorted(files)) if name == "any" else name
        if name == "*":
            target = r.choice(sorted(file for file in files if file.endswith(".tfrecord")))
        files[target] = r.choice(changes)(r, files[target])

    return change


def swapped(r: random.Random, files: Files) -> None:
    """Remove a file, or give two files each other's content."""
    first, second = r.choice(sorted(files)), r.choice(sorted(files))
    if first == second:
        del files[first]
    else:
        files[first], files[second] = files[second], files[first]


NATIVE: tuple[tuple[Callable[[random.Random, Files], None], int], ...] = (
    (on("vlpipe.json", json_value), 8),
    (on("vlpipe.json", json_bomb), 1),
    (on("index.npy", npy_header), 4),
    (index_rows, 5),
    (native_record, 4),
    (on("*", one_record), 3),
    (on("any", *BYTES), 5),
    (swapped, 1),
)

# ---- third-party files -----------------------------------------------------------------------------------------------------------------


def kept(r: random.Random, content: bytes) -> bytes:
    """Change a cached index: one line of JSON with a checksum, which is repaired, and then arrays."""
    line, _, rest = content.partition(b"\n")
    how = r.randrange(4)
    if how == 0:
        return json_value(r, line) + b"\n" + rest
    if how == 1 and rest[:1] == b"\x93":
        rest = npy_header(r, rest)
    elif how == 2:
        at = r.randrange(len(rest) + 1)
        rest = rest[:at] + r.choice([b"\0", b"\xff", b"\x7f"]) * r.choice([2, 4, 8]) + rest[at + 8 :]
    else:
        rest = r.choice(BYTES)(r, rest)
    head = json.loads(line)
    head["crc32c"] = google_crc32c.value(rest)
    return json.dumps(head).encode() + b"\n" + rest


def kept_file(r: random.Random, files: Files) -> None:
    """Change one of the cached files, or all bytes of it."""
    name = r.choice(sorted(file for file in files if "/" in file))
    files[name] = kept(r, files[name]) if r.random() < 0.8 else r.choice(BYTES)(r, files[name])


THIRD_PARTY: tuple[tuple[Callable[[random.Random, Files], None], int], ...] = (
    (kept_file, 4),
    (on("*", one_record), 5),
    (on("*", *BYTES), 2),
)


def mutate(r: random.Random, files: Files) -> tuple[str, Files]:
    """Change a case once, or now and then twice.

    Args:
        files: a native dataset, with its `vlpipe.json`; or third-party files, with `.vlpipe-index/...`.

    Returns:
        What was done, and the new case.
    """
    operators, is_native = (NATIVE, True) if "vlpipe.json" in files else (THIRD_PARTY, False)
    files, done = dict(files), []
    for _ in range(1 if r.random() < 0.9 else 2):
        (change,) = r.choices([change for change, _ in operators], [weight for _, weight in operators])
        try:
            change(r, files)
            done.append(change.__qualname__.split(".")[0])
        except Exception:
            done.append("(nothing)")  # the first change left nothing for the second
    if is_native and r.random() < 0.7 and "vlpipe.json" in files:
        sign(files)
        done.append("signed")
    return " + ".join(done), files
