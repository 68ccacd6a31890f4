"""The checkpoints of a run: damaged ones are moved aside and the newest whole one is used; which stay, which go."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from sivae_dist.checkpoint import Checkpoint, CheckpointFolder, CheckpointSettings, DamagedError, files, kept_of
from sivae_dist.process.processes import rank
from tests.checkpoints import contents, flip, names, saved, saver_of, shard, some_meta, some_tensors
from tests.helpers import on_processes

OLD, NEW = "images-000000000008", "images-000000000016"


# Damage, wherever it is.

KINDS: dict[str, Callable[[Path], object]] = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "flipped": lambda file: flip(file, -3, 4),
    "emptied": lambda file: file.write_bytes(b""),
    "deleted": lambda file: file.unlink(),
}


def _newest(folders: list[Path]) -> list[tuple[int, str, list[str], int]]:
    """Of each: images and path of the checkpoint found, the lines to tell, and how many files this process hashed."""
    hashed = 0
    original = files.record_of

    def record_of(path: Path) -> dict[str, Any]:
        nonlocal hashed
        hashed += 1
        return original(path)

    files.record_of = record_of
    found = []
    for folder in folders:
        hashed = 0
        newest, notes = CheckpointFolder(folder).newest_valid()
        assert newest is not None
        found.append((newest.images, str(newest.path), notes, hashed))
    return found


def test_two_processes_agree_on_the_newest_whole_one_whatever_is_damaged(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    on_processes(2, saved, whole, 8, 16)
    present = names(whole / NEW)
    assert len(present) == 3 and present[0] == "manifest.json"
    cases: dict[Path, str] = {}
    for name in present:
        for kind, damage in KINDS.items():
            cases[case := tmp_path / f"{name}-{kind}"] = name
            shutil.copytree(whole, case)
            damage(case / NEW / name)
    cases[case := tmp_path / "foreign"] = "model.pt"
    shutil.copytree(whole, case)
    (case / NEW / "model.pt").write_bytes(b"x")
    damaged = {case: contents(case / NEW) for case in cases}

    one, other = on_processes(2, _newest, [whole, *cases])
    assert [found[:3] for found in one] == [found[:3] for found in other]
    assert one[0][:3] == (16, str(whole / NEW), [])
    assert one[0][3] == other[0][3] == 1  # they share the work
    for (case, name), (images, path, notes, _) in zip(cases.items(), one[1:], strict=True):
        assert (images, path) == (8, str(case / OLD)), case
        (note,) = notes
        assert name in note and str(case / NEW) in note and str(case / "damaged" / NEW) in note, note
        assert "\n" not in note
        assert names(case) == ["damaged", OLD]
        assert contents(case / "damaged") == {f"{NEW}/{file}": content for file, content in damaged[case].items()}
        assert contents(case / OLD) == contents(whole / OLD)


def test_one_moved_aside_before_is_not_lost(tmp_path: Path) -> None:
    for _ in range(3):
        saved(tmp_path, 16)
        flip(shard(tmp_path / NEW), -1)
        with pytest.raises(DamagedError):
            CheckpointFolder(tmp_path).newest_valid()
    assert names(tmp_path / "damaged") == [NEW, f"{NEW}-again", f"{NEW}-again-again"]
    assert names(tmp_path) == ["damaged"]


def test_several_damaged_ones_are_passed_over(tmp_path: Path) -> None:
    saved(tmp_path, 8, 16, 24, 32, keep=9)
    flip(shard(tmp_path / "images-000000000032"), -1)
    (tmp_path / "images-000000000024" / "manifest.json").unlink()
    found, notes = CheckpointFolder(tmp_path).newest_valid()
    assert found == Checkpoint.read(tmp_path / NEW)
    assert [note.split("; it is now ")[1] for note in notes] == [
        str(tmp_path / "damaged" / f"images-{images:012d}") for images in (32, 24)
    ]
    assert names(tmp_path) == ["damaged", OLD, NEW]


def test_no_whole_one_is_said_at_every_start_until_the_damaged_are_deleted(tmp_path: Path) -> None:
    """So that no run silently begins anew where another had come far."""
    assert CheckpointFolder(tmp_path).newest_valid() == (None, [])
    saved(tmp_path, 8, 16)
    for name in (OLD, NEW):
        flip(shard(tmp_path / name), -1)
    one, other = on_processes(2, _refusals, tmp_path)
    assert one == other
    assert all(str(tmp_path / name) in one[0] for name in (OLD, NEW))
    for message in one:
        assert str(tmp_path / "damaged") in message and "\n" not in message
    assert names(tmp_path) == ["damaged"]
    assert names(tmp_path / "damaged") == [OLD, NEW]
    with pytest.raises(DamagedError, match="No checkpoint is left"):
        CheckpointFolder(tmp_path).newest_valid()
    shutil.rmtree(tmp_path / "damaged")
    assert CheckpointFolder(tmp_path).newest_valid() == (None, [])


def _refusals(folder: Path) -> list[str]:
    messages = []
    for _ in range(2):
        with pytest.raises(DamagedError) as caught:
            CheckpointFolder(folder).newest_valid()
        messages.append(str(caught.value))
    return messages


def test_who_only_reads_moves_nothing(tmp_path: Path) -> None:
    saved(tmp_path, 8, 16)
    flip(shard(tmp_path / NEW), -1)
    before = contents(tmp_path)
    found, notes = CheckpointFolder(tmp_path).newest_valid(move_aside=False)
    assert found == Checkpoint.read(tmp_path / OLD)
    (note,) = notes
    assert NEW in note and "it is now" not in note
    flip(shard(tmp_path / OLD), -1)
    with pytest.raises(DamagedError):
        CheckpointFolder(tmp_path).newest_valid(move_aside=False)
    flip(shard(tmp_path / OLD), -1)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("where", ["open", "read_text", "iterdir"])
@pytest.mark.parametrize(("code", "damage"), [("EACCES", False), ("EMFILE", False), ("ESTALE", False), ("EIO", True)])
def test_only_what_is_lost_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, code: str, damage: bool
) -> None:
    """Not what cannot be read for another reason, which moving files aside would not mend."""
    saved(tmp_path, 8, 16)
    before = contents(tmp_path)
    number = getattr(errno, code)
    originals: dict[str, Callable[..., Any]] = {"open": open, "read_text": Path.read_text, "iterdir": Path.iterdir}

    def fail(path: Path, *arguments: Any, **named: Any) -> Any:
        if NEW in str(path) and "damaged" not in str(path):
            raise OSError(number, os.strerror(number), str(path))
        return originals[where](path, *arguments, **named)

    with monkeypatch.context() as patched:
        if where == "open":
            patched.setattr(files, "open", fail, raising=False)
        else:
            patched.setattr(Path, where, fail)
        folder = CheckpointFolder(tmp_path)
        if not damage:
            with pytest.raises(OSError, match=os.strerror(number)):
                folder.newest_valid()
        else:
            found, notes = folder.newest_valid()
            assert found is not None and found.images == 8
            assert len(notes) == 1 and os.strerror(number) in notes[0]
    assert (contents(tmp_path) == before) is not damage


def _denied_on_one(folder: Path) -> str:
    """Of two processes, one may not read its part."""
    if rank() == 1:

        def fail(path: Path) -> Any:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        files.record_of = fail
    with pytest.raises((OSError, RuntimeError), match="Permission denied") as caught:
        CheckpointFolder(folder).newest_valid()
    dist.barrier()
    return str(caught.value)


def test_what_one_process_may_not_read_ends_all_and_moves_nothing(tmp_path: Path) -> None:
    on_processes(2, saved, tmp_path, 8, 16)
    before = contents(tmp_path)
    assert all(NEW in message for message in on_processes(2, _denied_on_one, tmp_path))
    assert contents(tmp_path) == before


# What stays.


def checkpoints(*scores: float | None, metric: str = "reconstruction/per_value") -> list[Checkpoint]:
    """One for every 10 images, with a metric's value."""
    metas = [some_meta(metrics={} if score is None else {metric: score, "other": -score}) for score in scores]
    return [
        Checkpoint(Path(f"images-{10 * k}"), {"images": 10 * k, "meta": meta.to_manifest()})
        for k, meta in enumerate(metas, 1)
    ]


