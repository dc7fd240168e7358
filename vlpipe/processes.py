"""Processes that share the work: each a Python of its own, which is told what to do by lines of text.

Processes of `multiprocessing` would run the user's script once more, which without an `if __name__ == "__main__"` starts others again:
nothing that an innocent call of this library may ask for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def start(module: str, *arguments: str, **options: Any) -> subprocess.Popen:
    """Run a module of this package, with pipes to its standard input and from its standard output.

    Args:
        module: its full name, such as "vlpipe.foreign".
        options: of `subprocess.Popen`.

    Raises:
        OSError: the system cannot start it.
    """
    package = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, **options)
