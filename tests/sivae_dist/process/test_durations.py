"""One way to write times."""

import math

import pytest

from sivae_dist.process.durations import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (754, "12m34s"),
        (3599.4, "59m59s"),
        (3723, "1h02m"),
        (86_399, "23h59m"),
        (360_000, "4d04h"),
        (-3, "0s"),
        (math.inf, "?"),
        (math.nan, "?"),
    ],
)
def test_the_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
