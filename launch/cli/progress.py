"""Progress of work on many images: count, rate and time left."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sivae_dist.process.durations import duration


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, or else a line every few seconds. Call the result with the images done and their total."""
    from rich.console import Console

    console = Console(stderr=False)
    if not console.is_terminal:
        yield _Lines()
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (BarColumn(None), TextColumn("{task.fields[text]}"))
    with Progress(TextColumn(what), *columns, console=console, expand=True) as bar:
        task = bar.add_task(what, total=None, text="")
        rate = Rate()

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, text=f"{done:,}/{total:,} {rate.text(done, total)}")

        yield show


class Rate:
    """Images per second since this process's first image; images of an earlier run and the workers' start-up time do
    not count."""

    def __init__(self) -> None:
        self._before: int | None = None
        self._start: tuple[float, int] | None = None

    def __call__(self, done: int) -> float | None:
        """None until there is an estimate."""
        if self._before is None:
            self._before = done
        if done == self._before:
            return None
        now = time.monotonic()
        if self._start is None:
            self._start = (now, done)
        seconds, images = now - self._start[0], done - self._start[1]
        return images / seconds if images and seconds > 0 else None

    def text(self, done: int, total: int) -> str:
        """The rate and the time left, as text."""
        rate = self(done)
        if rate is None:
            return "images" if done == total or self._start else "images, starting"
        left = f", {duration((total - done) / rate)} left" if done < total else ""
        return f"images, {rate:,.{0 if rate >= 10 else 1}f} images/s{left}"


class _Lines:
    """Progress as plain lines, one every few seconds and one at the end."""

    SECONDS = 5.0

    def __init__(self) -> None:
        self._rate = Rate()
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        text = self._rate.text(done, total)
        now = time.monotonic()
        if now < self._next and done < total:
            return
        self._next = now + self.SECONDS
        print(f"{done:,}/{total:,} {text}", flush=True)
