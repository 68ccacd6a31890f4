"""The watchdog, each time in a process of its own, which it may end."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ENVIRONMENT

pytestmark = pytest.mark.slow

PROGRAM = """
import sys, time
from pathlib import Path
from sivae_dist.process import watchdog

def stuck():
    time.sleep(30)

path = Path(sys.argv[1]) if len(sys.argv) > 1 else None
watchdog.start(watchdog.WatchdogSettings(step_seconds={step}, slow_seconds=20), path)
"""


def runs(rest: str, *arguments: object, step: float = 2) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(step=step) + rest, *map(str, arguments)],
        capture_output=True, text=True, timeout=120, env=ENVIRONMENT, check=False,
    )  # fmt: skip


def test_a_process_that_hangs_writes_its_stacks_and_ends(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "stacks-0.txt"
    done = runs("watchdog.expect()\nstuck()", path)
    assert done.returncode == 1 and done.stderr == ""
    assert "in stuck" in path.read_text()


def test_a_process_alone_tells_it_on_the_terminal() -> None:
    done = runs("watchdog.expect()\nstuck()")
    assert done.returncode == 1 and "in stuck" in done.stderr


@pytest.mark.parametrize("slow", [True, False])
def test_signs_of_life_put_it_off(tmp_path: Path, slow: bool) -> None:
    path = tmp_path / "stacks-0.txt"
    alive = f"for _ in range(6):\n    watchdog.expect(slow={slow})\n    time.sleep(1)\n"
    done = runs(alive + "watchdog.stop()\ntime.sleep(5.5)", path, step=5)
    assert done.returncode == 0, done.stderr
    assert not path.exists()


def test_what_may_be_slow_has_more_time(tmp_path: Path) -> None:
    slowly = "time.sleep(2.5)\nwatchdog.expect(slow=True)\ntime.sleep(2.5)\nwatchdog.stop()"
    done = runs(slowly, tmp_path / "stacks-0.txt")
    assert done.returncode == 0, done.stderr
