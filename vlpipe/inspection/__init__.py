"""What a dataset holds: summaries, first records, histograms of lengths."""
