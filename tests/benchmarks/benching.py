"""Run a benchmark script as a user does, with --quick, but in this process, which has imported TensorFlow."""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def quick(script: str, directory: Path, *arguments: str) -> dict[str, Any]:
    """Run the script and return the document that it writes; its scratch files go into the directory too."""
    path = directory / f"{script}.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"benchmarks/{script}.py", "--quick", *arguments, "--json", str(path)])
        patch.setattr(tempfile, "tempdir", str(directory))
        importlib.import_module(f"benchmarks.{script}").main()
    document: dict[str, Any] = json.loads(path.read_text())
    assert document["script"] == script
    return document
