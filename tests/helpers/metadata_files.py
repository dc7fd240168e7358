"""Change a `vlpipe.json` in a test: it would be refused if it kept the digest of what it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def edit_metadata(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the document in a `vlpipe.json`, which then has no digest.

    Args:
        path: the file.
        change: changes the document, or returns another one.
    """
    document = json.loads(path.read_text("utf-8"))
    document.pop("digest", None)
    replacement = change(document)
    path.write_text(json.dumps(document if replacement is None else replacement), "utf-8")


def without_digest(path: Path) -> dict[str, Any]:
    """The document in a `vlpipe.json`, to be changed and written again."""
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    document.pop("digest", None)
    return document
