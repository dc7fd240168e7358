"""Write the options of every command as a page of Markdown, reference/commands.md, from the commands themselves: `python -m docs.commands`.

A Markdown page can be read where the repository is, without a build. tests/docs/test_reference.py holds that it is what this script writes.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import click

from vlpipe.cli import main

PAGE = Path(__file__).parent / "reference/commands.md"
_HEAD = """# Commands and options

<!-- python -m docs.commands writes this page: change the texts in vlpipe/cli/. -->

What `vlpipe COMMAND --help` prints, for all commands. [Command line](cli.md) has the rest: exit status, progress, completion.
"""


def page() -> str:
    """The page: a section for each command, in the order of the help."""
    return "\n".join([_HEAD, *(_section(name, main.commands[name]) for name in main.list_commands(click.Context(main)))])


def _section(name: str, command: click.Command) -> str:
    text, _, examples = inspect.cleandoc(command.help or "").partition("\b\nExamples:\n")
    arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    options = [_option(parameter) for parameter in command.params if isinstance(parameter, click.Option)]
    usage = " ".join(["vlpipe", name, "[OPTIONS]", *(argument.make_metavar(click.Context(command)) for argument in arguments)])
    parts = [f"## {name}", _block(usage), _escaped(text.strip()), "Examples:", _block(inspect.cleandoc(examples)), "Options:"]
    return "\n\n".join([*parts, "\n".join(options)]) + "\n"


def _option(option: click.Option) -> str:
    names = ", ".join(f"`{name} {_value(option)}`" if _value(option) else f"`{name}`" for name in option.opts)
    text, _, default = (option.help or "").partition("  [default: ")
    default = default.removesuffix("]") or (str(option.default) if option.show_default else "")
    added = f" Default: {default}." if default else " Required." if option.required else ""
    return f"- {names}: {_escaped(text + added)}"


def _value(option: click.Option) -> str:
    """What stands for the value of an option; nothing for a flag."""
    if option.is_flag:
        return ""
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "|".join(option.type.choices)
    return {"integer": "INTEGER", "integer range": "INTEGER", "float": "NUMBER", "text": "NAME"}.get(option.type.name, "PATH")


def _block(text: str) -> str:
    return f"```text\n{text}\n```"


def _escaped(text: str) -> str:
    """Text whose stars, and angle brackets that would begin a tag, Markdown leaves as they are; what is in backticks is code there too."""
    return re.sub(r"\*|<(?=[A-Za-z/!?])", r"\\\g<0>", text)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
