"""Files of a user are opened in one way: regular files only, and nothing else makes vlpipe wait, for ever or at all."""

from __future__ import annotations

import ast
import errno
import os
import shutil
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import vlpipe
from tests.attacks.records import example, floats, ints
from tests.attacks.records import write as write_tfrecord
from vlpipe import layouts
from vlpipe.ingest import find_recordings, read_classes, read_manifest
from vlpipe.regular_files import create, open_regular, open_to_append, read_regular
from vlpipe.sources.compute_statistics import with_statistics
from vlpipe.sources.foreign.cache import open_cached

PACKAGE = Path(vlpipe.__file__).parent
LAYOUT = layouts.float_list("x", d=3, label="label")

# ---- one helper ----------------------------------------------------------------------------------------------------------------------

# Where the built-in functions are allowed, and why.
OPENS = {
    "regular_files.py": {"os.open"},  # the helper
    "files/filesystem.py": set(),
    "engines/gather_copy.py": {"os.open"},  # the memory of this process
    "files/lock.py": {"os.open"},  # a lock file, of which nothing is read unless it is ours
    "files/atomic_directory.py": {"os.open"},  # to flush files that vlpipe has just written
    "files/atomic_file.py": {"os.open"},  # a directory, and scratch files whose content is not read
    "processes.py": {"open"},  # the standard input of a worker
    "text_tables.py": {"open"},  # a picture, where the user asks for it, and nothing is read
    "demo/sounds.py": {"wave.open"},  # sounds, in a new folder of the demo
}
OPENERS = {"open", "os.open", "io.open", "io.FileIO", "np.memmap", "np.load", "np.save", "json.load"}
METHODS = {"open", "read_bytes", "read_text", "write_bytes", "write_text", "fromfile", "tofile", "open_memmap"}
ALLOWED_OWNERS = ("self", "soundfile", "keras", "Image", "vlpipe")


def opening_calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of each call that opens a file by its name."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        owner, _, method = name.rpartition(".")
        if name in OPENERS or (owner and owner not in ALLOWED_OWNERS and method in METHODS):
            yield node.lineno, name


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_opens_files_in_another_way(path: Path) -> None:
    allowed = OPENS.get(str(path.relative_to(PACKAGE)), set())
    # An open file may be mapped or loaded from; that it is open is what counts.
    handles = {"np.memmap": "np.memmap(file", "np.load": "np.load(body", "np.save": "np.save(body"}
    source = path.read_text("utf-8").splitlines()
    found = [
        f"{name}, line {line}"
        for line, name in opening_calls(ast.parse("\n".join(source)))
        if name not in allowed and handles.get(name, "\0") not in source[line - 1]
    ]
    assert not found, f"opened by {found}: use vlpipe.regular_files, or files.filesystem for addresses too"


def test_the_finder_of_opening_calls_sees_them_all() -> None:
    source = "open(a); os.open(b, 0); Path(c).read_text(); path.open('rb'); np.load(d); io.open(e); (x / y).write_bytes(b'')"
    assert [name for _, name in opening_calls(ast.parse(source))] == [
        "open", "os.open", "Path(c).read_text", "path.open", "np.load", "io.open", "(x / y).write_bytes",
    ]  # fmt: skip


# ---- what is not a regular file --------------------------------------------------------------------------------------------------------


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # the path of a socket has at most 107 bytes
        server.bind(path.name)
        os.chdir(here)


OTHERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (make_pipe, "a pipe"),
    "socket": (make_socket, "a socket"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "directory": (Path.mkdir, "a directory"),
}


@pytest.fixture(autouse=True)
def _no_test_waits() -> Iterator[None]:
    """A test that opens a pipe would wait for ever."""

    def fail(*_: object) -> None:
        raise TimeoutError("it waited for 20 seconds")

    previous = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    make, name = OTHERS[kind]
    make(tmp_path / "it")
    with pytest.raises(OSError, match=f"it is {name}, not a regular file"):
        open_regular(tmp_path / "it")
    if kind != "device":  # a link to it, which is refused as a link
        with pytest.raises(OSError, match=r"not a regular file|Is a directory|No such device"):
            open_to_append(tmp_path / "it")


