"""The exit statuses that docs/reference/cli.md lists (130: test_terminal.py), the list of commands, and completion in bash."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

import vlpipe
from vlpipe.cli import main

ROOT = Path(vlpipe.__file__).parents[1]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    vlpipe.write(tmp_path / "a", ({"features": np.ones((t, 2), np.float32), "label": t % 2} for t in range(1, 9)), num_shards=1)
    return tmp_path / "a"


def status(*arguments: object) -> int:
    return CliRunner().invoke(main, [str(argument) for argument in arguments]).exit_code


def test_the_statuses(dataset: Path) -> None:
    assert [status(name, dataset) for name in ("plan", "verify", "stats", "head", "histogram", "inspect")] == [0] * 6
    assert status("inspect", next(dataset.glob("*.tfrecord"))) == 0
    assert status("plan", dataset / "missing") == 1
    assert status("plan", dataset, "--batch-sise", 3) == 2
    assert status("plan") == status("plan", dataset, "--batch-size", "many") == status("plann") == 2
    shard = next(dataset.glob("*.tfrecord"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    assert status("verify", dataset) == 1


def test_the_page_lists_each_command_and_status() -> None:
    page = (ROOT / "docs/reference/cli.md").read_text("utf-8")
    assert set(re.findall(r"`([a-z-]+)`", page.split("## Exit status")[0])) >= set(main.commands)
    assert re.findall(r"^[|] ([0-9]+) [|]", page, re.MULTILINE) == ["0", "1", "2", "130"]


def test_no_line_of_the_help_ends_in_mid_sentence() -> None:
    shown = CliRunner().invoke(main, ["--help"], terminal_width=80).output.partition("Commands:")[2].strip().splitlines()
    assert len(shown) == len(main.commands)
    assert all(line.endswith(".") and not line.endswith("...") for line in shown)


def test_a_misspelt_layout_is_answered_with_a_similar_one(dataset: Path) -> None:
    for layout in ("raw_byte", '{"raw_byte": {"key": "x"}}'):
        message = f"--layout: {layout} cannot be parsed (raw_byte is no layout; did you mean raw_bytes?), expected"
        assert message in CliRunner().invoke(main, ["head", str(dataset), "--layout", layout]).stderr
    assert "(xyz is no layout), expected" in CliRunner().invoke(main, ["head", str(dataset), "--layout", "xyz"]).stderr


def test_a_picture_needs_an_ending(dataset: Path) -> None:
    for command in (["plan", "--plot"], ["histogram", "-o"]):
        done = CliRunner().invoke(main, [command[0], str(dataset), command[1], str(dataset.parent / "x")])
        assert (done.exit_code, "has no ending that says what to draw" in done.stderr) == (1, True)
    assert not list(dataset.parent.glob("x*"))


def test_paths_and_values_are_completed() -> None:
    def completed(words: list[str], incomplete: str) -> list[tuple[str, str]]:
        found = ShellComplete(main, {}, "vlpipe", "_VLPIPE_COMPLETE").get_completions(words, incomplete)
        return [(item.type, item.value) for item in found]

    for name, command in main.commands.items():
        if any(isinstance(parameter, click.Argument) for parameter in command.params):
            assert completed([name], "da") == [("file", "da")], name
        for option in command.params:
            if isinstance(option, click.Option) and re.match("PATH|FILE|DIR", option.metavar or ""):
                assert completed([name, "x", "y", option.opts[-1]], "da")[0][0] in ("file", "dir"), option.name
    assert completed(["plan", "--layout"], "raw") == [("plain", "raw_bytes")]
    assert completed(["plan", "--batching"], "") == [("plain", value) for value in ("bucket", "pad", "ragged", "same_length")]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    command = tmp_path / "vlpipe"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m vlpipe.cli "$@"\n')
    command.chmod(0o755)
    script = """
    eval "$(_VLPIPE_COMPLETE=bash_source vlpipe)"
    complete -p vlpipe
    complete_words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _vlpipe_completion vlpipe; echo "${COMPREPLY[@]}"; }
    complete_words vlpipe ver
    complete_words vlpipe plan --batch-s
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["verify", "--batch-size"], done.stderr
    assert "-F _vlpipe_completion vlpipe" in done.stdout
