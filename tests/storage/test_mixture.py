"""Weights of the parts of a mix: exact where they are fractions."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from vlpipe.storage.mixture import Part, exact, tempered


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=5),
    st.sampled_from([1, 1.5, 2, 3, 4]),
)
def test_weights_that_are_fractions_are_exact(roots: list[int], temperature: float) -> None:
    """Sizes with whole roots: as many records as integer arithmetic gives, where floats came to one more (64 ** (1 / 3) < 4)."""
    powers = {1.5: (2, 3)}.get(temperature, (1, int(temperature)))
    sizes = [root ** powers[1] for root in roots]  # n ** (1 / temperature) is root ** powers[0]
    weights = [root ** powers[0] for root in roots]
    parts = tuple(Part(str(n), weight, leaf=n) for n, weight in enumerate(tempered(sizes, temperature)))
    assert Part("", exact(1), parts).size(sizes) == -(-max(sizes) * sum(weights) // max(weights))
    assert tempered(sizes, float("inf")) == [1] * len(sizes)


def test_weights_are_what_was_meant() -> None:
    assert exact(1 / 6) == Fraction(1, 6)
    assert exact(0.1) + exact(0.2) == Fraction(3, 10)
    assert (exact(0.1234567), exact(5e-324)) == (Fraction(1234567, 10**7), Fraction("5e-324"))
    parts = (Part("a", exact(1 / 6), leaf=0), Part("b", exact(5 / 6), leaf=1))
    assert Part("", exact(1), parts).size([100, 30]) == 600
