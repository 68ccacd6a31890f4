"""Counts as functions of the batch, from a single trace: exact for every batch that the trace could have had.

A trace without values is taken with a batch that is a multiple of a large prime. What has this prime as a factor is in
proportion to the batch (twice: to its square), since nothing else about a step has; everything else is independent of
it. A count is then a polynomial in the batch, which is kept as an integer whose digits, in a large base, are the
coefficients: sums of counts are sums of integers.
"""

_PRIME = 1_000_003
_GROUPS = 12
"""Layers may divide a batch into groups (2, 3, 4, 6 or 12 of them)."""

_BATCH = _GROUPS * _PRIME

_BASE = 1 << 80


def traced_batch(batch: int) -> int:
    """The images with which a trace is taken that is to say what a batch does.

    One image alone is traced as it is: memory formats coincide for it, which saves some copies.
    """
    return _BATCH if batch > 1 else 1


def polynomial(count: int) -> int:
    """What a count in a trace is for any batch, to be evaluated by `at`."""
    power = 0
    while count and count % _PRIME == 0:
        count //= _PRIME
        power += 1
    return count * _BASE**power


def coefficients(value: int) -> list[int]:
    """Those of a polynomial, the constant first, that of batch^k in units of 1 / 12^k."""
    found = []
    while value:
        value, digit = divmod(value, _BASE)
        found.append(digit)
    return found


def at(value: int, batch: int) -> int:
    """The count for `batch` images."""
    return _at(coefficients(value), batch)


class Peak:
    """The largest of many polynomials, which one it is depending on the batch."""

    def __init__(self) -> None:
        self._largest: list[list[int]] = []

    def note(self, value: int) -> None:
        """Adds a polynomial, unless another is at least as large for every batch."""
        self._note(coefficients(value))

    def include(self, other: "Peak") -> None:
        """Adds all that another has noted."""
        for one in other._largest:
            self._note(one)

    def _note(self, new: list[int]) -> None:
        if any(_covers(other, new) for other in self._largest):
            return
        self._largest = [other for other in self._largest if not _covers(new, other)] + [new]

    def at(self, batch: int) -> int:
        return max((_at(one, batch) for one in self._largest), default=0)


def _at(digits: list[int], batch: int) -> int:
    return sum(digit * batch**power // _GROUPS**power for power, digit in enumerate(digits))


def _covers(larger: list[int], smaller: list[int]) -> bool:
    return len(larger) >= len(smaller) and all(a >= b for a, b in zip(larger, smaller, strict=False))
