"""Saves that fail: every process is told, nothing is left or lost, and the next one is as good as any."""

import errno
import json
import os
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from sivae_dist.checkpoint import saver, writing
from sivae_dist.checkpoint.saver import CheckpointSaver
from sivae_dist.checkpoint.writing import write_files
from sivae_dist.process.processes import everyone, rank
from sivae_dist.run.atomic import reserve
from tests.checkpoints import contents, names, saved, saver_of, some_meta, some_tensors
from tests.disks import mounted_or_skipped
from tests.helpers import on_processes


def _no_space(*_arguments: Any, **_named: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def no_large_files() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


FAILURES: dict[str, tuple[int, Callable[[], Any]]] = {
    "size": (1, no_large_files),
    "fsync": (1, lambda: patch.object(os, "fsync", _no_space)),
    "writer": (1, lambda: patch.object(HuggingFaceStorageWriter, "write_data", _no_space)),
    "plan": (1, lambda: patch.object(HuggingFaceStorageWriter, "prepare_local_plan", _no_space)),
    "checksum": (1, lambda: patch.object(writing, "record_of", _no_space)),
    "folder": (0, lambda: patch.object(Path, "mkdir", _no_space)),
    "manifest": (0, lambda: patch.object(json, "dump", _no_space)),
    "name": (0, lambda: patch.object(Path, "rename", _no_space)),
}
"""What fails, and on which of two processes."""


def _told(one: CheckpointSaver) -> list[str | None]:
    return [None if outcome.error is None else str(outcome.error) for outcome in one.ended()]


def _fails_and_recovers(path: Path) -> dict[str, dict[str, Any]]:
    results: dict[str, dict[str, Any]] = {}
    for where, (victim, broken) in FAILURES.items():
        one = saver_of(path / where, keep=2, max_failures=2)

        def save(*numbers: int, one: CheckpointSaver = one) -> list[str | None]:
            for number in numbers:
                one.save(number, some_tensors(number), some_meta(phase=number))
                one.wait()
            return _told(one)

        result: dict[str, Any] = {"good": save(8, 16)}
        with broken() if rank() == victim else ExitStack():
            result["failed"] = save(24)
        dist.barrier()
        result["listed"] = names(path / where)
        dist.barrier()
        with pytest.raises(OSError):
            one.check()
        result["recovered"] = save(32)
        one.check()
        dist.barrier()
        before = contents(path / where)
        with broken() if rank() == victim else ExitStack():
            result["failed twice"] = save(40, 48)
        with pytest.raises(OSError) as caught:
            one.save(56, some_tensors(56), None)
        dist.barrier()
        result["ended"] = str(caught.value)
        result["untouched"] = contents(path / where) == before
        one.close()
        results[where] = result
    return results


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, dict[str, Any]]]]:
    path = tmp_path_factory.mktemp("failures")
    return path, on_processes(2, _fails_and_recovers, path)


@pytest.mark.slow
@pytest.mark.parametrize("where", FAILURES)
def test_an_error_on_one_process_reaches_all(
    failures: tuple[Path, list[dict[str, dict[str, Any]]]], where: str
) -> None:
    """Nobody waits, nothing is left or lost, and what was an exception is forgotten after a good save."""
    path, results = failures[0] / where, [result[where] for result in failures[1]]
    for result in results:
        assert result["good"] == [None, None]
        assert result["listed"] == ["images-000000000008", "images-000000000016"]
        assert result["recovered"] == [None]
        assert result["untouched"]
        assert [len(result["failed"]), len(result["failed twice"])] == [1, 2]
        for images, message in zip((24, 40, 48), result["failed"] + result["failed twice"], strict=True):
            assert message is not None and "\n" not in message
            assert str(path / f"images-{images:012d}") in message
            assert os.strerror(errno.EFBIG if where == "size" else errno.ENOSPC) in message, message
        assert result["ended"] == result["failed twice"][1]
    assert names(path) == ["images-000000000016", "images-000000000032"]
    for checkpoint in saver_of(path).folder.readable():
        checkpoint.verify()


def _fails_to_remove(path: Path) -> tuple[list[str | None], list[str | None]]:
    one = saver_of(path, keep=2)
    for images in (8, 16):
        one.save(images, some_tensors(images), None)
    one.wait()
    assert _told(one) == [None, None]
    with patch.object(shutil, "rmtree", _no_space) if rank() == 0 else ExitStack():
        one.save(24, some_tensors(24), None)
        one.wait()
    failed = _told(one)
    one.save(32, some_tensors(32), None)
    one.wait()
    return failed, _told(one)


def test_what_cannot_be_removed_is_told_on_all_processes_and_mended_by_the_next_save(tmp_path: Path) -> None:
    for failed, then in on_processes(2, _fails_to_remove, tmp_path):
        (message,) = failed
        assert message is not None and str(tmp_path) in message and os.strerror(errno.ENOSPC) in message
        assert then == [None]
    assert names(tmp_path) == ["images-000000000024", "images-000000000032"]


# The rehearsal.


