"""The `sivae` command as a user runs it: in processes of its own, with time limits, ended by id.

Most commands are forked from a process that has imported torch and what training needs (tests/preloaded.py), which is
nearly all of their work. Those with an environment or a folder of their own, on which a start may depend, and those
that are watched while they run start as a shell starts them. `says` and `refused` start none.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import pytest
from typer.testing import CliRunner

from launch.cli import app
from sivae_dist.run.jsonl import read_rows
from tests.helpers import start_process

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup, commands would ignore it as well

ROOT = Path(__file__).resolve().parent.parent
TEST_DATA = Path(os.environ.get("SIVAE_TEST_DATA", Path.home() / ".cache" / "sivae" / "test-data"))
"""Real data that tests fetch, once a machine."""
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-P", "-m", "launch.cli", *map(str, arguments)]  # as the `sivae` of `make env` does


def sivae(
    *arguments: object,
    limit: float = 300,
    code: int = 0,
    env: Mapping[str, str] = MappingProxyType({}),
    folder: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs `sivae ARGUMENTS` in a folder, with `env` beside the usual environment, and checks how it ends.

    With neither, what it imports is there already.
    """
    if env or folder:
        done = subprocess.run(
            command(*arguments),
            capture_output=True,
            text=True,
            timeout=limit,
            env={**ENVIRONMENT, **env},
            cwd=folder,
            check=False,
        )
    else:
        done = _forked(list(map(str, arguments)), limit)
    assert done.returncode == code, f"ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def _forked(arguments: list[str], limit: float) -> subprocess.CompletedProcess[str]:
    with TemporaryDirectory() as place:
        streams = [Path(place) / "stdout", Path(place) / "stderr"]
        process = start_process(_become_the_command, arguments, streams, ENVIRONMENT, Path.cwd(), daemon=False)
        process.join(limit)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, limit, *(path.read_bytes() for path in streams))
        return subprocess.CompletedProcess(arguments, process.exitcode, *(path.read_text() for path in streams))


def _become_the_command(arguments: list[str], streams: list[Path], environment: dict[str, str], folder: Path) -> None:
    for number, path in enumerate(streams, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv[:] = [str(ROOT / "launch" / "cli" / "__main__.py"), *arguments]
    from launch.cli import main

    main()


def told(stderr: str) -> list[str]:
    """Lines on stderr but those that name what a slow machine is busy with (sivae_dist/process/startup.py)."""
    return [line for line in stderr.splitlines() if not re.fullmatch(r"[^:]* \.\.\.( \S+)?", line)]


def says(*arguments: object) -> str:
    """What `sivae ARGUMENTS` says on stdout, in this process."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*arguments: object) -> str:
    """The one line with which it refuses."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    lines = told(done.stderr)
    assert (done.exit_code, len(lines)) == (1, 1), done.output
    assert lines[0].startswith("error: ")
    return lines[0]


def images_seen(run: Path) -> int:
    """Images at the last complete row of a run's metrics; 0 when there is none."""
    try:
        return int(read_rows(run / "metrics.jsonl")[-1]["images"])
    except (OSError, ValueError, IndexError):
        return 0


def fetched(*command: str, folder: Path) -> str:
    """Runs a command that gets something from the network into a folder; returns what it prints.

    When it fails or takes long, the test is skipped.
    """
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"not done after 120 s: {' '.join(command)}")
    if done.returncode:
        pytest.skip(f"{' '.join(command)} fails: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout


@contextmanager
def started(*arguments: object, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`sivae ARGUMENTS` in a process group of its own, of which nothing is left afterwards."""
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command(*arguments), stdout=output, stderr=output, start_new_session=True, env=ENVIRONMENT
        )
        try:
            yield process
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()


def wait_for_images(process: subprocess.Popen[bytes], run: Path, images: int, log: Path, limit: float = 300) -> None:
    """Returns as soon as the run's metrics reach `images`."""
    end = time.monotonic() + limit
    while images_seen(run) < images:
        assert process.poll() is None, f"ended with {process.returncode}:\n{log.read_text()[-3000:]}"
        assert time.monotonic() < end, f"{images} images not reached in {limit} s:\n{log.read_text()[-3000:]}"
        time.sleep(0.02)


def worker_ids(run: Path) -> list[int]:
    """Ids of the living processes that train this run."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"launch.worker" in words and str(run).encode() in words:
            found.append(int(entry.name))
    return found
