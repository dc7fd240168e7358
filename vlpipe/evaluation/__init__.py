"""`predict` and `evaluate`: every record once, and no padding in answers, losses and metrics."""
