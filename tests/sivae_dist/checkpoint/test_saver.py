"""Saving in the background: the same checkpoint, whatever training does meanwhile."""

import hashlib
import json
import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import filesystem, state_dict_saver
from torch.distributed.checkpoint.staging import StagingOptions
from torch.distributed.checkpoint.state_dict_saver import save

from sivae_dist.checkpoint import Checkpoint, CheckpointFolder, files, saver, writing
from sivae_dist.checkpoint.settings import CheckpointSettings
from sivae_dist.checkpoint.writing import write
from sivae_dist.process.processes import rank
from tests.checkpoints import contents, names, safetensors, saver_of, some_meta, some_tensors
from tests.helpers import on_processes


@contextmanager
def slowly(seconds: float) -> Iterator[None]:
    """Writing begins late."""

    def late(*arguments: Any) -> int:
        time.sleep(seconds)
        return write(*arguments)

    with patch.object(saver, "write", late):
        yield


# The same in the background.


def _saves_and_changes(path: Path, background: bool) -> tuple[int, list[str]]:
    """Training changes every tensor in place as soon as it may; writing in the background begins only then.

    How often the commit ran here, and the tensors that this process copied.
    """
    changed, commits = threading.Event(), 0

    copied: list[str] = []

    def after_the_change(final: Path, snapshot: writing.Snapshot, *arguments: Any) -> int:
        assert changed.wait(30 if background else 0) or not background
        copied[:] = snapshot.mine
        return write(final, snapshot, *arguments)

    def commit() -> None:
        nonlocal commits
        commits += 1

    tensors = some_tensors(3)
    with patch.object(saver, "write", after_the_change):
        one = saver_of(path, background=background)
        for images in (8, 16):
            changed.clear()
            one.save(images, tensors, some_meta(phase=images), commit)
            for tensor in tensors.values():
                tensor.mul_(1.5).add_(images)
            changed.set()
            one.wait()
    ended = one.ended()
    assert [(outcome.images, outcome.error) for outcome in ended] == [(8, None), (16, None)]
    return commits, copied


@pytest.mark.parametrize("processes", [1, 2])
def test_a_save_in_the_background_is_that_in_the_foreground_bit_for_bit(tmp_path: Path, processes: int) -> None:
    fore, back = tmp_path / "fore", tmp_path / "back"
    for path, background in ((fore, False), (back, True)):
        results = on_processes(processes, _saves_and_changes, path, background)
        assert [commits for commits, _ in results] == [2, 0][:processes]  # by the first process alone
        assert sorted(name for _, copied in results for name in copied) == sorted(some_tensors())
    assert len(contents(fore)) == 2 * (processes + 1)
    assert _comparable(back) == _comparable(fore)
    checkpoint = Checkpoint.read(back / "images-000000000008")
    checkpoint.verify()
    loaded = checkpoint.load()
    for name, tensor in some_tensors(3).items():
        assert torch.equal(loaded[name], tensor), name


def _comparable(path: Path) -> dict[str, Any]:
    """All of a run's checkpoints, but for what safetensors adds to a header in another order each time."""
    found: dict[str, Any] = {}
    for name, content in contents(path).items():
        if name.endswith("manifest.json"):
            found[name] = json.loads(content)
            found[name].pop("sha256", None)
            for file, record in found[name]["files"].items():
                assert record.pop("sha256") == hashlib.sha256(contents(path)[f"{Path(name).parent}/{file}"]).hexdigest()
        else:
            found[name] = safetensors(content)
    return found


def test_a_second_save_waits_for_the_first_and_both_are_right(tmp_path: Path) -> None:
    tensors = some_tensors(1)
    one, may_write = saver_of(tmp_path), threading.Event()

    def gated(*arguments: Any) -> int:
        assert may_write.wait(30)
        return write(*arguments)

    with patch.object(saver, "write", gated):
        one.save(8, tensors, None)
        assert one.ended() == [] and not one.folder.paths()
        for name, tensor in some_tensors(2).items():
            tensors[name].copy_(tensor)
        wait = one.wait

        def released_later() -> None:
            threading.Timer(0.2, may_write.set).start()
            wait()

        with patch.object(one, "wait", released_later):  # so that none of the 0.2 s passes before it waits
            one.save(16, tensors, None)
        assert one.folder.final(8).exists()
        for tensor in tensors.values():
            tensor.fill_(0)
        one.wait()
    first, second = one.folder.readable()
    for seed, checkpoint in ((1, first), (2, second)):
        checkpoint.verify()
        loaded = checkpoint.load()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in some_tensors(seed).items())
    told = one.ended()
    assert [(outcome.images, outcome.bytes) for outcome in told] == [(8, first.bytes), (16, second.bytes)]
    assert told[0].seconds - told[0].blocked > 0.15  # training went on
    assert told[1].seconds > told[1].blocked > 0.15
    assert one.ended() == []


