"""One line of a report."""

from typing import NamedTuple


class Check(NamedTuple):
    name: str
    fine: bool
    detail: str
    """What was found, or what is wrong and what to do."""

    def __str__(self) -> str:
        return f"{'ok    ' if self.fine else 'FAILED'} {self.name}: {self.detail}"
