"""Damaged records: how many of them a run may leave out, and which it has met."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlpipe.arguments import integer
from vlpipe.errors import ArgumentError, DatasetError
from vlpipe.storage.index import Index

NAMED = 20  # records that the error of a run names; the log has all of them
STATE_KEY = "skipped"  # of a resume state

_log = logging.getLogger("vlpipe")
# What each run of this process has met (by id), so that `Plan.state` can save it: a plan knows its arguments and files, not the dataset.
_met: dict[str, dict[int, str]] = {}


@dataclass(frozen=True)
class Skip:
    """Leave damaged records out of their batches, instead of an error: `make_dataset(on_damage=vlpipe.Skip(most=10))`.

    Args:
        most: different records that a run may leave out, >= 0. One more ends it with an error that names them.

    Raises:
        ArgumentError: `most` is not such an integer.

    Example:
        >>> vlpipe.write("data/train", [{"features": np.ones((9, 2), np.float32)}])
        >>> dataset = vlpipe.make_dataset("data/train", remainder="pad", batch_size=1, on_damage=vlpipe.Skip(most=3))
        >>> len(dataset)
        1
    """

    most: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "most", integer("Skip: most", self.most, 0))


def checked_on_damage(on_damage: Any) -> str | Skip:
    """Return `on_damage`.

    Raises:
        ArgumentError: it is neither "error" nor a `Skip`.
    """
    if isinstance(on_damage, Skip) or (isinstance(on_damage, str) and on_damage == "error"):
        return on_damage
    raise ArgumentError(f'on_damage: came as {on_damage!r}, expected "error" or a vlpipe.Skip(most=...).')


class Skipped:
    """The different damaged records that a run has left out. Several threads may use it.

    Args:
        index: of the source.
        most: how many there may be.
        run: its name (`name_of_run`). An earlier run of the same name in this process is over.
        earlier: ids of those that the run had met before it was resumed.
    """

    def __init__(self, index: Index, most: int, run: str, earlier: Iterable[int] = ()) -> None:
        self._index, self._most = index, most
        rows = np.flatnonzero(np.isin(index.ids, list(earlier)))
        self._errors = {int(index.ids[row]): index.where(row) for row in rows.tolist()}  # by id
        self._places = list(self._errors.values())
        self._lock = threading.Lock()
        _met[run] = self._errors

    @property
    def places(self) -> list[str]:
        """The places of the records, in the order in which they were met."""
        with self._lock:
            return list(self._places)

    def add(self, row: int, error: Exception) -> None:
        """Count a record that was found to be damaged; it is logged when it is met for the first time.

        Raises:
            DatasetError: the run has met more records than it may leave out; the message names them. Other threads, which read
                further batches at that moment, raise the same message: which thread is faster does not change what the user sees.
        """
        number = int(self._index.ids[row])
        with self._lock:
            if number not in self._errors and len(self._errors) <= self._most:
                self._errors[number] = str(error)
                self._places.append(self._index.where(row))
                _log.warning("left out, %d of at most %d damaged records: %s", len(self._errors), self._most, error)
            if len(self._errors) > self._most:
                raise DatasetError(self._too_many())

    def _too_many(self) -> str:
        more = len(self._errors) - NAMED
        lines = [*list(self._errors.values())[:NAMED], *([f"and {more} more"] if more > 0 else [])]
        return (
            f"on_damage: the run has met {len(self._errors)} damaged records and may leave out {self._most}. Restore the files, "
            "leave the records out with source.select(without=vlpipe.verify(source)), or pass a greater vlpipe.Skip(most=...):\n"
            + "\n".join(lines)
        )


def name_of_run(identity: dict[str, Any], index: Index, shard: tuple[int, int]) -> str:
    """Names a run within this process: what it delivers, of which files, on which rank."""
    return json.dumps([identity, [shard.path for shard in index.shards], shard], sort_keys=True)


def state_of_skipped(run: str) -> dict[str, str]:
    """What a state has of the damaged records that a run of this process has met: their ids; nothing where there are none."""
    ids = list(_met.get(run, ()))  # in one step: other threads may add to them
    return {STATE_KEY: ",".join(map(str, ids))} if ids else {}


def skipped_in(state: dict[str, Any] | None) -> list[int]:
    """The ids of the damaged records that the run of a state had met.

    Raises:
        ArgumentError: the state has something else in their place.
    """
    saved = (state or {}).get(STATE_KEY, "")
    numbers = saved.split(",") if isinstance(saved, str) and saved else []
    if not isinstance(saved, str) or not all(number.isascii() and number.isdigit() and len(number) < 19 for number in numbers):
        raise ArgumentError(f'resume[{STATE_KEY!r}]: came as {saved!r:.100}, expected ids of records, such as "3,17".')
    return [int(number) for number in numbers]
