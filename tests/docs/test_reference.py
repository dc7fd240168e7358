"""The reference has every public name and command, links lead somewhere, and the pictures are those that the scripts draw."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import click
import pytest

import vlpipe
from tests.docs.pages import DOCS, PAGES, ROOT, anchors, links
from vlpipe.cli import main

REFERENCE = "\n".join(page.read_text("utf-8") for page in sorted((DOCS / "reference").glob("*.md")))
DOCUMENTED = set(re.findall(r"^\.\. (?:auto\w+|py:data):: (\S+)$", REFERENCE, re.MULTILINE))


def members() -> set[str]:
    """What `:members:` of a class or a module names."""
    found = re.findall(r"^\.\. auto\w+:: (\S+)\n   :members: (.+)$", REFERENCE, re.MULTILINE)
    return {f"{name}.{member}" for name, listed in found for member in listed.split(", ")}


def test_every_public_name_is_in_the_reference() -> None:
    public = {f"vlpipe.{name}" for name in vlpipe.__all__}
    for submodule in ("audio", "builders", "layers", "layouts"):
        public |= {f"vlpipe.{submodule}.{name}" for name in getattr(vlpipe, submodule).__all__}
    public |= {f"vlpipe.callbacks.{name}" for name, value in vars(vlpipe.callbacks).items() if _is_own_callback(value)}
    assert sorted(public - DOCUMENTED - members()) == []


def _is_own_callback(value: object) -> bool:
    return isinstance(value, type) and value.__module__ == "vlpipe.callbacks"


def test_every_name_in_the_reference_exists() -> None:
    for name in DOCUMENTED | members():
        value: object = None
        module, attributes = name, []
        while value is None:
            try:
                value = importlib.import_module(module)
            except ModuleNotFoundError:
                module, _, attribute = module.rpartition(".")
                attributes.insert(0, attribute)
        for attribute in attributes:
            value = getattr(value, attribute)


def test_every_command_is_in_the_reference() -> None:
    from docs import commands

    page = commands.PAGE.read_text("utf-8")
    assert page == commands.page(), "after a change of a command or an option: python -m docs.commands"
    assert re.findall("^## (.+)$", page, re.MULTILINE) == sorted(main.commands)
    assert page.count("\n- `--") + page.count("\n- `-n ") + page.count("\n- `-o ") == sum(
        isinstance(option, click.Option) for command in main.commands.values() for option in command.params
    )


def test_every_error_has_its_cause_and_cure() -> None:
    page = (DOCS / "reference/errors.md").read_text("utf-8")
    explained = re.findall(r"^## (\w+)\n\n\*\*Cause\.\*\* [^#`]{20}[^#]+?\n\n\*\*Cure\.\*\* [^#]{20}", page, re.MULTILINE)
    errors = {name for name in vlpipe.__all__ if name.endswith("Error")}
    assert set(explained) == errors - {"VlpipeError"}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(page):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {link}, which does not exist"
        if heading:
            assert heading in anchors(target), f"{page.name} links to {link}: {target.name} has no such heading"


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = {DOCS / "index.md"}
    for page in PAGES:
        for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            listed |= {page.parent / f"{line}.md" for line in block.splitlines() if line and not line.startswith(":")}
    assert listed == set(PAGES)


def test_the_pictures_are_those_that_the_scripts_draw(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from docs.pictures.__main__ import DIRECTORY, draw

    draw(tmp_path)
    drawn = {path.name: _without_ids(path) for path in tmp_path.iterdir()}
    assert drawn == {path.name: _without_ids(path) for path in DIRECTORY.glob("*.svg")}
    shown = {Path(link).name for page in PAGES for link in links(page) if link.endswith(".svg")}
    assert shown == set(drawn)


def _without_ids(path: Path) -> str:
    """A picture without its ids, in which Matplotlib hashes how NumPy prints a number: another text in NumPy 1 and 2."""
    return re.sub(r"\b[pm][0-9a-f]{10}\b", "id", path.read_text("utf-8"))
