"""Which records make which batch, from the index and the arguments alone: integer arithmetic, without TensorFlow."""
