"""The terminal: a progress bar where there is one, plain lines otherwise."""

import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from sivae_dist.process.durations import duration

_PLAIN_SECONDS = 10.0
_GAP = "  "
_BAR = 10
"""Smallest useful number of columns of a bar."""


def fit(fields: Sequence[Sequence[str]], width: int) -> str:
    """A line of at most `width` columns from fields, the most important first, each in its variants, the longest first.

    What does not fit even at its shortest is left out, from the end; what then is free makes the first ones longer.
    The first field always stays.
    """
    shown = [variants[-1] for variants in fields if variants]
    while len(shown) > 1 and _length(shown) > width:
        shown.pop()
    for place, variants in enumerate([variants for variants in fields if variants][: len(shown)]):
        for variant in variants:
            longer = [*shown[:place], variant, *shown[place + 1 :]]
            if _length(longer) <= width:
                shown = longer
                break
    return _GAP.join(shown)


def _length(texts: Sequence[str]) -> int:
    return sum(map(len, texts)) + len(_GAP) * (len(texts) - 1)


class Reporter:
    """Shows phase, images, rate and time left. Only the first process should have one that is `enabled`."""

    def __init__(self, total: int, position: int, enabled: bool) -> None:
        """`total`: images seen at the end of the last step."""
        self.console = Console(file=sys.stdout)
        self.enabled = enabled
        self.total = total
        self._last_line = 0.0
        self._bar: Progress | None = None
        if enabled and self.console.is_terminal:
            column = Column(no_wrap=True, ratio=None)
            self._bar = Progress(
                TextColumn("{task.fields[line]}", table_column=column, markup=False),
                BarColumn(bar_width=None),
                console=self.console,
                expand=True,
            )
            self._task = self._bar.add_task("", total=total, completed=position, line="")
            self._bar.start()

    def say(self, message: str) -> None:
        """A line of its own."""
        if self.enabled:
            self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def progress(
        self, images: int, phase: Sequence[str], rate: float | None, details: Sequence[Sequence[str]] = ()
    ) -> None:
        """After every step. `rate`: recent images per second, None while unknown; `phase`, and each of `details`: the
        variants of a short description, the longest first."""
        if not self.enabled:
            return
        now = time.monotonic()
        if self._bar is not None:
            fields = self._fields(images, phase, rate, details)
            line = fit(fields, self.console.width - _BAR - 1)
            self._bar.update(self._task, completed=images, line=line)
        elif now - self._last_line >= _PLAIN_SECONDS or images >= self.total:
            self._last_line = now
            self.say(fit(self._fields(images, phase, rate, details), self.console.width))

    def _fields(
        self, images: int, phase: Sequence[str], rate: float | None, details: Sequence[Sequence[str]]
    ) -> list[Sequence[str]]:
        total = f"{self.total:,}"
        fields = [(f"{images:>{len(total)},}/{total} images", f"{images:>{len(total)},}/{total}"), phase]
        if rate:
            fields += [(f"{duration((self.total - images) / rate)} left",)]
            speed = f"{rate:,.0f}" if rate >= 1000 else f"{rate:.1f}"
            fields += [(f"{speed} img/s", f"{speed}/s")]
        return [*fields, *details]

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
