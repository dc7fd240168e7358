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

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

default_role = "literal"  # docstrings are Markdown: `name` is code
autodoc_typehints = "none"  # the text of each argument says what it may be
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def as_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make reStructuredText of a docstring: indented tables and calls become literal blocks, and a trailing underscore stays one."""
    text: list[str] = []
    for number, line in enumerate(lines):
        before = text[-1] if text else ""
        if re.match(r"    \S", line) and not before.strip() and _is_verbatim(lines, number):
            text += ["::", ""]
        text.append(line)
    lines[:] = text


def _is_verbatim(lines: list[str], number: int) -> bool:
    """Whether an indented block stands by itself: the last line with text before it is not indented, nor the head of a section."""
    before = next((line for line in reversed(lines[:number]) if line.strip()), "")
    return bool(before) and not before.startswith((" ", ".. ", ":")) and not before.rstrip().endswith("::")


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", as_rst)
