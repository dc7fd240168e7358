"""Guesses of a layout. A guess is used only if it is unambiguous; otherwise the error message lists the candidates."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vlpipe.errors import SchemaError
from vlpipe.layouts.base import Layout
from vlpipe.layouts.registry import TABLE
from vlpipe.layouts.sample import Sample

CERTAIN = 0.9  # a guess is used above this confidence, if it is complete and the only one


@dataclass(frozen=True)
class Guess:
    """A layout that the records may have.

    Attributes:
        function: the name of a function of `vlpipe.layouts`.
        keys: its positional arguments.
        options: its keyword arguments; `...` for a value that only the user knows.
        confidence: 0 to 1.
        reasons: the evidence for the layout.
    """

    function: str
    keys: tuple[str, ...]
    options: dict[str, Any]
    confidence: float
    reasons: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether all arguments are known."""
        return ... not in self.options.values()

    @property
    def call(self) -> str:
        """The call in Python."""
        options = [f"{name}={'...' if value is ... else repr(value)}" for name, value in self.options.items() if value is not None]
        return f"vlpipe.layouts.{self.function}({', '.join([*map(repr, self.keys), *options])})"

    @property
    def argument(self) -> str:
        """The argument of the option --layout."""
        keys: dict[str, Any] = {"key": self.keys[0]} if len(self.keys) == 1 else {"keys": self.keys} if self.keys else {}
        options = {name: value for name, value in self.options.items() if value is not None and value is not ...}
        return json.dumps({self.function: keys | options}) if keys or options else self.function

    def layout(self) -> Layout:
        """Return the layout."""
        return TABLE[self.function](*self.keys, **self.options)


@dataclass(frozen=True)
class Guesses:
    """The candidates.

    Attributes:
        sample: the records that the guesses are based on.
        candidates: the guesses, the most likely first.
        refusals: the keys that cannot be read, each with the reason.
    """

    sample: Sample
    candidates: tuple[Guess, ...]
    refusals: tuple[str, ...]

    @cached_property
    def only(self) -> Guess | None:
        """The only certain and complete guess, or None; always None if a key cannot be read."""
        certain = [guess for guess in self.candidates if guess.confidence > CERTAIN and guess.is_complete]
        return certain[0] if len(certain) == 1 and not self.refusals else None

    def certain(self, path: str) -> Layout:
        """Return the only certain layout.

        Args:
            path: the file to name in the error.

        Raises:
            SchemaError: no layout is certain; the message lists the candidates, or the keys of the records.
        """
        if self.only is not None:
            return self.only.layout()
        calls = [f"layout={guess.call} ({guess.confidence:.0%}: {'; '.join(guess.reasons)})" for guess in self.candidates[:4]]
        keys = [
            f"{stats.key!r}: {stats.kind or 'empty'} x {stats.counts[0]} to {stats.counts[1]}"
            for stats in list(self.sample.key_stats.values())[:8]
        ]
        problem = f"may have {' or '.join(calls)}" if calls else f"have no layout that vlpipe knows; their keys are {{{', '.join(keys)}}}"
        refusals = "".join(f" {refusal}." for refusal in self.refusals)
        raise SchemaError(
            f"{path}: vlpipe did not write this file (there is no vlpipe.json beside it), and its records {problem}.{refusals} Pass "
            "layout=..., see `vlpipe inspect FILE`; or, if vlpipe wrote the file, copy vlpipe.json and index.npy to its directory."
        )
