"""The terminal: a progress bar where there is one, plain lines otherwise."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from sivae_dist.durations import duration

_PLAIN_SECONDS = 10.0


class Reporter:
    """Shows phase, images, rate and time left. Only the first process should have one that is `enabled`."""

    def __init__(self, total: int, position: int, enabled: bool) -> None:
        self.console = Console(file=sys.stdout)
        self.enabled = enabled
        self.total = total
        self._started = time.monotonic()
        self._start_position = position
        self._last_line = 0.0
        self._bar: Progress | None = None
        if enabled and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[status]}"),
                console=self.console,
            )
            self._task = self._bar.add_task("", total=total, completed=position, status="")
            self._bar.start()

    def say(self, message: str) -> None:
        """A line of its own."""
        if self.enabled:
            self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def progress(self, images: int, phase: str, rate: float | None, detail: str = "") -> None:
        """After every step. `rate`: images a second of late, None while unknown; `phase`: a short description."""
        if not self.enabled:
            return
        now = time.monotonic()
        left = f"{duration((self.total - images) / rate)} left" if rate else "..."
        speed = f"{rate:.1f} img/s" if rate else ""
        if self._bar is not None:
            status = f"{images:,}/{self.total:,} images  {speed}  {left}  {detail}"
            self._bar.update(self._task, completed=images, description=phase, status=status)
        elif now - self._last_line >= _PLAIN_SECONDS or images >= self.total:
            self._last_line = now
            self.say(f"{phase:<22} {images:>11,}/{self.total:,} images  {speed:>14}  {left}  {detail}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
