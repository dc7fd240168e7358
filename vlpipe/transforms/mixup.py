"""Mixup: each sequence of a batch is mixed with another one of it, and so are their labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from vlpipe.arguments import integer, number
from vlpipe.errors import ArgumentError
from vlpipe.storage.field_access import Location
from vlpipe.storage.index import Index
from vlpipe.storage.schema import Fixed

if TYPE_CHECKING:
    import tensorflow as tf

MIN_ALPHA, MAX_ALPHA = 0.001, 100.0
MAX_CLASSES = 1 << 20
_INTERVALS = 1 << 12  # of the table of quantiles: but for one draw in 4096, shares differ from exact ones by less than 1e-3
_POINTS = 1 << 16  # of the integral


@dataclass(frozen=True, repr=False)
class Mixup:
    """Mixes the features of each sequence `[T, d]` with those of a partner from the same batch, and their labels in the same proportion.

        features = s features + (1 - s) features of the partner,    label = s label + (1 - s) label of the partner

    s is the greater one of b and 1 - b, where b has the distribution Beta(alpha, alpha): at least half is the sequence itself, which
    keeps its length, its id and its sample weight. A partner of more frames is cut after T; a shorter one is repeated. The partner is any
    row of the batch of this rank with equal probability, the sequence itself included, which is then not mixed; one without frames mixes
    nothing. Partner and s are drawn from (seed, epoch, record), and each window and each copy of a record has its own; which record the
    partner is follows from the batch. So a run resumes with the same mixtures if its batches are the same: with the same batch_size and
    number of ranks.

    Labels that are class numbers become vectors, float32 `[classes]`, 1 for the class of a sequence that is not mixed: compile the model
    with a categorical cross-entropy. Vectors of integers (multi-hot) become float32, too. Other labels are refused.

    With `ids=True`, x["partner"] has the row of the partner in the index (int64 `[B]`). Zhang et al., mixup: Beyond Empirical Risk
    Minimization, ICLR 2018.

    Args:
        alpha: of the Beta distribution, 0.001 to 100: the greater, the more of the partner. 0.2 is common.
        classes: the number of classes, where labels are class numbers; None: that of the class names (`metadata["classes"]`).

    Raises:
        ArgumentError: `alpha` or `classes` is not allowed.

    Example:
        >>> vlpipe.write("data/train", [{"features": np.full((4, 3), n, np.float32), "label": n} for n in (0, 1)])
        >>> for x, y in vlpipe.make_dataset("data/train", augment=vlpipe.Mixup(0.2, classes=2), seed=1):
        ...     print(np.allclose(x[:, 0, 0], y[:, 1]), np.allclose(tf.reduce_sum(y, 1), 1))
        True True
    """

    alpha: float = 0.2
    classes: int | None = None

    stage: ClassVar[str] = "batch"
    draws: ClassVar[int] = 2
    makes_fractions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        alpha = number("Mixup: alpha", self.alpha, MIN_ALPHA, MAX_ALPHA, expected=f"a number from {MIN_ALPHA} to {MAX_ALPHA:g}")
        object.__setattr__(self, "alpha", alpha)
        if self.classes is not None:
            object.__setattr__(self, "classes", integer("Mixup: classes", self.classes, 1, MAX_CLASSES))

    def __repr__(self) -> str:
        return f"Mixup({self.values})"

    @property
    def values(self) -> str:
        """Its arguments; `classes` only where it is given."""
        return f"alpha={self.alpha}" + ("" if self.classes is None else f", classes={self.classes}")

    def check(self, features: tuple[str, ...], labels: tuple[str, ...], index: Index) -> None:
        """Check that everything that belongs to a sequence can be mixed.

        Raises:
            ArgumentError: there are several features, or a label is neither a vector nor a known class.
        """
        if len(features) > 1:
            raise ArgumentError(
                f"augment: Mixup mixes one feature, but {list(features)} are delivered, and the others would stay. Name one: features=..."
            )
        for name in labels:
            field = index.schema.fields[name]
            if not isinstance(field, Fixed):
                raise ArgumentError(
                    f'augment: Mixup mixes labels, but "{name}" is {field!r}, expected a class number or a vector for each record. Leave '
                    "the label out, or Mixup."
                )
            if self.is_class(field):
                self._check_classes(name, index)

    def is_class(self, field: Fixed) -> bool:
        """Whether a label is a class number, which becomes a vector."""
        return not field.dimensions and np.dtype(field.dtype).kind != "f"

    def classes_in(self, index: Index) -> int | None:
        """The number of classes; None where nobody says it."""
        names = index.metadata.get("classes")
        return self.classes if self.classes is not None else len(names) if isinstance(names, list) and names else None

    def _check_classes(self, name: str, index: Index) -> None:
        classes, access = self.classes_in(index), index.access(name)
        if classes is None:
            raise ArgumentError(
                f'augment: Mixup makes vectors of the class numbers "{name}", but the dataset has no class names (metadata["classes"]) to '
                "count. Pass vlpipe.Mixup(alpha, classes=...)."
            )
        if access.location is not Location.ROW:
            raise ArgumentError(
                f'augment: Mixup makes vectors of class numbers, but the index does not have those of "{name}". Convert the dataset '
                "(vlpipe convert), or deliver vectors of floats."
            )
        values = access.row_values(index.rows)
        outside = (values < 0) | (values >= classes)
        if outside.any():
            row = int(np.argmax(outside))
            raise ArgumentError(
                f'{index.where(row)}: "{name}" is {values[row]}, and Mixup makes vectors of {classes} classes, expected 0 to '
                f"{classes - 1}. Pass vlpipe.Mixup(alpha, classes=...) that counts all, or leave the record out (select)."
            )


@lru_cache(maxsize=8)
def quantiles(alpha: float) -> np.ndarray:
    """float64 `[n + 1]`: x ** min(alpha, 1) of the k / n quantile x of min(b, 1 - b), for b with the distribution Beta(alpha, alpha).

    The power, because the density of b is infinite at 0 for alpha < 1, and that of the power is (1 - x) ** (alpha - 1), which is smooth.
    """
    grid = np.linspace(0, 0.5 ** min(alpha, 1), _POINTS + 1)
    x = grid ** (1 / min(alpha, 1))
    density = (1 - x) ** (alpha - 1) * x ** max(alpha - 1, 0)
    integral = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    return np.interp(np.linspace(0, 1, _INTERVALS + 1), integral / integral[-1], grid)


def shares(augment: Mixup, draws: tf.Tensor) -> tf.Tensor:
    """float64 `[B]`: s, for draws (int64 `[B]`) below 2**32; rounded to float32, as a power may differ in its last bit."""
    import tensorflow as tf

    table = tf.constant(quantiles(augment.alpha))
    place, within = draws // (2**32 // _INTERVALS), draws % (2**32 // _INTERVALS)
    low, high = tf.gather(table, place), tf.gather(table, place + 1)
    t = low + (high - low) * (tf.cast(within, tf.float64) / (2**32 // _INTERVALS))
    return tf.cast(tf.cast(1 - tf.pow(t, 1 / min(augment.alpha, 1)), tf.float32), tf.float64)


def mixed(sequences: tf.RaggedTensor, partners: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """The mixed frames `[N, ...]` of the sequences.

    Args:
        sequences: floats `[B, None, ...]`.
        partners: int64 `[B]`, the row of each one's partner.
        share: float64 `[B]`, of the sequence itself; 1 where the partner has no frames.
    """
    import tensorflow as tf

    values, rows = sequences.values, sequences.value_rowids()
    of_partner = tf.gather(sequences.row_lengths(), partners)
    within = tf.range(tf.size(rows, tf.int64)) - tf.gather(sequences.row_starts(), rows)
    origins = tf.gather(tf.gather(sequences.row_starts(), partners), rows) + within % tf.gather(tf.maximum(of_partner, 1), rows)
    others = tf.gather(values, tf.where(tf.gather(of_partner, rows) > 0, origins, 0))
    is_mixed = expanded(tf.gather(share, rows) < 1, values)
    share = expanded(tf.cast(tf.gather(share, rows), values.dtype), values)
    return tf.where(is_mixed, share * values + (1 - share) * others, values)


def expanded(of_rows: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """`[N]` as `[N, 1, ...]`, to go with `values` `[N, ...]`."""
    import tensorflow as tf

    return tf.reshape(of_rows, [-1] + [1] * (values.shape.rank - 1))
