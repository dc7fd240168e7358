"""Every byte of a dataset, or of TFRecord files of others, held against what is known of it."""

from vlpipe.verification.report import Problem, Report
from vlpipe.verification.run import verify

__all__ = ["Problem", "Report", "verify"]
