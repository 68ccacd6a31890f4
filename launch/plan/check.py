"""One line of a report."""

from typing import NamedTuple


class Check(NamedTuple):
    name: str
    fine: bool
    detail: str
    """The result, or the problem and its remedy."""

    def __str__(self) -> str:
        return f"{'ok    ' if self.fine else 'FAILED'} {self.name}: {self.detail}"
