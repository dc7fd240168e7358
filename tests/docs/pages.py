"""The pages of the documentation as text: their code, links and anchors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md"))


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        kind: what is written behind its ```: python, sh, text, or a directive in braces.
        text: its lines.
        line: the number of the first.
        needs: packages that the test environments may lack, from a comment "<!-- needs torch -->" before it.
    """

    kind: str
    text: str
    line: int
    needs: tuple[str, ...]


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    found: list[Block] = []
    start, fence, kind, needs = 0, "", "", ()
    lines = page.read_text("utf-8").splitlines()
    for number, line in enumerate(lines):
        match = re.match(r"(`{3,})(.*)", line)
        if line.startswith("<!-- needs ") and not fence:
            needs = tuple(line.split()[2:-1])
        elif match and not fence:
            fence, kind, start = match[1], match[2].strip(), number + 1
        elif match and match[1] == fence and not match[2].strip():
            found.append(Block(kind, "\n".join(lines[start:number]) + "\n", start + 1, needs))
            fence, needs = "", ()
    assert not fence, f"{page}: a block that begins in line {start} has no end"
    return found


def prose(page: Path) -> str:
    """A page without its fenced blocks and code in the line."""
    text = re.sub(r"^(`{3,}).*?^\1\s*?$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]+`", "", text)


def anchor(heading: str) -> str:
    """The anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^(`{3,}).*?^\1\s*?$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))
    return named | {anchor(heading.replace("`", "")) for heading in re.findall(r"^#+ +(.+)$", text, re.MULTILINE)}


def links(page: Path) -> list[str]:
    """The targets of all links and pictures of a page that lead to a file or a heading of this repository."""
    text = prose(page)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|srcset|href)=\"([^\"]+)\"", text)
    return [target for target in targets if "://" not in target and not target.startswith("mailto:")]
