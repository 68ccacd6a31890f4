"""A run that is asked to end: all processes stop after the same step, and nothing of their work is lost."""

import os
import signal
from pathlib import Path

import pytest
from torch import Tensor

from sivae_dist.config.opening import prepare_run
from sivae_dist.process.processes import rank, world_size
from sivae_dist.process.signals import SIGNALS
from sivae_dist.process.stopping import Stop
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.ends import INTERRUPTED
from sivae_dist.step.schedule import Step
from tests.helpers import assert_same, begin, on_processes, snapshot, start_process, tiny_settings

SETTINGS = ("schedule.images={4: 24, 8: 48}", "checkpoint.keep=9", "monitoring.trace=true", "model.noise=true")
"""Nine steps of 8 images. Without a stop there is no checkpoint but that of the end."""

Ran = tuple[bool, int, dict[str, Tensor]]


def open_run(path: Path, data: Path) -> Path:
    prepare_run(RunDirectory(path), tiny_settings(data, *SETTINGS))
    return path


def _run(path: Path, number: int | None = None, at: int = 0, inside: bool = False) -> Ran:
    """What train() says, where it ends, and all tensors; the last process sends itself a signal after a step.

    That step is the one that is number `at` of the run, from 1. `inside`: in the midst of it instead.
    """
    stop = Stop()
    trainer = begin(path, stop=stop)
    told, take = trainer.monitor.step, trainer.iteration.take

    def hit(step: Step) -> None:
        if number is not None and rank() == world_size() - 1 and step.end == 8 * at:
            os.kill(os.getpid(), number)

    def train_step(step: Step, x: Tensor) -> dict[str, Tensor]:
        if inside:
            hit(step)
        return take(step, x)

    def after(step: Step) -> None:
        told(step)
        if not inside:
            hit(step)

    trainer.iteration.take = train_step  # type: ignore[method-assign]
    trainer.monitor.step = after  # type: ignore[method-assign]
    with stop.listening():
        ended = trainer.train()
    trainer.close()
    return ended, trainer.images, snapshot(trainer.players.tensors())


def checkpoints(path: Path) -> list[int]:
    return sorted(int(p.name.removeprefix("images-")) for p in RunDirectory(path).checkpoints.glob("images-*"))


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step_and_nothing_is_lost(data: Path, tmp_path: Path) -> None:
    """Each asks before a step and hears after it, so that a signal counts from the next step on."""
    straight, stopped = (open_run(tmp_path / name, data) for name in ("straight", "stopped"))
    want = on_processes(2, _run, straight)
    assert [end[:2] for end in want] == [(True, 72)] * 2
    seen = []
    for number, at, inside, images in (
        (signal.SIGTERM, 1, False, 16),
        (signal.SIGINT, 3, True, 32),  # the last at 4 px
        (signal.SIGUSR1, 5, False, 48),
        (signal.SIGUSR2, 7, True, 64),
    ):
        ran = on_processes(2, _run, stopped, number, at, inside)
        assert [end[:2] for end in ran] == [(False, images)] * 2, number
        assert_same(ran[0][2], ran[1][2])
        seen.append(images)
        assert checkpoints(stopped) == seen
    ran = on_processes(2, _run, stopped)
    assert [end[:2] for end in ran] == [(True, 72)] * 2
    assert_same(ran[0][2], want[0][2])
    assert RunDirectory(stopped).metrics.read_bytes() == RunDirectory(straight).metrics.read_bytes()
    assert RunDirectory(stopped).trace.read_bytes() == RunDirectory(straight).trace.read_bytes()


@pytest.mark.parametrize(("count", "at", "inside"), [(1, 8, False), (1, 9, True), (2, 8, True)])
def test_a_stop_at_the_last_step_ends_the_run_as_ever(
    data: Path, tmp_path: Path, count: int, at: int, inside: bool
) -> None:
    path = open_run(tmp_path / "run", data)
    ran = on_processes(count, _run, path, signal.SIGTERM, at, inside)
    assert [end[:2] for end in ran] == [(True, 72)] * count
    assert checkpoints(path) == [72]


def test_a_process_alone_stops_after_the_step_in_which_it_was_asked(data: Path, tmp_path: Path) -> None:
    path = open_run(tmp_path / "run", data)
    ((ended, images, tensors),) = on_processes(1, _run, path, signal.SIGTERM, 5, True)
    assert (ended, images) == (False, 40)
    assert checkpoints(path) == [40]
    trainer = begin(path)
    trainer.close()
    assert trainer.images == 40
    assert_same(trainer.players.tensors(), tensors)


def _signalled(numbers: list[int]) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # pytest may have been started under nohup
    before = [signal.getsignal(number) for number in SIGNALS]
    stop = Stop()
    with stop.listening():
        assert not stop.requested
        for number in numbers:
            os.kill(os.getpid(), number)
            assert stop.requested
    assert [signal.getsignal(number) for number in SIGNALS] == before
    os._exit(7)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_requests_the_end_and_only_a_second_interrupt_enforces_it(number: int) -> None:
    for numbers, code in (([number], 7), ([number, signal.SIGINT, signal.SIGINT], INTERRUPTED)):
        process = start_process(_signalled, numbers)
        process.join(60)
        assert process.exitcode == code
