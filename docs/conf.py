"""Sphinx reads this file; `make docs` builds the pages into docs-output/."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

import vlpipe

project = "vlpipe"
release = version = vlpipe.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["pictures"]
html_theme = "furo"
html_title = "vlpipe"
html_static_path = ["_static"]
html_css_files = ["vlpipe.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False

myst_enable_extensions = ["colon_fence", "deflist"]
smartquotes = False  # options and code are quoted in the text of docstrings
myst_heading_anchors = 3

default_role = "literal"  # docstrings are Markdown: `name` is code
autodoc_typehints = "none"  # the text of each argument says what it may be
autodoc_member_order = "bysource"
napoleon_use_rtype = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def as_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make reStructuredText of a docstring in place: indented tables become lists, calls become literal blocks, and a star is a star."""
    text: list[str] = []
    place = 0
    while place < len(lines):
        block = _indented_block(lines, place)
        if block:
            text += _as_list(block) or ["::", "", *block, ""]
            place += len(block)
            continue
        line = lines[place]
        if line.lstrip().startswith(">>> "):  # an example of the prompt, to the next empty line
            while place < len(lines) and lines[place].strip():
                text.append(lines[place])
                place += 1
            continue
        text.append(_escaped(re.sub(r"^:returns: \*(.*?)\* --", r":returns: \1:", line)))
        place += 1
    lines[:] = text


def _indented_block(lines: list[str], place: int) -> list[str]:
    """The indented lines that begin here and stand by themselves: not below a list, a directive, or the head of a section."""
    before = next((line for line in reversed(lines[:place]) if line.strip()), "")
    by_itself = bool(before) and not before.startswith((" ", ".. ", ":", "* ", "- ")) and not before.rstrip().endswith("::")
    if not by_itself or lines[place - 1].strip() or not re.match(r"    \S", lines[place]) or lines[place].lstrip().startswith(">>>"):
        return []
    end = place
    while end < len(lines) and (
        lines[end].startswith("    ") or (not lines[end].strip() and end + 1 < len(lines) and _goes_on(lines, end))
    ):
        end += 1
    return lines[place:end]


def _goes_on(lines: list[str], empty: int) -> bool:
    """Whether an indented block goes on behind an empty line."""
    return lines[empty + 1].startswith("    ")


def _as_list(block: list[str]) -> list[str]:
    """A block of two columns, "name    what it is", as a list of definitions; nothing if it is something else."""
    text: list[str] = []
    column = 0
    for line in block:
        match = re.match(r"    ([^\s=][^=]*?)(\s{2,})(?!#)(\S.*)$", line)
        if match and not (text and line.startswith(" " * column)):
            column = match.start(3)
            text += [f"``{match[1]}``", "    " + _escaped(match[3])]
        elif text and line.startswith(" " * column) and line.strip():
            text.append("    " + _escaped(line.strip()))
        else:
            return []
    return [*text, ""]


def _escaped(line: str) -> str:
    """A line with a backslash before each star outside of `code`."""
    return "".join(part if part.startswith("`") else re.sub(r"(?<!\\)\*", r"\\*", part) for part in re.split(r"(`[^`]*`)", line))


def copy_pictures(app: Any, error: Exception | None) -> None:
    """Put the pictures where the pages expect them: pages name them in HTML, which GitHub shows too, and Sphinx leaves as it is."""
    if error is None:
        shutil.copytree(Path(__file__).parent / "pictures", Path(app.outdir) / "pictures", dirs_exist_ok=True, ignore=_ALL_BUT_PICTURES)


_ALL_BUT_PICTURES = shutil.ignore_patterns("*.py", "__pycache__")


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", as_rst)
    app.connect("build-finished", copy_pictures)
