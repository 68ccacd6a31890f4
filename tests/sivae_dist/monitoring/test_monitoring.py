import io
import itertools
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from rich.text import Text
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sivae_dist.checkpoint.saver import Saved
from sivae_dist.monitoring import console
from sivae_dist.monitoring import events as events_module
from sivae_dist.monitoring.console import Reporter, fit
from sivae_dist.monitoring.events import Events
from sivae_dist.monitoring.grids import GridFiles
from sivae_dist.monitoring.monitor import Monitor
from sivae_dist.objectives import SoftIntroSettings
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import read_rows
from sivae_dist.step.schedule import Schedule, ScheduleSettings
from tests.disks import no_room

CPU = torch.device("cpu")

# TensorBoard.


@pytest.mark.slow
def test_events_without_room_are_told_once_and_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)  # TensorBoard's thread ends with the error
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)  # of which the files have their names
    monkeypatch.setattr(events_module, "monotonic", lambda: now)
    said: list[str] = []
    events = Events(tmp_path, 0, said.append)
    events.scalars(100, {"loss": 1.0})
    events.flush()
    (file,) = tmp_path.iterdir()
    with no_room(file.stat().st_size + 10):
        for images in range(200, 1000, 100):
            events.scalars(images, {"loss": 1.0})
            events.flush()
            now += 0.25
    assert len(said) == 1 and str(tmp_path) in said[0]
    assert len(list(tmp_path.iterdir())) <= 3  # the names of files of one second would be in no order
    now += 1.6
    events.scalars(1000, {"loss": 2.0})
    events.close()
    steps = [event.step for event in told(tmp_path).Scalars("loss")]
    assert steps[0] == 100 and steps[-1] == 1000 and len(steps) == len(set(steps))


