"""`vlpipe.batches`: the batches of `make_dataset` as NumPy arrays, made by threads of Python, without TensorFlow."""
