"""Printing whose reader is gone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sivae_dist.process.output import lasting_log
from sivae_dist.process.signals import SIGNALS, handling

PRINTS = """
import sys
from sivae_dist.process.output import outlast_watchers
outlast_watchers()
for line in range(20_000):
    print("line", line, flush=line % 7 == 0)
sys.stdout.write("the end")
print("done", file=sys.stderr)
"""


def test_both_streams_may_go() -> None:
    """With one terminal; the one cannot even be told of the other."""
    main, terminal = os.openpty()
    os.close(main)
    done = subprocess.run([sys.executable, "-c", PRINTS], stdout=terminal, stderr=terminal, timeout=120, check=False)
    os.close(terminal)
    assert done.returncode == 0


def prints(stdout: int) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", PRINTS], stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120, check=False
    )


def test_a_reader_that_goes_is_noted_once_and_ends_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = prints(writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (
        0,
        "note: stdout cannot be written (Broken pipe); everything else continues\ndone\n",
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_noted_once_and_ends_nothing() -> None:
    with open("/dev/full", "w") as full:
        done = prints(full.fileno())
    assert (done.returncode, done.stderr) == (
        0,
        "note: stdout cannot be written (No space left on device); everything else continues\ndone\n",
    )


def test_a_terminal_that_goes_is_noted_once_and_ends_nothing() -> None:
    main, terminal = os.openpty()
    os.close(main)
    done = prints(terminal)
    os.close(terminal)
    assert (done.returncode, done.stderr.splitlines()[1:]) == (0, ["done"])


def test_a_stream_set_not_to_block_loses_nothing() -> None:
    """By whoever shares the terminal; a plain print raises BlockingIOError when the buffer is full."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with subprocess.Popen(["wc", "-l"], stdin=reading, stdout=subprocess.PIPE, text=True) as counter:
        os.close(reading)
        done = prints(writing)
        os.close(writing)
        counted, _ = counter.communicate(timeout=120)
    assert (done.returncode, done.stderr, counted.strip()) == (0, "done\n", "20000")


def test_a_log_on_a_full_disk_is_told_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    with lasting_log(tmp_path / "log") as log:
        print("one", file=log)
        print("two", file=log)
    assert capsys.readouterr().err == f"warning: {tmp_path / 'log'} cannot be written: No space left on device\n"
    with lasting_log(tmp_path / "other") as log:
        print("one", file=log)
    with lasting_log(tmp_path / "other") as log:
        print("two", file=log)
    assert (tmp_path / "other").read_text() == "one\ntwo\n"


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    told: list[int] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handling(lambda number, frame: told.append(number)):
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with handling(lambda number, frame: told.append(number)):
            for number in SIGNALS:
                os.kill(os.getpid(), number)
        assert told == list(SIGNALS)
    finally:
        signal.signal(signal.SIGHUP, before)
