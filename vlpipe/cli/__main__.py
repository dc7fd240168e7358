"""`python -m vlpipe.cli`."""

from vlpipe.cli import run

if __name__ == "__main__":
    run()
