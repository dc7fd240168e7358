"""Many attacks, in two processes or so: `make attacks`, or `python -m tests.attacks --count 100000`.

Cases with a fault (see `open_case.FAULTS`), or with other values under a right checksum, are written into `--out`. Copy a case that shows a
fault into `tests/attacks/found`, where a test tries it for ever.
"""

from __future__ import annotations

import argparse
import collections
import os
import tempfile
from pathlib import Path

import numpy as np

from tests.attacks.deliver_case import ENGINES, try_engine
from tests.attacks.open_case import FAULTS, case, name_of, outcomes, targets

MEMORY = "/dev/shm"


def main() -> int:
    """Try the cases; the exit status is 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="cases in all")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--only", help="one target")
    parser.add_argument("--engine", choices=ENGINES, help="deliver batches with it; otherwise open, read and verify")
    parser.add_argument("--out", type=Path, default=Path("attacks-output"), help="where to write cases with faults")
    arguments = parser.parse_args()
    tried = try_engine(arguments.engine) if arguments.engine else None
    faults = 0
    # In memory where there is such a folder: vlpipe waits for the disk when it caches an index, which is five sixths of the time.
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        known = {kind: target for kind, target in targets(Path(folder)).items() if arguments.only in (None, kind)}
        for kind, target in known.items():
            counts: collections.Counter[str] = collections.Counter()
            seeds = range(arguments.seed, arguments.seed + max(1, arguments.count // len(known)))
            for seed, outcome in outcomes(kind, target, seeds, Path(folder) / "work", tried):
                counts[outcome.kind] += 1
                if outcome.kind in FAULTS:
                    faults += 1
                    done, files, _ = case(kind, target, seed)
                    arguments.out.mkdir(parents=True, exist_ok=True)
                    with (arguments.out / f"{name_of(kind, files)}.npz").open("wb") as file:
                        np.savez_compressed(file, **{name: np.frombuffer(content, np.uint8) for name, content in files.items()})
                    print(f"{kind} {seed}: {outcome.kind} after {done}: {outcome.text[:300]!r}", flush=True)
            print(kind, len(seeds), dict(counts), flush=True)
    return int(faults > 0)


if __name__ == "__main__":
    raise SystemExit(main())
