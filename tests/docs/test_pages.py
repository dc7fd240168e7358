"""Every block of code of README.md and of the documentation, run as a reader would: page by page, in order, beside the example data.

A block that needs a package which is not installed (PyTorch, Lhotse, Grain) is left out: `<!-- needs torch -->`.
A page finds in its working folder what docs/recipes/index.md says that it has: `recordings/`, and `data/train` and `data/val` made of them.
Python runs in one space for each page; `vlpipe` runs in this process; other commands are checked against Makefile and pyproject.toml.
"""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest

from tests.docs.pages import DOCS, PAGES, ROOT, blocks
from tests.helpers.tones import work_in_threads
from vlpipe.cli import main

INGEST = (
    "vlpipe ingest recordings data --label-regex '(?P<speaker>[a-z]+)_(?P<label>[a-z]+)' --split train=0.8,val=0.2 --split-by speaker "
    "--sample-rate 8000 --mels 40 --num-shards 4"
)
SHOWN = ("text", "json")  # blocks that show something and are no code; so do those of a directive, "{figure} ..."
ALONE = "VLPIPE_PAGE_ALONE"
RUNS = [page for page in PAGES if {"python", "sh"} & {block.kind for block in blocks(page)}]


@pytest.fixture(scope="module")
def example_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `recordings/`, `data/train` and `data/val`."""
    folder = tmp_path_factory.mktemp("example")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_line("python docs/example_data.py", patch)
        run_line(INGEST, patch)
        yield folder


@pytest.mark.parametrize("page", RUNS, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_block_runs(
    page: Path, example_data: Path, quick_graphs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if "import jax" in page.read_text("utf-8") and ALONE not in os.environ:
        # Once JAX is imported, every fork of this process is warned of, and tests of kills fork.
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", request.node.nodeid]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, ALONE: "1"}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return
    for name in ("recordings", "data"):
        shutil.copytree(example_data / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    np.random.seed(0)
    space: dict[str, Any] = {}
    for block in blocks(page):
        where = f"{page.relative_to(ROOT)}, line {block.line}"
        if any(importlib.util.find_spec(package) is None for package in block.needs):
            continue
        if block.kind == "python":
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), space)
        elif block.kind == "sh":
            for line in block.text.replace("\\\n", " ").splitlines():
                run_line(line, monkeypatch, where)
        else:
            assert block.kind in SHOWN or block.kind.startswith("{"), f"{where}: a block of the kind {block.kind!r} is not run"


def run_line(line: str, monkeypatch: pytest.MonkeyPatch, where: str = "") -> None:
    """Run a line of a shell: `vlpipe` and `python docs/...`; of others, see that what they name exists."""
    words = shlex.split(line, comments=True)
    if not words or words[0] in ("cd", "git"):
        return
    if words[0] == "vlpipe":
        work_in_threads(monkeypatch)
        if ">" in words:
            target = words[words.index(">") + 1]
            words = words[: words.index(">")]
        else:
            target = None
        result = click.testing.CliRunner().invoke(main, words[1:])
        assert result.exit_code == 0, f"{where}: {line}\n{result.output}\n{result.exception!r}"
        if target:
            Path(target).write_text(result.stdout, "utf-8")
    elif words[0] == "python" and words[1].startswith("docs/"):
        monkeypatch.setattr("sys.argv", words[1:])
        runpy.run_path(str(ROOT / words[1]), run_name="__main__")
    elif words[0] == "make":
        makefile = (ROOT / "Makefile").read_text("utf-8")
        for target in (word for word in words[1:] if "=" not in word):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{where}: Makefile has no target {target}"
    elif words[:2] == ["pip", "install"]:
        project = (ROOT / "pyproject.toml").read_text("utf-8")
        for extra in re.findall(r"\w+", "".join(re.findall(r"\[([\w,]+)\]", line))):
            assert re.search(rf"^{extra} = \[", project, re.MULTILINE), f"{where}: pyproject.toml has no extra {extra}"
    else:
        raise AssertionError(f"{where}: {line!r} is not run by this test")


def test_the_example_data_are_what_the_pages_say(example_data: Path) -> None:
    text = (DOCS / "recipes/index.md").read_text("utf-8")
    assert len(list((example_data / "recordings").iterdir())) == 240
    assert " ".join(INGEST.split()) in " ".join(text.replace("\\\n", " ").split())