def kept(found: list[Checkpoint], **settings: Any) -> dict[int, str]:
    reasons = kept_of(found, CheckpointSettings(**settings))
    return {int(path.name.removeprefix("images-")): reason for path, reason in reasons.items()}


def test_the_newest_stay() -> None:
    found = checkpoints(5, 4, 3, 2, 1)
    assert kept(found) == {40: "newest", 50: "newest"}
    assert kept(found, keep=3) == {30: "newest", 40: "newest", 50: "newest"}
    assert kept(found, keep=9) == dict.fromkeys((10, 20, 30, 40, 50), "newest")
    assert kept([]) == {}
    assert kept(found[:1]) == {10: "newest"}


def test_some_stay_for_good() -> None:
    found = checkpoints(*[None] * 12)
    assert kept(found, keep_every=30) == {
        30: "for good", 60: "for good", 90: "for good", 110: "newest", 120: "newest"
    }  # fmt: skip
    assert kept(found, keep_every=35) == {70: "for good", 110: "newest", 120: "newest"}
    assert kept(found, keep_every=1000) == kept(found)


def test_the_best_stay() -> None:
    found = checkpoints(3, 1, 4, 2, 5, 6, 7)
    assert kept(found, keep_best=1) == {20: "best", 60: "newest", 70: "newest"}
    assert kept(found, keep_best=3) == {20: "best", 40: "best", 10: "best", 60: "newest", 70: "newest"}
    assert kept(found, keep_best=2, best_mode="max") == {60: "newest, best", 70: "newest, best"}
    assert kept(found, keep_best=1, best_metric="other", best_mode="min") == {60: "newest", 70: "newest, best"}
    assert kept(found, keep_best=1, best_metric="other", best_mode="max") == {20: "best", 60: "newest", 70: "newest"}
    assert kept(found, keep_best=1, best_metric="unknown") == {60: "newest", 70: "newest"}
    assert kept(found, keep_best=1, keep_every=20) == {
        20: "for good, best", 40: "for good", 60: "newest", 70: "newest"
    }  # fmt: skip


