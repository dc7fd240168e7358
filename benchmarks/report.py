"""Makes REPORT.md, its pictures and the README's tables from the JSON in benchmarks/results.

    python -m benchmarks.report [--check]

No figure in them is written by hand. `--check` writes nothing, and fails where the files are not what the JSON gives.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks import results, sections

REPORT = results.ROOT / "benchmarks" / "REPORT.md"
README = results.ROOT / "README.md"
SECTIONS = {
    "throughput": sections.throughput,
    "anatomy": sections.anatomy,
    "training": sections.training,
    "scaling": sections.scaling,
    "memory": sections.memory,
    "foreign": sections.foreign,
    "layers": sections.layers,
}
HEAD = """# What vlpipe costs, and where the time goes

Made by `python -m benchmarks.report` from the JSON in `benchmarks/results`, in which every round stands. How each figure is measured is in
[README.md](README.md) and in the scripts' first lines.
"""


def report(documents: dict[str, Any]) -> str:
    """REPORT.md: a section for each script of which there is a run."""
    scripts = {document["script"] for document in documents.values()}
    return "\n".join([HEAD, *(section(documents) for script, section in SECTIONS.items() if script in scripts)])


def readme(text: str, documents: dict[str, Any]) -> str:
    """README.md with its tables made anew: what stands between `<!-- benchmark: NAME -->` and `<!-- end -->`."""

    def fill(match: re.Match[str]) -> str:
        return f"{match[1]}\n{sections.README[match[2]](documents)}\n{match[3]}"

    return re.sub(r"(<!-- benchmark: (\w+) -->).*?(<!-- end -->)", fill, text, flags=re.DOTALL)


def documents(directory: Path = results.RESULTS) -> dict[str, Any]:
    """The latest run of every script, by the name of its file."""
    return {path.stem: results.load(path.stem, directory) for path in sorted(directory.glob("*.json"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the files are what the JSON gives")
    arguments = parser.parse_args()
    found = documents()
    texts = {REPORT: report(found), README: readme(README.read_text("utf-8"), found)}
    if arguments.check:
        stale = [path.name for path, text in texts.items() if not path.exists() or path.read_text("utf-8") != text]
        sys.exit(f"{', '.join(stale)}: not what benchmarks/results gives; run python -m benchmarks.report" if stale else 0)
    for path, text in texts.items():
        path.write_text(text, "utf-8")
    from benchmarks import pictures

    pictures.draw(found)


if __name__ == "__main__":
    main()
