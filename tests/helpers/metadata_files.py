"""Change a `vlpipe.json` in a test, and its digest with it: otherwise every change would be refused for the digest alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlpipe.storage.index import DIGEST, digest_of_document


def edit_metadata(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the document in a `vlpipe.json`.

    Args:
        path: the file.
        change: changes the document, or returns another one.
    """
    document = json.loads(path.read_text("utf-8"))
    replacement = change(document)
    write_signed(path, document if replacement is None else replacement)


def write_signed(path: Path, document: Any) -> None:
    """Write a document with its digest."""
    if isinstance(document, dict):
        document[DIGEST] = digest_of_document(document)
    path.write_text(json.dumps(document), "utf-8")