def test_of_equally_good_ones_the_newer_stays() -> None:
    for mode in ("min", "max"):
        assert kept(checkpoints(1, 1, 1, 1, 1), keep_best=1, best_mode=mode)[50] == "newest, best"
        assert kept(checkpoints(2, 1, 2, 1, 9, 0), keep_best=1, best_mode="min")[60] == "newest, best"
    assert kept(checkpoints(1, 1, 5, 5), keep_best=1) == {20: "best", 30: "newest", 40: "newest"}


@pytest.mark.parametrize("mode", ["min", "max"])
def test_what_has_no_finite_score_is_never_the_best(mode: str) -> None:
    found = checkpoints(None, float("nan"), float("inf"), -float("inf"), 2, None, None)
    assert kept(found, keep_best=5, best_mode=mode) == {50: "best", 60: "newest", 70: "newest"}


def test_saves_keep_what_is_asked_for(tmp_path: Path) -> None:
    saver = saver_of(tmp_path, keep=2, keep_every=40, keep_best=1)
    there = []
    for images, score in (
        (10, 0.5),
        (20, 0.2),
        (30, 0.4),
        (40, 0.9),
        (50, 0.3),
        (60, 0.1),
        (70, 0.6),
        (80, float("nan")),
    ):
        saver.save(images, some_tensors(images), some_meta(metrics={"reconstruction/per_value": score}))
        saver.wait()
        saver.check()
        there.append([int(name.removeprefix("images-")) for name in names(tmp_path)])
    assert there == [
        [10], [10, 20], [20, 30], [20, 30, 40], [20, 40, 50], [40, 50, 60], [40, 60, 70], [40, 60, 70, 80]
    ]  # fmt: skip
    for checkpoint in saver.folder.readable():
        checkpoint.verify()


def test_the_newest_stays_even_unreadable(tmp_path: Path) -> None:
    saved(tmp_path, 8, 16, 24, keep=3)
    (tmp_path / "images-000000000024" / "manifest.json").write_text("")
    CheckpointFolder(tmp_path).tidy(CheckpointSettings(keep=2))
    assert names(tmp_path) == [OLD, NEW, "images-000000000024"]


def test_what_was_moved_aside_stays(tmp_path: Path) -> None:
    saved(tmp_path, 8, 16)
    flip(shard(tmp_path / NEW), -1)
    CheckpointFolder(tmp_path).newest_valid()
    saved(tmp_path, 24, 32, 40)
    assert names(tmp_path) == ["damaged", "images-000000000032", "images-000000000040"]
    assert names(tmp_path / "damaged") == [NEW]
    assert json.loads((tmp_path / "damaged" / NEW / "manifest.json").read_text())["images"] == 16
