"""Every error that the library raises on purpose has a test of what it says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORDS = 3  # consecutive words of a message that must stand in a test


def raised(tree: ast.AST) -> Iterator[tuple[int, list[str]]]:
    """The line of each `raise SomeError(message)`, and the constant parts of the message."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            name = ast.unparse(node.exc.func).split(".")[-1]
            if name.endswith("Error"):
                parts = [
                    part.value for part in ast.walk(node.exc.args[0]) if isinstance(part, ast.Constant) and isinstance(part.value, str)
                ]
                yield node.lineno, parts


def phrases(parts: list[str]) -> set[str]:
    found = set()
    for part in parts:
        words = part.split()
        found |= {" ".join(words[start : start + WORDS]) for start in range(len(words) - WORDS + 1)} or {part.strip()}
    return {phrase for phrase in found if len(phrase) > 6}


def cases() -> Iterator[tuple[str, set[str]]]:
    for path in sorted((ROOT / "vlpipe").rglob("*.py")):
        for line, parts in raised(ast.parse(path.read_text("utf-8"))):
            if phrases(parts):
                yield f"{path.relative_to(ROOT)}:{line}", phrases(parts)


@pytest.fixture(scope="module")
def tests() -> str:
    """All tests as one text, without the escapes of regular expressions."""
    text = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    return re.sub(r"\\(.)", r"\1", text)


@pytest.mark.parametrize(("place", "said"), list(cases()), ids=lambda value: value if isinstance(value, str) else "")
def test_the_message_is_tested(place: str, said: set[str], tests: str) -> None:
    assert any(phrase in tests for phrase in said), f"{place} raises an error whose text no test has: {sorted(said)}"
