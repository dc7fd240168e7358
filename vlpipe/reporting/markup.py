"""HTML that cannot be broken from inside: every text is escaped, unless it is markup that was made here.

The page shows names, classes and texts from files, which anyone may have written. Nothing else in this folder writes a "<".
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from vlpipe.errors import shortened
from vlpipe.reporting.style import CSS

MAX_LETTERS = 300  # of one text; a text of a record can have millions
_VOID = ("img", "meta", "line", "rect", "path", "circle")
# Should a text ever slip through, the browser still runs no script and fetches nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; base-uri 'none'; form-action 'none'"


class Html(str):
    """Markup: a text that is already escaped."""

    __slots__ = ()


NOTHING = Html("")


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element.

    Args:
        name: of the element.
        children: markup (`Html`), which stays as it is, or anything else, whose text is escaped, with control characters made visible.
        attributes: `class_` and `for_` lose their underscore, others become hyphens; True is an attribute without a value, None is none.

    Example:
        >>> tag("p", "a < b", tag("b", 1), class_="note")
        '<p class="note">a &lt; b<b>1</b></p>'
    """
    opened = [name]
    for key, value in attributes.items():
        if value is not None and value is not False:
            key = key.rstrip("_").replace("_", "-")
            opened.append(key if value is True else f'{key}="{_text(value)}"')
    start = f"<{' '.join(opened)}"
    # Inside SVG an element ends only with its end tag or "/>": without it, a line would swallow all that follows, and hide it.
    return Html(f"{start}/>") if name in _VOID else Html(f"{start}>{''.join(map(_text, children))}</{name}>")


def join(parts: Iterable[Html]) -> Html:
    """Elements one after another."""
    return Html("".join(parts))


def _text(value: Any) -> str:
    return value if isinstance(value, Html) else escape(shortened(value, MAX_LETTERS))


def number(value: float | int | None) -> str:
    """A number as people read it: thousands separated, four digits of a fraction; "" for None."""
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[Any]], *, most: int | None = None) -> Html:
    """A table with a caption; the first cell of each row is its heading.

    A region that scrolls sideways where the screen is narrow, with the keyboard too.

    Args:
        caption: what the table shows.
        headings: of the columns.
        rows: texts, numbers or markup; numbers are aligned to the right.
        most: maximum number of rows; a last line counts those that were left out.
    """
    shown = rows if most is None else rows[:most]
    head = tag("thead", tag("tr", join(tag("th", heading, scope="col") for heading in headings)))
    body = tag("tbody", join(tag("tr", join(_cells(row))) for row in shown))
    more = tag("p", f"… and {len(rows) - len(shown):,} more", class_="quiet") if len(rows) > len(shown) else NOTHING
    grid = tag("table", tag("caption", caption), head, body)
    return join([tag("div", grid, class_="wide", role="region", tabindex=0, aria_label=caption), more])


def _cells(row: Sequence[Any]) -> Iterable[Html]:
    for position, value in enumerate(row):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        shown = number(value) if is_number or value is None else value
        yield tag("th" if position == 0 else "td", shown, scope="row" if position == 0 else None, class_="number" if is_number else None)


def pairs(caption: str, rows: Sequence[tuple[str, Any]]) -> Html:
    """A table of names and values."""
    return table(caption, ("", "value"), [(name, number(value) if isinstance(value, (int, float)) else value) for name, value in rows])


def note(text: str, *, kind: str = "quiet") -> Html:
    """A paragraph: "quiet" for remarks, "bad" and "good" for findings."""
    return tag("p", text, class_=kind)


class Headings:
    """Gives sections their ids, and collects them for the navigation."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str, int]] = []
        self._count = itertools.count(1)

    def section(self, level: int, title: str, *children: Html) -> Html:
        """A section with a heading of this level. A page must make its sections from the outermost, see `reserve`."""
        return self.filled(self.reserve(level, title), children)

    def reserve(self, level: int, title: str) -> tuple[str, str, int]:
        """The place of a section in the navigation, before those inside it are made."""
        entry = (f"s{next(self._count)}", title, level)
        self.found.append(entry)
        return entry

    def filled(self, entry: tuple[str, str, int], children: Iterable[Html]) -> Html:
        """The section of a place that was reserved."""
        name, title, level = entry
        return tag("section", tag(f"h{level}", title, id=name), join(children), aria_labelledby=name)

    def navigation(self) -> Html:
        """Links to the sections of the first two levels below the title."""
        links = [tag("li", tag("a", title, href=f"#{name}"), class_=f"level{level}") for name, title, level in self.found if level <= 3]
        return tag("nav", tag("ul", join(links)), aria_label="Contents")


def page(title: str, navigation: Html, body: Html, footer: str) -> Html:
    """A whole document: no script, no address outside of it, light or dark as the reader's system is."""
    head = join(
        [
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=Html(escape(_POLICY))),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", title),
            tag("style", Html(CSS)),
        ]
    )
    skip = tag("a", "Skip to the content", href="#content", class_="skip")
    main = tag("main", tag("h1", title), body, id="content", tabindex=-1)
    whole = tag("html", tag("head", head), tag("body", skip, navigation, main, tag("footer", footer)), lang="en")
    return Html(f"<!DOCTYPE html>\n{whole}\n")
