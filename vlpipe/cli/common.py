"""Shared by the commands: output, and the arguments SOURCE, --layout and --where."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

from vlpipe.errors import ArgumentError, safe_lines

_MAX_LETTERS = 1 << 16  # of a line: a call with many files can be long, and has to stay whole


def echo(text: str, err: bool = False) -> None:
    """Print lines of text, with `err` on standard error; names and values from files cannot control the terminal."""
    click.echo(safe_lines(text, _MAX_LETTERS), err=err)


def print_json(document: Any) -> None:
    """Print JSON values on one line."""
    click.echo(json.dumps(document, allow_nan=False))


def one_or_many(source: tuple[str, ...]) -> str | list[str]:
    """The arguments SOURCE of a command as a source: one string, or a list."""
    return source[0] if len(source) == 1 else list(source)


def complete_path(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete a path where click sees a text, because it may also be a glob or an address."""
    return [CompletionItem(incomplete, type="file")]


def _complete_layout(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from vlpipe.layouts import TABLE

    return [CompletionItem(name) for name in TABLE if name.startswith(incomplete)]


source_argument = click.argument("source", nargs=-1, required=True, shell_complete=complete_path)

where_option = click.option(
    "--where",
    multiple=True,
    metavar="CONDITION",
    help="Only records with COLUMN=VALUE,... or COLUMN>=NUMBER (also !=, <=, >, <); of several conditions, all. A value with a comma is "
    'quoted as in CSV: speaker="a,b",c.',
)


def selected(source: tuple[str, ...], layout: str | None, where: tuple[str, ...]) -> tuple[Any, Any]:
    """The arguments SOURCE of a command as a source, with only the records that fulfil all conditions; and the layout to pass with it.

    Raises:
        VlpipeError: the source cannot be opened, a condition has no meaning, or no record fulfils all of them.
    """
    parsed = parse_layout(layout)
    if not where:
        return one_or_many(source), parsed
    from vlpipe.sources.conditions import parse
    from vlpipe.sources.open import open as open_source

    chosen = open_source(one_or_many(source), layout=parsed)
    for text in where:
        chosen = chosen.select(parse(text))
    return chosen, None


layout_option = click.option(
    "--layout",
    metavar="NAME|JSON",
    shell_complete=_complete_layout,
    help='Layout of third-party files: a name, such as audioset, or {"NAME": {arguments}}, where "only": [keys] keeps only these keys.',
)


def parse_layout(text: str | None) -> Any:
    """Parse the option --layout into an argument `layout` of `make_dataset`: None, a name, or a layout.

    Raises:
        ArgumentError: the text is neither the name of a layout nor a JSON object that describes one.
    """
    from vlpipe.layouts import TABLE

    if text is None or text in TABLE:
        return text
    try:
        document = {text: {}} if re.fullmatch(r"\w+", text) else json.loads(text)
        only = document.pop("only", None)  # beside the name of the layout, or among its arguments
        ((name, arguments),) = document.items()
        if name not in TABLE:
            raise ValueError(f"{name} is no layout{_similar(name, TABLE)}")
        only = arguments.pop("only", only)
        key = arguments.pop("key", None)
        keys = arguments.pop("keys", [] if key is None else [key])
        arguments = {option: tuple(value) if isinstance(value, list) else value for option, value in arguments.items()}
        layout = TABLE[name](*keys, **arguments)
        return layout if only is None else layout.only(*only)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArgumentError(
            f"--layout: {text} cannot be parsed ({error}), expected a JSON object with one of {', '.join(TABLE)} and its arguments, such "
            'as {"float_list": {"key": "mel", "d": 80}}.'
        ) from error


def _similar(name: str, names: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {nearest[0]}?" if nearest else ""
