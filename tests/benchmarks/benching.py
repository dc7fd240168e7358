"""Run a benchmark script as a user does, with --quick."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def quick(script: str, directory: Path, *arguments: str) -> dict[str, Any]:
    """Run the script and return the document that it writes; its scratch files go into the directory too."""
    path = directory / f"{script}.json"
    command = [sys.executable, "-m", f"benchmarks.{script}", "--quick", *arguments, "--json", str(path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env={**os.environ, "TMPDIR": str(directory)})
    document: dict[str, Any] = json.loads(path.read_text())
    assert document["script"] == script
    return document
