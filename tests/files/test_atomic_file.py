"""`replace_file`: one file in a single step, never through a link, and nothing left behind."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from vlpipe.files import atomic_file
from vlpipe.files.atomic_file import replace_file


def test_the_file_has_the_new_content_and_nothing_else_is_there(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        replace_file(tmp_path / "it", content)
        assert (tmp_path / "it").read_bytes() == content
    assert os.listdir(tmp_path) == ["it"]


def test_a_link_is_replaced_and_a_directory_that_is_a_link_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("my thesis")
    (tmp_path / "it").symlink_to("precious")
    replace_file(tmp_path / "it", b"new")
    assert ((tmp_path / "it").is_symlink(), (tmp_path / "it").read_bytes()) == (False, b"new")
    (tmp_path / "there").mkdir()
    (tmp_path / "here").symlink_to("there")
    with pytest.raises(NotADirectoryError):
        replace_file(tmp_path / "here" / "it", b"new")
    assert ((tmp_path / "precious").read_text(), os.listdir(tmp_path / "there")) == ("my thesis", [])


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    mine = [".a.0123abcd.new", ".it.00000000.new"]
    others = ["it.00000000.new", ".it.0123.new", ".it.0123abcd.old", "x"]
    for name in (*mine, *others):
        (tmp_path / name).touch()
    (tmp_path / "locked").mkdir()
    with (tmp_path / mine[0]).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # a process that is writing it
        replace_file(tmp_path / "it", b"new")
    assert sorted(os.listdir(tmp_path)) == sorted([mine[0], *others, "it", "locked"])


def test_a_scratch_file_that_another_process_removed_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, calls = os.rename, []

    def removed_first(source: str, *arguments: object, **options: int) -> None:
        calls.append(source)
        if len(calls) == 1:
            os.unlink(source, dir_fd=options["src_dir_fd"])
        rename(source, *arguments, **options)

    monkeypatch.setattr(os, "rename", removed_first)
    replace_file(tmp_path / "it", b"new")
    assert ((tmp_path / "it").read_bytes(), len(calls)) == (b"new", 2)


def test_a_failure_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_file(tmp_path / "it", b"old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(tmp_path / "it", b"new")
    assert ((tmp_path / "it").read_bytes(), os.listdir(tmp_path)) == (b"old", ["it"])


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    (tmp_path / ".it.00000000.new").touch()
    atomic_file._cleared.clear()
    replace_file(tmp_path / "it", b"new")
    assert sorted(os.listdir(tmp_path)) == [".it.00000000.new", "it"]