def test_a_save_in_the_foreground_is_finished_on_return(tmp_path: Path) -> None:
    one = saver_of(tmp_path, background=False)
    with slowly(0.05):
        one.save(8, some_tensors(), None)
    assert names(tmp_path) == ["images-000000000008"]
    (outcome,) = one.ended()
    assert outcome.blocked == outcome.seconds >= 0.05


def test_closing_finishes_what_is_being_written(tmp_path: Path) -> None:
    one = saver_of(tmp_path)
    with slowly(0.1):
        one.save(8, some_tensors(), None)
        one.close()
    Checkpoint.read(one.folder.final(8)).verify()


def _reduces_meanwhile(path: Path) -> tuple[int, int]:
    """Sums over both processes, one of which writes only after ten of them; and how many of them fell into a save."""
    one, may_write = saver_of(path, keep=9), threading.Semaphore(0)
    tensors = {str(k): torch.full((100, 50), float(k)) for k in range(8)}
    reduced = meanwhile = 0

    def late(*arguments: Any) -> int:
        assert rank() == 0 or may_write.acquire(timeout=30)
        return write(*arguments)

    with patch.object(saver, "write", late):
        for images in range(8, 40, 8):
            one.save(images, tensors, None)
            for k in range(100):
                if k == 11:  # the other process has looked after ten, or the eleventh would not have ended
                    may_write.release()
                value = torch.tensor([float(rank() + k), 1.0])
                dist.all_reduce(value)
                assert value.tolist() == [2 * k + 1, 2]
                reduced += 1
                meanwhile += not one.folder.final(images).exists()
        one.wait()
    assert [outcome.error for outcome in one.ended()] == [None] * 4
    return reduced, meanwhile


def test_collectives_of_training_and_of_saves_do_not_meet(tmp_path: Path) -> None:
    for reduced, meanwhile in on_processes(2, _reduces_meanwhile, tmp_path):
        assert reduced == 400
        assert meanwhile >= 40
    for checkpoint in saver_of(tmp_path).folder.readable():
        checkpoint.verify()
        assert all((tensor == int(name)).all() for name, tensor in checkpoint.load().items())


def test_a_checkpoint_gets_its_name_last(tmp_path: Path) -> None:
    """All files are on disk before it is said that they are, and that is on disk before the name is."""
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def note_fsync(descriptor: int) -> None:
        fsync(descriptor)
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    def note_rename(path: Path, target: Path) -> Path:
        events.append(f"rename {path.name} {target.name}")
        return rename(path, target)

    def commit() -> None:
        assert not one.folder.paths()
        recorded = json.loads((partial / "manifest.json").read_text())["files"]
        assert recorded and all(files.record_of(partial / name) == record for name, record in recorded.items())
        events.append("commit")

    one = saver_of(tmp_path)
    partial = tmp_path / ".tmp-images-000000000008"
    with patch.object(os, "fsync", note_fsync), patch.object(Path, "rename", note_rename):
        one.save(8, some_tensors(), None, commit)
        one.close()
    (shard,) = one.folder.final(8).glob("*.safetensors")
    assert events == [
        str(partial / shard.name), str(partial / "manifest.json"), str(partial), "commit",
        "rename .tmp-images-000000000008 images-000000000008", str(tmp_path),
    ]  # fmt: skip


def test_a_save_leaves_the_filters_of_warnings_as_they_were(tmp_path: Path) -> None:
    one, started, go_on = saver_of(tmp_path), threading.Event(), threading.Event()

    def slow(*arguments: Any, **named: Any) -> Any:
        started.set()
        assert go_on.wait(30)
        return save(*arguments, **named)

    before = list(warnings.filters)
    with patch.object(state_dict_saver, "save", slow):
        with warnings.catch_warnings():
            warnings.simplefilter("error", BytesWarning)
            one.save(8, some_tensors(), None)
            assert started.wait(30)
        go_on.set()
        one.close()
    assert list(warnings.filters) == before


def test_the_thread_stays_on_the_processs_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would begin on the first GPU of the node, as would torch's copying ahead of what is on the host already."""
    gpu, calls = torch.device("cuda", 3), []
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: calls.append((threading.current_thread().name, device))
    )
    monkeypatch.setattr(saver, "StagingOptions", lambda **_: StagingOptions(False, False, False, False))  # needs a GPU
    monkeypatch.setattr(filesystem, "_OverlappingCpuLoader", None)
    one = saver.CheckpointSaver(CheckpointFolder(tmp_path), CheckpointSettings(), gpu)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    one.save(8, some_tensors(), None)
    one.close()
    one.wait()
    one.check()
    assert calls == [("checkpoint_0", gpu)]
