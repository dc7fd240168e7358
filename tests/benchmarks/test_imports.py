"""The benchmarks use only the public API of vlpipe."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import vlpipe
from tests.contract import _public

SCRIPTS = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py"))
ROOMS = [name for name in vlpipe.__all__ if inspect.ismodule(getattr(vlpipe, name))]
PUBLIC = {f"vlpipe.{name}" for name in (*vlpipe.__all__, "__version__")} | {
    f"vlpipe.{room}.{name}" for room in ROOMS for name in _public(getattr(vlpipe, room))
}


def names_used(tree: ast.AST) -> Iterator[str]:
    """Full names of everything of vlpipe that is imported, and of the attributes that are read of its modules."""
    modules = {"vlpipe": "vlpipe"}  # by the name that the source uses
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("vlpipe."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "vlpipe":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            modules |= {alias.asname or alias.name: f"vlpipe.{alias.name}" for alias in node.names if alias.name in ROOMS}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            owner = modules.get(owner, owner)
            if owner in {"vlpipe", *(f"vlpipe.{room}" for room in ROOMS)}:
                yield f"{owner}.{node.attr}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_benchmarks_use_only_the_public_api(path: Path) -> None:
    private = set(names_used(ast.parse(path.read_text("utf-8")))) - PUBLIC
    assert not private, f"benchmarks/{path.name} uses {sorted(private)}, which are not public"


def test_private_names_are_detected() -> None:
    source = """
import vlpipe, os
import vlpipe.planning.plan
from vlpipe import layouts, storage
from vlpipe.storage.schema import Schema
def f():
    vlpipe.audio.load(1)
    layouts.secret("x")
    vlpipe.audio.decoding
    vlpipe.make_dataset(os.path)
"""
    private = set(names_used(ast.parse(source))) - PUBLIC
    assert private == {
        "vlpipe.planning.plan",
        "vlpipe.storage",
        "vlpipe.storage.schema.Schema",
        "vlpipe.layouts.secret",
        "vlpipe.audio.decoding",
    }
