"""`python -m vlpipe.cli`."""

import sys

from vlpipe.cli import main

if __name__ == "__main__":
    sys.exit(main(prog_name="vlpipe"))
