"""A source as a value: the records of datasets or files, all of them or a selection, known from the index alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np

from vlpipe.errors import ArgumentError, counted
from vlpipe.sources.balance import balanced
from vlpipe.sources.choose import chosen_rows, positions
from vlpipe.sources.classes import class_names
from vlpipe.sources.compute_statistics import with_statistics
from vlpipe.sources.conditions import Where, in_words
from vlpipe.sources.divide import rows_of_folds, rows_of_parts
from vlpipe.sources.overview import overview
from vlpipe.sources.preprocess import Preprocess
from vlpipe.sources.records import Records
from vlpipe.sources.statistics_cache import known_statistics
from vlpipe.sources.table import Table, as_user_value
from vlpipe.storage.paths import Opened
from vlpipe.storage.schema import Schema
from vlpipe.storage.statistics import Moments
from vlpipe.text_tables import html, named, text

MAX_LINES = 30  # of what a source shows of itself

Record = dict[str, Any]


@dataclass(frozen=True, eq=False, repr=False)
class RecordSet(Opened):
    """A source: the records of a dataset or of files, all of them or a selection. Immutable; made by `vlpipe.open`.

    It is accepted wherever a path is. Only the index is in memory: no record is read before one is asked for. In every selection, a record
    keeps its id, the row in the index on disk.

    Example:
        >>> records = ({"features": np.zeros((t, 4), np.float32), "speaker": "ann" if t % 2 else "bob"} for t in range(1, 9))
        >>> vlpipe.write("data/train", records)
        >>> source = vlpipe.open("data/train")
        >>> ann = source.select({"speaker": "ann", "frames": (3, None)})
        >>> len(source), len(ann), ann.table()["frames"].tolist()
        (8, 3, [3, 5, 7])
    """

    def __len__(self) -> int:
        return len(self.index)

    @property
    def schema(self) -> Schema:
        """The fields of a record."""
        return self.index.schema

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes by number; None where the metadata have none."""
        return class_names(self.index.metadata)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the writer stored for the user; of several datasets, the entries on which all agree."""
        return dict(self.index.metadata)

    @property
    def statistics(self) -> dict[str, Moments]:
        """Mean and variance of the frames of each sequence, where they are known for exactly these records (`with_statistics`)."""
        return known_statistics(self.index)

    def with_statistics(self, *, workers: int | None = None) -> RecordSet:
        """The same source with the statistics of exactly its records, for `normalize="global"`, or `normalize=source` of validation data.

        Where they are unknown, all frames are read once, and the result is kept beside the index or in the user's cache: the next call,
        `vlpipe stats --where`, and the same selection of another process find it. Of a mix, each record counts once, not by its rate.

        Args:
            workers: processes; None: one for each core if there is enough work.

        Raises:
            ArgumentError: the files are at an address.
            DatasetError: a record is damaged; the message names it.

        Example:
            >>> vlpipe.write("data/all", ({"features": np.full((3, 2), n, np.float32), "label": n % 2} for n in range(8)))
            >>> train, validation = vlpipe.open("data/all").folds(4, stratify="label")[0]
            >>> train = train.with_statistics()
            >>> train.statistics["features"].mean.shape
            (2,)
            >>> for x, y in vlpipe.make_dataset(validation, normalize=train):
            ...     print(x.shape)
            (2, 3, 2)
        """
        if not self.index.is_local:
            raise ArgumentError(
                f"with_statistics: {self.index.shards[0].path} is at an address, but all frames are read, of local files only. Copy the "
                "files to this machine first."
            )
        return replace(self, index=with_statistics(replace(self.index, statistics=self.statistics), workers=workers))

    @property
    def preprocess(self) -> Preprocess:
        """A function from the path of an audio file, its samples `[N]` or features `[T, d]` to the float32 `[T, d]` of `make_dataset`.

        It computes the features that `vlpipe ingest` computed, whose settings are in the metadata; with `normalize="utterance"`, or
        "global" by the statistics of this source, it normalises them. Of a source of waveforms, pass the `transform` of `make_dataset`.

        Example:
            >>> vlpipe.write("data/train", ({"features": np.full((8, 2), value, np.float32)} for value in (3, 5)))
            >>> preprocess = vlpipe.open("data/train").preprocess
            >>> preprocess(np.full((1, 2), 6.0), normalize="global").tolist()
            [[2.0, 2.0]]
        """
        return Preprocess(self.index)

    @property
    def rates(self) -> np.ndarray:
        """float64 `[records]`: how often each record comes in an epoch, on average; 1 unless the source is a mix."""
        return np.ones(len(self)) if self.index.mixture is None else self.index.mixture.rates()

    @property
    def parts(self) -> dict[str, int]:
        """How many records of each part of a mix come in an epoch; {} for other sources."""
        return {} if self.index.mixture is None else self.index.mixture.counts_by_name()

    @overload
    def __getitem__(self, rows: int) -> Record: ...
    @overload
    def __getitem__(self, rows: slice | Iterable[int]) -> list[Record]: ...
    def __getitem__(self, rows: Any) -> Record | list[Record]:
        """Read one record, or a list of records.

        Args:
            rows: a position from 0 to `len(self) - 1`, or below 0 from the end; or a list, an array or a slice of positions.

        Returns:
            The value of each field: a sequence `[T, ...]`, an array or a NumPy scalar, a text as str. `vlpipe.write` takes it.

        Raises:
            IndexError: there is no such record.
            TypeError: `rows` is a text, a dict or a set.
            DatasetError: the record is damaged; the message names it.
        """
        if isinstance(rows, np.ndarray) and rows.ndim == 0:
            rows = rows[()]
        if isinstance(rows, (str, bytes, Mapping, Set)):
            raise TypeError(
                f"{type(rows).__name__} {rows!r:.100} is no position of a record; expected an integer, a list, an array or a slice."
            )
        if isinstance(rows, (int, np.integer)) and not isinstance(rows, bool):
            if not -len(self) <= rows < len(self):
                raise IndexError(f"record {rows}: the source has {counted(len(self), 'record')}, from 0 to {len(self) - 1}.")
            return next(self._read([int(rows) % len(self)]))
        if isinstance(rows, slice):
            return list(self._read(range(len(self))[rows]))
        return list(self._read(positions("rows", rows, len(self), IndexError).tolist()))

    def __iter__(self) -> Iterator[Record]:
        return self._read(range(len(self)))

    def _read(self, rows: Iterable[int]) -> Iterator[Record]:
        with Records(self.index) as records:
            for row in rows:
                yield {name: as_user_value(value) for name, value in records.values(row).items()}

    def table(self) -> dict[str, np.ndarray]:
        """The index as columns: what is known of each record. `pandas.DataFrame` and `polars.DataFrame` take it.

        Texts that are not in the index (those with more than 65,536 different values, and those of third-party files) are read from the
        records.

        Returns:
            Arrays `[records]` by name: "id" (int64, the row in the index on disk), "frames" (int64, of the first sequence), "seconds"
            (float64, where the metadata have the time between frames), and every scalar and text (str, as objects) by the name of its
            field. A field called as one of these three is in "field:NAME".

        Raises:
            DatasetError: a record is damaged; the message names it.
        """
        table = Table(self.index)
        table.read(table)
        return dict(table)

    def select(
        self,
        where: Where | None = None,
        *,
        rows: Iterable[int] | None = None,
        fraction: float | None = None,
        without: Any = None,
        seed: int = 0,
    ) -> RecordSet:
        """The records that fulfil all conditions, in the order of this source (or of `rows`).

        Args:
            where: a dict from columns of `table()` to a value, a list of values, or for numbers (least, greatest), both included, None for
                no limit; class names for numbers of classes. Or a function from the table to bool `[records]`. {} is no condition.
            rows: positions in this source, each once.
            fraction: above 0 and at most 1: so many of the records that the other conditions leave, chosen at random.
            without: the result of `vlpipe.verify` of these files: leaves out the records that are damaged.
            seed: of the random choice.

        Raises:
            ArgumentError: a column, class number, class or text is unknown, also one of a list (a `range` may have more numbers than the
                column), a position is outside the source, the report is of other files, a condition has no meaning, or no record is left;
                the message says what there is.

        Example:
            >>> records = ({"features": np.zeros((t, 4), np.float32), "label": t % 3} for t in range(1, 101))
            >>> vlpipe.write("data/train", records)
            >>> source = vlpipe.open("data/train")
            >>> len(source.select({"label": [0, 2]})), len(source.select(lambda table: table["frames"] > 90, fraction=0.5))
            (66, 5)
        """
        chosen = chosen_rows(self.index, where, rows=rows, fraction=fraction, without=without, seed=seed)
        return self._taken(chosen, in_words(where, rows, fraction, without))

    def split(
        self, parts: Mapping[str, float], *, by: str | None = None, stratify: str | None = None, seed: int = 0
    ) -> dict[str, RecordSet]:
        """Divide the records at random into parts: each record comes into one of them.

        Args:
            parts: the fraction of each part by name, such as {"train": 0.8, "val": 0.1, "test": 0.1}; their sum is 1. Each part has its
                exact number of records (by the largest remainder), unless there are groups.
            by: a column: records with the same value, such as those of one speaker, come into the same part. The numbers of records are
                then as near to the fractions as whole groups allow.
            stratify: a column: of the records with the same value, such as those of one class, each part has its fraction.
            seed: of the random choice.

        Raises:
            ArgumentError: the fractions have no meaning, a column is unknown, there are fewer groups than parts, or a part gets no record.

        Example:
            >>> vlpipe.write("data/all", ({"features": np.zeros((t, 4), np.float32), "label": t % 2} for t in range(1, 101)))
            >>> parts = vlpipe.open("data/all").split({"train": 0.8, "val": 0.2}, stratify="label")
            >>> len(parts["train"]), np.bincount(parts["val"].table()["label"]).tolist()
            (80, [10, 10])
        """
        rows = rows_of_parts(self.index, parts, by=by, stratify=stratify, seed=seed)
        return {name: self._taken(chosen, name) for name, chosen in rows.items()}

    def folds(self, k: int, *, by: str | None = None, stratify: str | None = None, seed: int = 0) -> list[tuple[RecordSet, RecordSet]]:
        """The k pairs (train, validation) of a cross-validation: each record is in exactly one validation set.

        Args:
            k: number of folds, at least 2.
            by, stratify, seed: as for `split`.

        Raises:
            ArgumentError: a column is unknown, there are fewer groups or records than folds, or with `stratify` a fold has no record of a
                class.

        Example:
            >>> vlpipe.write("data/all", ({"features": np.zeros((t, 4), np.float32), "speaker": f"s{t % 6}"} for t in range(1, 61)))
            >>> folds = vlpipe.open("data/all").folds(3, by="speaker")
            >>> [(len(train), len(validation)) for train, validation in folds]
            [(40, 20), (40, 20), (40, 20)]
        """
        pairs = rows_of_folds(self.index, k, by=by, stratify=stratify, seed=seed)
        return [
            (self._taken(train, f"all but fold {fold}"), self._taken(validation, f"fold {fold}"))
            for fold, (train, validation) in enumerate(pairs)
        ]

    def balance(self, by: str = "label", *, temperature: float = math.inf, records: int | None = None) -> RecordSet:
        """A mix in which rare classes come more often: a class of n records with a weight of n ** (1 / temperature).

        Args:
            by: a column of `table()`: the label, the speaker, ...
            temperature: from 1 (as often as there are records) to infinity (each class equally often).
            records: of an epoch; None: so many that each record of the largest class comes.

        Raises:
            ArgumentError: the column is unknown, or the temperature is below 1.

        Example:
            >>> vlpipe.write("data/train", ({"features": np.ones((t, 4), np.float32), "label": t % 10 // 9} for t in range(1, 101)))
            >>> balanced = vlpipe.open("data/train").balance("label")
            >>> balanced.parts, np.unique(balanced.rates).tolist()
            ({'label 0': 90, 'label 1': 90}, [1.0, 9.0])
        """
        return replace(self, index=balanced(self.index, by, temperature=temperature, records=records))

    def _taken(self, rows: np.ndarray, selected: str) -> RecordSet:
        return replace(self, index=self.index.take(rows), selected=", ".join(filter(None, (self.selected, selected))))

    def __repr__(self) -> str:
        rows = overview(self.index, self.selected)
        more = [("and", f"{len(rows) - MAX_LINES:,} more fields: .schema has them")] if len(rows) > MAX_LINES else []
        return text(named(rows[:MAX_LINES] + more))

    def _repr_html_(self) -> str:
        return html(((), overview(self.index, self.selected)))
