"""Processes that share the work: each a Python of its own, which is told what to do by lines of text.

Processes of `multiprocessing` (`start_pool`) run the user's script once more, which without an `if __name__ == "__main__"` starts others
again: nothing that an innocent call of this library may ask for, but what commands do.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any


def start(module: str, *arguments: str, **options: Any) -> subprocess.Popen:
    """Run a module of this package, with pipes to its standard input and from its standard output.

    Args:
        module: its full name, such as "vlpipe.sources.foreign".
        options: of `subprocess.Popen`.

    Raises:
        OSError: the system cannot start it.
    """
    package = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, **options)


def start_pool(workers: int) -> ProcessPoolExecutor:
    """So many processes; whoever starts them shuts them down."""
    # Each process is one of several: a linear-algebra library that starts threads of its own in each only slows all down.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Not forked: TensorFlow's threads do not survive a fork.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare_worker)
    # Ctrl-C goes to every process of a terminal. It is held back in those that are started here, until they can ignore it.
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for _ in range(workers):
            pool.submit(os.getpid)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    return pool


def _prepare_worker() -> None:
    """The parent decides when work ends; and if it was killed, so that it cannot, the worker ends by itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