def told(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


@pytest.fixture
def starts_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts of a run are seconds apart; TensorBoard orders its files by them, then by name (10 before 9)."""
    seconds = itertools.count(int(time.time()))
    monkeypatch.setattr(time, "time", lambda: float(next(seconds)))


@pytest.mark.usefixtures("starts_apart")
def test_events_hold_no_step_twice_after_two_resumes(tmp_path: Path) -> None:
    picture = torch.zeros(3, 4, 4)

    def session(position: int, *images: int, loss: float) -> None:
        events = Events(tmp_path, position)
        for count in images:
            events.scalars(count, {"loss": loss, "rate": 2.0})
            events.image(count, "sample", picture)
        events.flush()
        events.close()

    session(0, 100, 200, 300, 400, 500, loss=1.0)  # killed long after the checkpoint at 300
    session(300, 350, 400, 500, 600, loss=2.0)  # killed again; the checkpoint is at 400
    session(400, 500, 600, loss=3.0)
    events = told(tmp_path)
    expected = {100: 1.0, 200: 1.0, 300: 1.0, 350: 2.0, 400: 2.0, 500: 3.0, 600: 3.0}
    assert [(event.step, event.value) for event in events.Scalars("loss")] == list(expected.items())
    assert [event.step for event in events.Scalars("rate")] == list(expected)
    assert [event.step for event in events.Images("sample")] == list(expected)


@pytest.mark.usefixtures("starts_apart")
def test_events_of_a_run_begun_anew(tmp_path: Path) -> None:
    """Killed before its first checkpoint, it starts from nothing in the same folder."""
    for loss in (1.0, 2.0):
        events = Events(tmp_path, 0)
        events.text("config", "a: 1", 0)
        for images in (100, 200):
            events.scalars(images, {"loss": loss})
        events.close()
    assert [(event.step, event.value) for event in told(tmp_path).Scalars("loss")] == [(100, 2.0), (200, 2.0)]


# Grids in files.


def test_grids_past_the_checkpoint_are_removed_on_resume(tmp_path: Path) -> None:
    grids = GridFiles(tmp_path / "training", 0, pytest.fail)
    for images in (50, 100, 150):
        grids.write(images, "sample_ema", torch.full((3, 4, 4), images / 255))
    for name in ("mine-000000000150.txt", "samples.png", ".partial-sample-000000000150.png"):
        (tmp_path / "training" / name).touch()
    GridFiles(tmp_path / "training", 100, pytest.fail)
    assert sorted(path.name for path in (tmp_path / "training").iterdir()) == [
        *(".partial-sample-000000000150.png", "mine-000000000150.txt"),
        *("sample_ema-000000000050.png", "sample_ema-000000000100.png", "samples.png"),
    ]
    picture = Image.open(tmp_path / "training" / "sample_ema-000000000100.png")
    assert picture.getpixel((0, 0)) == (100, 100, 100)


def test_grids_that_cannot_be_written_are_told_once(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "training").touch()  # where the folder should be
    grids = GridFiles(tmp_path / "training", 0, told.append)
    grids.write(8, "sample", torch.zeros(3, 4, 4))
    grids.write(16, "sample", torch.zeros(3, 4, 4))
    assert len(told) == 1 and f"image grids in {tmp_path / 'training'} cannot be written" in told[0]


# The terminal.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time as the test says; and no setting by which output to a file would count as a terminal."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(console.time, "monotonic", lambda: now.seconds)
    return now


def test_plain_lines(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(1_000_000, 0, enabled=True)
    reporter.progress(1_000, ("4 px, warm-up", "4 px"), None)
    clock.seconds += 5
    reporter.progress(2_000, ("4 px",), 100.0)  # too soon after the last line
    clock.seconds += 6
    reporter.progress(12_345, ("8 px, blend 0.25", "8 px"), 98.7655, [("rec 0.1 [bold]",)])
    clock.seconds += 1
    reporter.progress(1_000_000, ("8 px",), 50.0)  # the last one always
    reporter.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "    1,000/1,000,000 images  4 px, warm-up",
        "   12,345/1,000,000 images  8 px, blend 0.25  2h46m left  98.8/s  rec 0.1 [bold]",
        "1,000,000/1,000,000 images  8 px  0s left  50.0 img/s",
    ]


FIELDS = [("12/99 images", "12/99"), ("8 px, blend 0.5", "8 px"), ("1h02m left",), ("9.1 img/s", "9.1/s"), ("rec 0.1",)]


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (80, "12/99 images  8 px, blend 0.5  1h02m left  9.1 img/s  rec 0.1"),
        (60, "12/99 images  8 px, blend 0.5  1h02m left  9.1/s  rec 0.1"),
        (50, "12/99 images  8 px  1h02m left  9.1 img/s  rec 0.1"),
        (40, "12/99  8 px  1h02m left  9.1/s  rec 0.1"),
        (38, "12/99 images  8 px  1h02m left  9.1/s"),
        (3, "12/99"),
    ],
)
def test_a_line_shows_what_fits_the_most_important_first(width: int, line: str) -> None:
    assert fit(FIELDS, width) == line
    assert len(line) <= max(width, 5)


@pytest.mark.parametrize("width", [80, 120])
def test_a_long_run_is_told_in_one_line(width: int, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, beside its bar, the largest numbers that occur."""
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(console, "Console", lambda file: Console(file=file, force_terminal=True, width=width))
    reporter = Reporter(25_000_000, 0, enabled=True)
    details = [("rec 0.0123",), ("KL 123.4 fake 150.2", "KL 123/150")]
    reporter.progress(12_345_678, ("256 px, blend 0.52", "256 px"), 123.4, details)
    assert reporter._bar is not None
    reporter._bar.refresh()
    reporter.close()
    shown = Text.from_ansi(sys.stdout.getvalue().replace("\r", "\n")).plain.splitlines()  # type: ignore[attr-defined]
    last = [line for line in shown if line.strip()][-1]
    assert "12,345,678/25,000,000" in last and "256 px" in last and "1d04h left" in last and "123.4" in last
    assert len(last.rstrip()) <= width and "…" not in last
    assert ("KL 123.4 fake 150.2" in last) == (width == 120)


def test_messages(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    long = "word " * 60 + "[red]end"
    Reporter(10, 0, enabled=True).say(long)
    assert capsys.readouterr().out == long + "\n"
    silent = Reporter(10, 0, enabled=False)
    silent.say("nothing")
    silent.progress(10, ("4 px",), 1.0)
    silent.close()
    assert capsys.readouterr().out == ""


# All at once.


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    return directory


SCHEDULE = Schedule(ScheduleSettings(images=5_000, batch=10), [4, 8], 100, warmup=100)


class Told:
    """A monitor fed with made-up terms, a row every step."""

    def __init__(self, run: RunDirectory, images: int = 0, speaks: bool = True) -> None:
        self.monitor = Monitor(run, SoftIntroSettings(), SCHEDULE, images, {}, speaks=speaks)
        self.steps = SCHEDULE.steps(images)
        self.data: Any = SimpleNamespace(wait_seconds=0.0, speed=lambda: {"data/decoded": 0})

    def rows(self, *pairs: tuple[float, float | None]) -> None:
        """KL(real) and KL(fake), None for the latter as in the warm-up."""
        for real, fake in pairs:
            step = next(self.steps)
            terms = {"reconstruction/per_value": 0.25, "kl/real": real} | ({} if fake is None else {"kl/fake": fake})
            self.monitor.scalars(step, terms, self.data, 0, CPU)
            self.monitor.step(step)


def warnings(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]


def test_warns_once_when_the_exponent_is_dead(
    run: RunDirectory, clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    told = Told(run)
    told.rows(*[(30.0, None)] * 30)
    told.rows(*[(30.0, 20.0)] * 19)
    assert warnings(capsys) == []
    told.rows((31.5, 20.5))
    (warning,) = warnings(capsys)
    assert "KL(fake) 20.5" in warning and "KL(real) 31.5" in warning and "beta_neg" in warning
    told.rows(*[(30.0, 20.0)] * 50)
    assert warnings(capsys) == []
    told.monitor.close()


def test_warns_once_of_each_kind_of_fault(
    run: RunDirectory, clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    told = Told(run)
    told.rows(*[(30.0, 20.0)] * 30)
    (first,) = warnings(capsys)
    told.rows(*[(0.01, 20.0)] * 30)
    (second,) = warnings(capsys)
    assert first.startswith("warning: KL(fake) 20.0 ") and second.startswith("warning: posterior collapse: ")
    told.rows(*[(30.0, 20.0)] * 30, *[(0.01, 20.0)] * 30)
    assert warnings(capsys) == []
    told.monitor.close()


@pytest.mark.parametrize("fake", [[30.1], [None], [30.0], [20.0] * 10 + [30.1], [20.0] * 19 + [40.0]])
def test_does_not_warn_while_fakes_are_pushed_away(
    run: RunDirectory, clock: SimpleNamespace, capsys: pytest.CaptureFixture[str], fake: list[float | None]
) -> None:
    told = Told(run)
    told.rows(*[(30.0, fake[k % len(fake)]) for k in range(100)])
    assert warnings(capsys) == []
    told.monitor.close()


def test_what_is_told(run: RunDirectory, clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    told = Told(run)
    told.rows((3.0, None), (4.0, 5.0))
    told.monitor.images(SCHEDULE.step_at(10), {"images/sample": torch.zeros(3, 4, 4)})
    told.monitor.sync()
    told.monitor.close()
    rows = read_rows(run.metrics)
    assert [row["images"] for row in rows] == [10, 20]
    assert rows[1] == {
        "images": 20, "reconstruction/per_value": 0.25, "kl/real": 4.0, "kl/fake": 5.0, "schedule/resolution": 4,
        "schedule/blend": 1.0, "schedule/batch": 10, "schedule/lr_encoder": 0.0015, "schedule/lr_decoder": 0.0015,
    }  # fmt: skip
    speed = read_rows(run.speed)
    assert [row["images"] for row in speed] == [10, 20]
    assert all(row["speed/images_per_second"] > 0 for row in speed)
    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("kl/real")] == [(10, 3.0), (20, 4.0)]
    assert [e.step for e in events.Images("images/sample")] == [20]
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("    10/10,000 images  4 px, warm-up  ")
    assert "img/s" in line and "left" in line and "rec 0.2500  KL 3.0" in line
    assert Image.open(run.grids / "sample-000000000020.png").size == (4, 4)


def test_a_resumed_run_leaves_the_same_metrics(run: RunDirectory, tmp_path: Path, clock: SimpleNamespace) -> None:
    pairs: list[tuple[float, float | None]] = [(float(k), None) for k in range(8)]
    whole = RunDirectory(tmp_path / "whole")
    whole.path.mkdir()
    for directory, sessions in ((whole, [(0, 8)]), (run, [(0, 6), (3, 7), (5, 8)])):
        for first, last in sessions:
            told = Told(directory, 10 * first)
            told.rows(*pairs[first:last])
            told.monitor.close()
    assert run.metrics.read_bytes() == whole.metrics.read_bytes()


def test_other_processes_are_silent(
    run: RunDirectory, clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    told = Told(run, speaks=False)
    told.rows(*[(30.0, 20.0)] * 25)
    told.monitor.say("nothing")
    told.monitor.text("a", "b", 0)
    told.monitor.images(SCHEDULE.step_at(0), {"a": torch.zeros(3, 4, 4)})
    told.monitor.saved(0, Saved(0, 0, 1.0, 0.5))
    told.monitor.saved(0, Saved(0, 0, 1.0, 0.5, OSError("full")))
    told.monitor.rewind(0, {})
    told.monitor.sync()
    told.monitor.close()
    assert list(run.path.iterdir()) == [] and capsys.readouterr().out == ""