def _rehearses(path: Path, *sizes: int) -> list[list[int]]:
    """Bytes that each process has taken of the disk, for each size; and what is left, if anything."""
    one = saver_of(path)
    taken: list[list[int]] = []

    def spy_on_files(*arguments: Any) -> Any:
        records = write_files(*arguments)
        taken.append([record["bytes"] for _, record in sorted(records.items())])
        return records

    def spy_on_room(file: Path, size: int) -> None:
        reserve(file, size)
        assert file.stat().st_size == size <= 512 * file.stat().st_blocks  # nothing is sparse
        taken[-1][rank()] += size

    with patch.object(saver, "write_files", spy_on_files), patch.object(saver, "reserve", spy_on_room):
        for size in sizes:
            one.rehearse(some_tensors() | {"large": torch.zeros(10_000)}, size)
            if rank() == 0:
                assert names(path) == []
    return [[part[k] for k, part in enumerate(everyone(lambda at=at: at))] for at in taken]  # type: ignore[misc]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_rehearsal_writes_as_much_as_a_checkpoint_and_leaves_nothing(tmp_path: Path, processes: int) -> None:
    for small, large in on_processes(processes, _rehearses, tmp_path / "run", 10, 500_001):
        assert len(small) == len(large) == processes
        assert 40_000 < sum(small) < 43_000  # what there is
        assert 500_001 <= sum(large) < 510_000
        assert max(large) < 1.1 * min(large)


def test_a_rehearsal_copies_nothing_that_is_on_the_host(tmp_path: Path) -> None:
    """Nothing changes meanwhile, and copies are a third of what it would cost."""
    one = saver_of(tmp_path)
    with patch.object(one._stager, "stage", _no_space):
        one.rehearse(some_tensors(), 100_000)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            one.save(8, some_tensors(), None)


def _rehearses_in_vain(path: Path) -> list[str]:
    one, messages = saver_of(path), []
    for where in ("size", "checksum"):
        with FAILURES[where][1]() if rank() == 1 else ExitStack(), pytest.raises(OSError) as caught:
            one.rehearse(some_tensors(), 1_234_567)
        messages.append(str(caught.value))
    one.save(8, some_tensors(8), None)
    one.wait()
    one.check()
    return messages


def test_a_rehearsal_that_fails_on_one_process_is_told_by_all_and_leaves_nothing(tmp_path: Path) -> None:
    for messages in on_processes(2, _rehearses_in_vain, tmp_path):
        for message, code in zip(messages, (errno.EFBIG, errno.ENOSPC), strict=True):
            assert message.startswith(f"no checkpoint of 1.2 MB can be written to {tmp_path}: ")
            assert os.strerror(code) in message and "\n" not in message
    assert names(tmp_path) == ["images-000000000008"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Of 2 MB."""
    with mounted_or_skipped(tmp_path / "disk", 2048) as path:
        yield path


def test_a_disk_too_small_for_a_checkpoint_shows_in_the_rehearsal(small_disk: Path) -> None:
    one = saver_of(small_disk / "run")
    one.rehearse(some_tensors(), 1_500_000)
    with pytest.raises(OSError) as caught:
        one.rehearse(some_tensors(), 3_000_000)
    assert str(caught.value).startswith(f"no checkpoint of 3.0 MB can be written to {small_disk / 'run'}: ")
    assert os.strerror(errno.ENOSPC) in str(caught.value) and "\n" not in str(caught.value)
    assert names(small_disk / "run") == []
    one.rehearse(some_tensors(), 1_500_000)


def test_a_disk_that_fills_up_costs_no_checkpoint(small_disk: Path) -> None:
    run = small_disk / "run"
    saved(run, 8, 16)
    before = contents(run)
    one = saver_of(run)
    one.save(24, {"large": torch.zeros(1_000_000)}, None)
    one.wait()
    (outcome,) = one.ended()
    assert outcome.error is not None and os.strerror(errno.ENOSPC) in str(outcome.error)
    assert contents(run) == before
    one.save(32, some_tensors(32), None)
    one.close()
    assert names(run) == ["images-000000000016", "images-000000000032"]


def _outlives(path: Path) -> list[str | None]:
    """Of four processes in a ring, the last is gone; its neighbours hear of it, and the second waits for them alone."""
    one, heard = saver_of(path), path.with_name("heard")
    dist.barrier()  # until all of them are connected
    if rank() == 3:
        one._leave()
        return []
    one.save(8, some_tensors(), None)
    one.wait()
    if rank() == 1:
        heard.touch()
    while not heard.exists():  # they live on, as they do while their training waits
        time.sleep(0.01)
    with pytest.raises(OSError, match="cannot write"):  # although three failures in a row are allowed
        one.check(3)
    return _told(one)


def test_nobody_waits_for_a_process_that_waited_for_a_lost_one(tmp_path: Path) -> None:
    for (told,) in on_processes(4, _outlives, tmp_path / "run")[:3]:
        assert told.startswith("cannot write checkpoint")
        assert re.search("Connection (closed|reset) by peer|Broken pipe", told)
