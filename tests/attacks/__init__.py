"""Attacks: files that were changed on purpose, with their checksums repaired, and what vlpipe makes of them. Imports no TensorFlow."""
