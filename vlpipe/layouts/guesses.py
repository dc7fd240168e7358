"""Guesses at a layout, and when one counts: only where it leaves no doubt. Otherwise the user has the candidates."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vlpipe.errors import SchemaError
from vlpipe.layouts.base import Layout
from vlpipe.layouts.registry import TABLE
from vlpipe.layouts.sample import Sample

CERTAIN = 0.9  # and complete, and the only one


@dataclass(frozen=True)
class Guess:
    """A layout that the records may have.

    Attributes:
        function: of `vlpipe.layouts`.
        keys: its positional arguments.
        options: its others; `...` where the user has to say.
        confidence: 0 to 1.
        reasons: what speaks for it.
    """

    function: str
    keys: tuple[str, ...]
    options: dict[str, Any]
    confidence: float
    reasons: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Nothing is left for the user to say."""
        return ... not in self.options.values()

    @property
    def call(self) -> str:
        """As one writes it."""
        options = [f"{name}={'...' if value is ... else repr(value)}" for name, value in self.options.items() if value is not None]
        return f"vlpipe.layouts.{self.function}({', '.join([*map(repr, self.keys), *options])})"

    @property
    def argument(self) -> str:
        """As --layout takes it."""
        keys: dict[str, Any] = {"key": self.keys[0]} if len(self.keys) == 1 else {"keys": self.keys} if self.keys else {}
        options = {name: value for name, value in self.options.items() if value is not None and value is not ...}
        return json.dumps({self.function: keys | options}) if keys or options else self.function

    def layout(self) -> Layout:
        """The layout itself."""
        return TABLE[self.function](*self.keys, **self.options)


@dataclass(frozen=True)
class Guesses:
    """The candidates, the most likely first, and what is there that cannot be read."""

    sample: Sample
    candidates: tuple[Guess, ...]
    refusals: tuple[str, ...]

    @cached_property
    def only(self) -> Guess | None:
        """The one that leaves no doubt: beside something that cannot be read, none does."""
        sure = [guess for guess in self.candidates if guess.confidence > CERTAIN and guess.is_complete]
        return sure[0] if len(sure) == 1 and not self.refusals else None

    def certain(self, path: str) -> Layout:
        """The layout that leaves no doubt.

        Raises:
            SchemaError: there is none; the message has the candidates, or what the records have.
        """
        if self.only is not None:
            return self.only.layout()
        calls = [f"layout={guess.call} ({guess.confidence:.0%}: {'; '.join(guess.reasons)})" for guess in self.candidates[:4]]
        facts = [
            f"{fact.key!r}: {fact.kind or 'empty'} x {fact.counts[0]} to {fact.counts[1]}" for fact in list(self.sample.facts.values())[:8]
        ]
        what = f"could be {' or '.join(calls)}" if calls else f"are of no layout that is known here, they have {{{', '.join(facts)}}}"
        refused = "".join(f" {refusal}." for refusal in self.refusals)
        raise SchemaError(
            f"{path}: its records are not vlpipe's own (no vlpipe.json lies beside it) and {what}.{refused} Say which: pass layout=..., "
            "see `vlpipe inspect FILE`; or copy vlpipe.json and index.npy to it if vlpipe wrote it."
        )
