"""What `vlpipe demo` does between its other commands: sounds to train on, what file names tell, and a lesson to copy.

`lesson.py` is a whole first program with vlpipe, from a dataset to a scored model. It uses public names only: copy it.
"""
