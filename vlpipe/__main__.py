"""`python -m vlpipe`: the command line, where the program `vlpipe` is not on the path."""

from vlpipe.cli import run

if __name__ == "__main__":
    run()