def test_names_that_no_file_can_have() -> None:
    for name in ("a\0b", "\ud800"):
        with pytest.raises(OSError, match="no file can have this name") as caught:
            open_regular(name)
        assert caught.value.errno == errno.EINVAL


def test_a_file_exchanged_for_a_pipe_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "it").touch()
    real = os.stat(tmp_path / "it")
    (tmp_path / "it").unlink()
    os.mkfifo(tmp_path / "it")
    monkeypatch.setattr(os, "stat", lambda *_, **__: real)
    with pytest.raises(OSError, match="it is a pipe, not a regular file"):
        open_regular(tmp_path / "it")


def test_a_limit_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(b"12345")
    assert read_regular(tmp_path / "it", 5) == read_regular(tmp_path / "it") == b"12345"
    with pytest.raises(OSError, match="it has more than 4 bytes, the most that is read"):
        read_regular(tmp_path / "it", 4)
    with pytest.raises(OSError, match="it has more than 4 bytes, the most that is read"):
        read_regular("/proc/self/status", 4)  # whose size is said to be 0


def test_a_read_that_fails_names_the_file_and_the_byte() -> None:
    """The first page of a process is not mapped: the kernel answers EIO, as a failing disk does."""
    message = r"/proc/self/mem: cannot be read from byte 0 on \(Input/output error\): its disk or its file system fails\."
    for size in (5, -1):
        with open_regular("/proc/self/mem") as file, pytest.raises(vlpipe.DatasetError, match=message) as caught:
            file.read(size)
        assert caught.value.strerror == "Input/output error"


