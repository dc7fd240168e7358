"""One of the processes of `workers`: indexes the files that are named on standard input, each a line of JSON.

Each is answered by a line: the class and the text of the error that there was, or two empty texts.
"""

from __future__ import annotations

import json
import sys

from vlpipe.errors import VlpipeError
from vlpipe.layouts.registry import from_json
from vlpipe.sources.foreign.build_index import index_file


def main() -> None:
    """Until standard input ends, which it does with the process that asks."""
    layout = from_json(json.loads(sys.argv[1]))
    for line in sys.stdin:
        try:
            index_file(json.loads(line), layout)
            answer = ("", "")
        except VlpipeError as error:
            answer = (type(error).__name__, str(error))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
