"""Check every byte of a dataset, or of third-party TFRecord files, against checksums, index, schema and layout."""

from vlpipe.verification.report import Problem, Report
from vlpipe.verification.run import verify

__all__ = ["Problem", "Report", "verify"]
