"""One self-contained HTML page that describes a source: `vlpipe report`."""

from vlpipe.reporting.write import write_report

__all__ = ["write_report"]
