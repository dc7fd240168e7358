"""The wire format of tf.train.Example and SequenceExample, without TensorFlow."""
