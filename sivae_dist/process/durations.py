"""The one format for durations. Imports no torch, for commands that only look."""

import math
from itertools import pairwise

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def duration(seconds: float) -> str:
    """A length of time by its two largest units, at most six characters below 100 days: 42s, 12m34s, 1h02m, 3d04h.

    Less than nothing, which a clock that was set back can give, is 0s; `?` when the length is unknown (inf, NaN).
    """
    if not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    for (unit, size), (smaller, part) in pairwise(_UNITS):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02}{smaller}"
    return f"{whole}s"
