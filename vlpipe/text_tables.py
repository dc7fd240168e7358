"""What people see: tables for a terminal or a notebook, progress bars, and figures."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

from vlpipe.errors import ArgumentError, import_extra, printable, shortened
from vlpipe.processes import is_worker

WIDTH = 88
WIDE = 140
BLUE, RED = "#4878a8", "#c05020"
MAX_ROWS = 20
MAX_CELL = 200  # letters of a cell of an HTML table


def text(*parts: Any, width: int = WIDTH) -> str:
    """Render tables and lines of text, one below the other, as a terminal shows them.

    Args:
        parts: strings and tables; empty lines separate them.
        width: letters in a line.
    """
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None, markup=False, emoji=False, highlight=False)
    for number, part in enumerate(parts):
        if number:
            console.print()
        console.print(part)
    output: Any = console.file
    return "\n".join(line.rstrip() for line in output.getvalue().rstrip().splitlines())


def named(rows: list[tuple[str, str]]) -> Any:
    """A table of names and values, without headings."""
    from rich.table import Table

    grid = Table(show_header=False, box=None, pad_edge=False)
    for row in rows:
        grid.add_row(*map(printable, row))
    return grid


def columns(*headings: str, rows: Sequence[tuple[Any, ...]], most: int = MAX_ROWS) -> Any:
    """A table with headings.

    Args:
        headings: one for each column.
        rows: values of the table; numbers are aligned to the right, and columns whose first value is text to the left.
        most: maximum number of rows; a last line counts the others.
    """
    from rich.console import Group
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, header_style="")
    for column, heading in enumerate(headings):
        is_text = bool(rows) and isinstance(rows[0][column], str)
        grid.add_column(printable(heading), justify="left" if is_text else "right", overflow="fold")
    for row in rows[:most]:
        grid.add_row(*map(_cell, row))
    return Group(grid, f"… and {len(rows) - most:,} more") if len(rows) > most else grid


def html(*tables: tuple[Sequence[str], Sequence[Sequence[Any]]]) -> str:
    """Tables as HTML, one below the other, for a notebook; every text is escaped, as names and values from files can be anything.

    Args:
        tables: the headings (none for a table of names and values) and the rows of each; at most `MAX_ROWS` are shown.
    """
    return "".join(_html_table(headings, rows) for headings, rows in tables)


def _html_table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def line(name: str, cells: Sequence[Any]) -> str:
        return "<tr>" + "".join(f"<{name}>{escape(shortened(_cell(cell), MAX_CELL))}</{name}>" for cell in cells) + "</tr>"

    head = f"<thead>{line('th', headings)}</thead>" if headings else ""
    more = f"<p>… and {len(rows) - MAX_ROWS:,} more</p>" if len(rows) > MAX_ROWS else ""
    return f"<table>{head}<tbody>{''.join(line('td', row) for row in rows[:MAX_ROWS])}</tbody></table>{more}"


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    return printable(value) if isinstance(value, str) else value


Show = Callable[[int, int], None]
_REFRESH = 0.05  # seconds
_visible: list[Any] = []  # the bars on the terminal, at most one: work inside of other work adds a line to it


@contextmanager
def progress_bar(what: str, unit: str, per: float = 1, given: Show | None = None, after: float = 0) -> Iterator[Show]:
    """Show what is done, how fast, and the time left, on standard error if it is a terminal; else, as in a pipe or a notebook, nothing.

    The bar appears when the work is known not to be done at once, and disappears at its end.

    Args:
        what: such as "verifying".
        unit: of the numbers, such as "MB".
        per: counts in one unit, such as 1e6 bytes in a MB.
        given: what the user wants to be called instead.
        after: seconds before the bar appears, where most calls take less: it would only flicker.

    Yields:
        A function to call with the count so far and the total count.
    """
    if given is not None or sys.stderr is None or not sys.stderr.isatty() or is_worker():
        yield given or (lambda done, total: None)
        return
    started, task = time.monotonic(), None
    due = started + after  # of what is shown next; callers may report each of a million records

    def show(done: int, total: int) -> None:
        nonlocal task, due
        now = time.monotonic()
        if (now < due and done < total) or (task is None and done >= total):
            return
        due = now + _REFRESH
        bar = _visible[0] if _visible else _new_bar()
        if task is None:
            task = bar.add_task(what, count="")
        rate = done / per / max(1e-9, now - started)
        speed = f"{rate:,.{int(rate < 10)}f} {unit}/s"
        bar.update(task, completed=done, total=total, count=f"{done / per:,.0f}/{total / per:,.0f} {unit}, {speed}")

    outer = len(_visible)
    try:
        yield show
    finally:
        if len(_visible) > outer:
            _visible.pop().stop()
        elif task is not None:
            _visible[0].remove_task(task)


def _new_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    shown = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"), TimeRemainingColumn())
    bar = Progress(*shown, console=Console(stderr=True), transient=True)
    bar.start()
    _visible.append(bar)
    return bar


@contextmanager
def picture(path: str | os.PathLike[str], height: float, needed_for: str) -> Iterator[Any]:
    """Yield a matplotlib figure, and write it when the block ends.

    Args:
        path: a .png, .svg or .pdf file.
        height: in inches.
        needed_for: the caller, in the error message if matplotlib is not installed.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ArgumentError: the file cannot be written.
    """
    import_extra("matplotlib", extra="plot", needed_for=needed_for)
    # matplotlib's object interface: pyplot would choose a window system and keep global state.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not os.path.splitext(path)[1]:  # matplotlib would add one of its own
        raise ArgumentError(f"plot: {os.fspath(path)} has no ending that says what to draw. Pass a .png, .svg or .pdf file.")
    figure = Figure(figsize=(8, height), layout="constrained")
    FigureCanvasAgg(figure)
    with rc_context({"font.size": 12}):  # readable from the last row
        yield figure
    drawn = io.BytesIO()
    try:
        figure.savefig(drawn, dpi=200, format=os.path.splitext(path)[1][1:])
        with open(path, "wb") as file:  # at once: Ctrl-C while it is drawn leaves no part of it
            file.write(drawn.getvalue())
    except (OSError, ValueError) as error:
        raise ArgumentError(f"plot: {path} cannot be written ({error}). Pass a .png, .svg or .pdf in a folder that exists.") from error
