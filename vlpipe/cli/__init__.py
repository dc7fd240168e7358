"""The command `vlpipe`.

Exit status: 0 success; 1 failure, with one message on stderr, or problems found; 2 wrong usage; 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Any

_INTERRUPTED = 130  # as a shell reports a program that Ctrl-C ended
_SAYS_INTERRUPTED = "vlpipe: interrupted; no output is half written"

try:  # the imports take a fifth of a second, in which Ctrl-C would show a traceback
    import click

    import vlpipe
    from vlpipe.cli.contents import head, histogram, stats, verify
    from vlpipe.cli.converting import convert
    from vlpipe.cli.demonstration import demo
    from vlpipe.cli.forecast import plan
    from vlpipe.cli.foreign import index, inspect
    from vlpipe.cli.ingestion import ingest
    from vlpipe.cli.models import check_model
    from vlpipe.cli.reporting import report
    from vlpipe.errors import VlpipeError
except KeyboardInterrupt:
    print(_SAYS_INTERRUPTED, file=sys.stderr)
    sys.exit(_INTERRUPTED)


class _Commands(click.Group):
    """Print vlpipe's errors as one message with exit status 1, and one line after Ctrl-C; any other exception is a bug and shows its
    traceback.
    """

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except VlpipeError as error:
            click.echo(f"vlpipe: {error}", err=True)
            context.exit(1)
        except KeyboardInterrupt:
            # An object that Ctrl-C left half constructed (a wave.Wave_write) fails in __del__, which Python would print as this block ends.
            sys.unraisablehook = lambda _: None
            click.echo(_SAYS_INTERRUPTED, err=True)
            context.exit(_INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(vlpipe.__version__, prog_name="vlpipe")
def main() -> None:
    """Input pipelines for variable-length sequences: from recordings to batches."""
    # TensorFlow's log messages at start-up are of no use to the user of a command.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


for command in (ingest, inspect, index, convert, plan, verify, stats, head, histogram, report, check_model, demo):
    main.add_command(command)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, as Python does at Ctrl-C, but not in the methods of `tf.TensorShape`.

    TensorFlow calls these from C++ for each new iterator, and takes any exception for a shape without a rank. Ctrl-C would be lost. And as
    TensorFlow first counts the sizes and then writes them, it would write beyond its buffer (TensorShapeNumDims in pywrap_tfe_src.cc).
    """
    if frame is not None and frame.f_globals.get("__name__") == "tensorflow.python.framework.tensor_shape":
        signal.setitimer(signal.ITIMER_REAL, 0.001)  # then again
    else:
        raise KeyboardInterrupt


def run() -> None:
    """The program `vlpipe`: `main`, which after Ctrl-C ends at once; the threads of TensorFlow would take seconds to end."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where the shell has the program ignore it
        for number in (signal.SIGINT, signal.SIGALRM):
            signal.signal(number, _interrupt)
    try:
        main(prog_name="vlpipe")
    except SystemExit as end:
        if end.code == _INTERRUPTED and "tensorflow" in sys.modules:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            os._exit(_INTERRUPTED)
        raise