def test_writing_follows_no_link_and_takes_no_name_twice(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("my thesis")
    (tmp_path / "link").symlink_to("precious")
    (tmp_path / "dangling").symlink_to("nothing")
    for name in ("precious", "link", "dangling"):
        with pytest.raises(FileExistsError):
            create(tmp_path / name)
    for name in ("link", "dangling"):
        with pytest.raises(OSError, match="symbolic links"):
            open_to_append(tmp_path / name)
    assert (tmp_path / "precious").read_text() == "my thesis"
    assert not (tmp_path / "nothing").exists()


# ---- every place where a file of a user is opened ----------------------------------------------------------------------


def native(directory: Path) -> Path:
    vlpipe.write(directory / "d", [{"x": np.ones((n, 3), np.float32), "label": n} for n in range(1, 5)], num_shards=1)
    return directory / "d"


def third_party(directory: Path, name: str = "a.tfrecord") -> Path:
    records = [example({"x": floats(np.arange(3 * n)), "label": ints(n)}) for n in range(1, 5)]
    write_tfrecord(directory / name, records)
    return directory / name


def native_file(name: str) -> Callable[[Path], tuple[Path, Callable[[], object]]]:
    def prepare(directory: Path) -> tuple[Path, Callable[[], object]]:
        dataset = native(directory)
        return next(dataset.glob(name)), lambda: vlpipe.plan(dataset)

    return prepare


def normalize(directory: Path) -> tuple[Path, Callable[[], object]]:
    dataset = native(directory)
    return directory / "s.json", lambda: vlpipe.plan(dataset, normalize=directory / "s.json")


def whole_file(directory: Path) -> tuple[Path, Callable[[], object]]:
    return third_party(directory), lambda: vlpipe.plan(directory / "a.tfrecord", layout=LAYOUT)


def undetected_file(directory: Path) -> tuple[Path, Callable[[], object]]:
    return third_party(directory), lambda: vlpipe.plan(directory / "a.tfrecord")


def sidecar(name: str, file: str = "a.tfrecord") -> Callable[[Path], tuple[Path, Callable[[], object]]]:
    def prepare(directory: Path) -> tuple[Path, Callable[[], object]]:
        third_party(directory, file)
        return directory / name, lambda: vlpipe.build_index(directory / file)

    return prepare


def manifest(directory: Path) -> tuple[Path, Callable[[], object]]:
    return directory / "list.csv", lambda: read_manifest(directory / "list.csv", directory)


def class_list(directory: Path) -> tuple[Path, Callable[[], object]]:
    return directory / "classes.txt", lambda: read_classes(directory / "classes.txt")


def recording(directory: Path) -> tuple[Path, Callable[[], object]]:
    return directory / "a.wav", lambda: vlpipe.audio.load(directory / "a.wav")


# Each: the file to exchange, and the call that opens it.
PLACES: dict[str, Callable[[Path], tuple[Path, Callable[[], object]]]] = {
    "vlpipe.json": native_file("vlpipe.json"),
    "index.npy": native_file("index.npy"),
    "a shard": native_file("*.tfrecord"),
    "statistics of the training set": normalize,
    "a third-party file": whole_file,
    "a third-party file of unknown layout": undetected_file,
    "features.json": sidecar("features.json"),
    "info.json of SeqIO": sidecar("info.train.json", "train.tfrecord-00000-of-00001"),
    "a manifest": manifest,
    "a class list": class_list,
    "a recording": recording,
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("place", PLACES)
def test_each_place_refuses_what_is_not_a_regular_file(tmp_path: Path, place: str, kind: str) -> None:
    path, call = PLACES[place](tmp_path)
    path.unlink(missing_ok=True)
    OTHERS[kind][0](path)
    if kind == "directory" and place in ("a third-party file", "a third-party file of unknown layout", "a class list"):
        pytest.skip("a directory may be passed here")
    with pytest.raises(vlpipe.VlpipeError) as caught:
        call()
    assert path.name in str(caught.value) or place in ("a shard", "vlpipe.json", "a third-party file of unknown layout")


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("name", ["index", "statistics", "dataset_info.json"])
def test_what_vlpipe_can_do_without_is_as_if_it_were_missing(tmp_path: Path, name: str, kind: str) -> None:
    path = third_party(tmp_path)
    index = with_statistics(vlpipe.build_index(path, LAYOUT))
    kept = [entry for entry in (tmp_path / ".vlpipe-index").iterdir() if (entry.suffix == ".statistics") == (name == "statistics")]
    broken = kept[0] if name != "dataset_info.json" else tmp_path / name
    broken.unlink(missing_ok=True)
    OTHERS[kind][0](broken)
    again = with_statistics(vlpipe.build_index(path, LAYOUT))
    assert again.fingerprint == index.fingerprint
    assert again.statistics["x"].mean.tolist() == index.statistics["x"].mean.tolist()


def test_a_folder_of_recordings_has_regular_files_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")
    (tmp_path / "b.wav").touch()
    found, _ = find_recordings(tmp_path)
    assert [entry.key for entry in found] == ["b.wav"]


@pytest.mark.parametrize("call", ["plan", "verify", "detect"])
def test_a_disk_that_fails_while_a_third_party_file_is_read(tmp_path: Path, call: str) -> None:
    (tmp_path / "a.tfrecord").symlink_to("/proc/self/mem")
    if call == "verify":
        report = vlpipe.verify(tmp_path / "a.tfrecord", LAYOUT)
        assert "Input/output error" in report.problems[0].found
        return
    with pytest.raises(vlpipe.DatasetError, match=r"a\.tfrecord: cannot be .*Input/output error"):
        vlpipe.plan(tmp_path / "a.tfrecord", layout=LAYOUT if call == "plan" else None)


def test_kept_files_are_not_written_through_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "data" / ".vlpipe-index").symlink_to("../secret")
    path = third_party(tmp_path / "data")
    index = with_statistics(vlpipe.build_index(path, LAYOUT))
    assert os.listdir(tmp_path / "secret") == []
    assert len(list((tmp_path / "cache").rglob("a.tfrecord-*"))) == 2  # in the user's cache instead
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "data" / ".vlpipe-index").unlink()
    vlpipe.build_index(path, LAYOUT)
    (kept,) = (tmp_path / "data" / ".vlpipe-index").iterdir()
    content = kept.read_bytes()
    kept.unlink()
    (tmp_path / "precious").write_bytes(content)
    kept.symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="it is reached through a link"):
        open_cached(kept)
    os.utime(path, ns=(1, 1))  # it is indexed again
    assert vlpipe.build_index(path, LAYOUT).fingerprint == index.fingerprint
    assert (tmp_path / "precious").read_bytes() == content
    assert stat.S_ISREG(os.lstat(kept).st_mode)
