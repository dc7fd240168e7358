"""Inspect a dataset: summaries, first records, histograms of lengths."""
