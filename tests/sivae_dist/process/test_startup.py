"""Nothing is silent for long at a start, and nothing looks for garbage where there is none."""

import gc
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sivae_dist.process import startup
from tests.command import ENVIRONMENT


class Clock:
    """It stands still but when a test passes time, so that nothing is due too soon on a busy machine."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(startup, "monotonic", clock)
    monkeypatch.setattr(startup, "_LOOK", 0.01)
    return clock


def wait_for(clock: Clock, capsys: pytest.CaptureFixture[str], line: str) -> str:
    """Until a line is said; all that is said up to it."""
    said, end = "", time.monotonic() + 60
    while line not in said:
        assert time.monotonic() < end, said
        clock.now += startup.SECONDS / 8
        time.sleep(0.01)
        said += capsys.readouterr().err
    return said


def test_what_lasts_is_named_and_what_follows_too(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with startup.speaking("loading PyTorch"):
        startup.doing("opening data")
        said = wait_for(clock, capsys, "opening data ...\n")
        assert said == "opening data ...\n"  # not what had passed before it was due
        startup.doing("building the networks")
        wait_for(clock, capsys, "building the networks ...\n")
        wait_for(clock, capsys, "building the networks ... ")  # and for how long, when it goes on lasting
        startup.done()
        startup.doing("training")
        clock.now += 600
        time.sleep(0.2)
    startup.doing("nothing")
    assert "training" not in capsys.readouterr().err


def test_what_is_quick_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with startup.speaking("loading PyTorch"):
        startup.doing("opening data")
        clock.now += 0.9 * startup.SECONDS
        time.sleep(0.2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("then", [lambda: startup.doing("opening data"), startup.done, lambda: None])
def test_the_collector_rests_while_modules_are_imported(then: Callable[[], None]) -> None:
    gc.unfreeze()
    assert gc.isenabled()
    try:
        with startup.loading("PyTorch"):
            assert not gc.isenabled() and gc.get_freeze_count() == 0
            then()
        assert gc.isenabled() and gc.get_freeze_count() > 10_000  # what was there is not looked at again
        before = gc.get_freeze_count()
        with startup.speaking("joining the other processes"):
            startup.doing("opening data")
        assert gc.get_freeze_count() == before
    finally:
        gc.unfreeze()


def test_the_collector_is_awake_as_soon_as_something_else_is_done() -> None:
    with startup.loading("PyTorch"):
        startup.doing("opening data")
        assert gc.isenabled()
    gc.unfreeze()


def test_a_collector_that_others_have_stopped_stays_so() -> None:
    gc.disable()
    try:
        with startup.loading("PyTorch"):
            startup.doing("opening data")
        assert not gc.isenabled() and gc.get_freeze_count() == 0
    finally:
        gc.enable()


def test_nothing_is_looked_through_at_the_end_of_a_command() -> None:
    code = (
        "import atexit, gc, sys; atexit.register(lambda: print(gc.get_freeze_count() > 1000, len(gc.get_objects())));"
        "sys.argv[1:] = ['--version']; from launch.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    frozen, left = done.stdout.splitlines()[-1].split()
    assert frozen == "True" and int(left) < 100


def test_a_worker_imports_torch_without_its_collector(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import gc, sys\n"
        "sys.addaudithook(lambda event, args: event == 'import' and args[0] == 'torch' and print(gc.isenabled()))\n"
    )
    env = ENVIRONMENT | {"PYTHONPATH": f"{tmp_path}:{ENVIRONMENT['PYTHONPATH']}"}
    done = subprocess.run(
        [sys.executable, "-m", "launch.worker", str(tmp_path / "none")],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "is not a run" in done.stderr
    assert done.stdout.split() == ["False"]
