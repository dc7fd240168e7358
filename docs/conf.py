"""Sphinx reads this file; `make docs` builds the pages into docs-output/."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

import vlpipe

project = "vlpipe"
release = version = vlpipe.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
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
    """Make reStructuredText of a docstring in place: indented tables and calls become literal blocks, and a star is a star."""
    text: list[str] = []
    literal = False  # in a literal block, or in an example of the prompt
    for number, line in enumerate(lines):
        if line.startswith(">>> ") or line.lstrip().startswith(">>> "):
            literal = True
        elif not line.strip():
            literal = literal and bool(text) and text[-1].startswith("    ") and not text[-1].lstrip().startswith((">>> ", "... "))
        elif re.match(r"    \S", line) and not (text and text[-1].strip()) and _is_verbatim(lines, number):
            text += ["::", ""]
            literal = True
        elif not line.startswith(" "):
            literal = False
        text.append(line if literal else _escaped(line))
    lines[:] = text


def _escaped(line: str) -> str:
    """A line with a backslash before each star outside of `code`."""
    return "".join(part if part.startswith("`") else re.sub(r"(?<!\\)\*", r"\\*", part) for part in re.split(r"(`[^`]*`)", line))


def _is_verbatim(lines: list[str], number: int) -> bool:
    """Whether an indented block stands by itself: the last line with text before it is not indented, nor the head of a section."""
    before = next((line for line in reversed(lines[:number]) if line.strip()), "")
    return bool(before) and not before.startswith((" ", ".. ", ":")) and not before.rstrip().endswith("::")


def examples_as_code(app: Any, context: Any, lines: list[str]) -> None:
    """Make a block of code of the examples of a command, which sphinx-click has as lines of a poem."""
    text = []
    for line in lines:
        if line.startswith("| ") and line.strip("| ").startswith("Examples"):
            text += ["Examples:", "", ".. code-block:: sh", ""]
        elif line.startswith("| "):
            text.append("    " + line.removeprefix("| ").strip())
        else:
            text.append(_escaped(line))
    lines[:] = text


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", as_rst)
    app.connect("sphinx-click-process-description", examples_as_code)
