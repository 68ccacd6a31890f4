"""Files and folders that appear whole or not at all."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from sivae_dist.run.atomic import new_folder, replacing, reserve, write_text
from tests.disks import mounted_or_skipped


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is put on disk and what gets its name, in order."""
    noted: list[str] = []
    fsync, replace, rename = os.fsync, Path.replace, Path.rename

    def note_fsync(descriptor: int) -> None:
        fsync(descriptor)
        noted.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")

    def note_replace(path: Path, target: Path) -> Any:
        noted.append(f"name {target.name}")
        return replace(path, target)

    def note_rename(path: Path, target: Path) -> Any:
        noted.append(f"name {target.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    monkeypatch.setattr(Path, "rename", note_rename)
    return noted


def test_the_content_is_on_disk_before_the_name_and_the_name_at_the_end(tmp_path: Path, events: list[str]) -> None:
    path = tmp_path / "new" / "config.yaml"
    write_text(path, "a: 1\n")
    assert events == ["sync .config.partial.yaml", "name config.yaml", "sync new"]
    assert path.read_text() == "a: 1\n" and [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("size", [0, 1, 1_000_000])
def test_room_is_taken_and_not_promised(tmp_path: Path, events: list[str], size: int) -> None:
    path = tmp_path / "room"
    reserve(path, size)
    found = path.stat()
    assert found.st_size == size <= 512 * found.st_blocks and events == ["sync room"]
    assert path.read_bytes() == bytes(size)
    with pytest.raises(FileExistsError):
        reserve(path, size)


def test_room_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with mounted_or_skipped(tmp_path / "disk", 1024) as disk:
        reserve(disk / "some", 500_000)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            reserve(disk / "more", 2_000_000)


def test_what_can_be_made_again_waits_for_no_disk(tmp_path: Path, events: list[str]) -> None:
    with replacing(tmp_path / "picture.png", durable=False) as partial:
        assert partial.suffix == ".png"
        partial.write_bytes(b"picture")
    assert events == ["name picture.png"]


def test_after_a_failure_the_file_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), replacing(path) as partial:
        partial.write_text("ne")
        assert path.read_text() == "old"
        raise RuntimeError("half way")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass  # nothing was written
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_several_processes_write_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shared"
    with replacing(path, shared=True) as mine:
        mine.write_text("mine")
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with replacing(path, shared=True) as theirs:
            theirs.write_text("theirs")
        assert mine != theirs and path.read_text() == "theirs"
    assert path.read_text() == "mine" and [*tmp_path.iterdir()] == [path]


def test_a_folder_gets_its_name_last(tmp_path: Path, events: list[str]) -> None:
    path = tmp_path / "model"
    left = tmp_path / ".model.partial"
    left.mkdir()
    (left / "old").touch()  # by an attempt that was killed
    with new_folder(path) as partial:
        (partial / "weights").write_text("w")
        assert not path.exists()
    assert events == ["sync weights", "sync .model.partial", "name model", f"sync {tmp_path.name}"]
    assert [entry.name for entry in path.iterdir()] == ["weights"] and [*tmp_path.iterdir()] == [path]


def test_of_a_folder_that_fails_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "model") as partial:
        (partial / "weights").write_text("w")
        raise KeyboardInterrupt
    assert [*tmp_path.iterdir()] == []
