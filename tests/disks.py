"""Small file systems made of memory, so that no real disk has to be full."""

import resource
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest


class MountError(OSError):
    """This user, or this system, cannot mount."""


@contextmanager
def no_room(limit: int) -> Iterator[None]:
    """No file of this process can grow past `limit` bytes, as on a full disk or past a quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def small_disk(path: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of that size at `path`, gone afterwards with all that is in it. MountError where not permitted."""
    path.mkdir(parents=True)
    try:
        mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(path))
        try:
            yield path
        finally:
            release(path)
    finally:
        path.rmdir()


@contextmanager
def mounted_or_skipped(path: Path, kilobytes: int) -> Iterator[Path]:
    """The same for a test, which is skipped, with the system's own reason, where nothing can be mounted."""
    with ExitStack() as stack:
        try:
            stack.enter_context(small_disk(path, kilobytes))
        except MountError as error:
            pytest.skip(f"no small file system can be mounted here: {error}")
        yield path


def mount(*arguments: str) -> None:
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise MountError("there is no mount command") from error
    if done.returncode:
        raise MountError(" ".join(done.stderr.split()))


def release(path: Path) -> None:
    """Unmounts what a disk of ours is, or what one has left whose campaign was killed."""
    if path.is_mount() and subprocess.run(["umount", str(path)], capture_output=True, check=False).returncode:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
