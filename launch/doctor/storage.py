"""The file system for runs, free space, caches, and the weights of the evaluation's network."""

import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launch.doctor.report import Finding

_TEMPORARY = {"tmpfs": "in memory", "ramfs": "in memory", "overlay": "in the container, and lost with it"}
_TRIAL = 32 << 20
"""Bytes written to measure a file system."""
_LOCK = """
import sys
from filelock import FileLock, Timeout
try:
    FileLock(sys.argv[1], timeout=0).acquire()
except Timeout:
    sys.exit(3)
"""


def nearest_folder(path: Path) -> Path:
    """The path itself, or the nearest folder above that exists."""
    return next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.is_dir())


def kind_of(path: Path) -> str:
    """The kernel's name of the file system's type (`ext4`, `nfs4`, `lustre`); empty if unknown."""
    best, kind = "", ""
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        _, place, found, *_ = line.split()
        place = place.encode().decode("unicode_escape")
        if path.is_relative_to(place) and len(place) >= len(best):
            best, kind = place, found
    return kind


def examine_folder(facts: dict[str, Any], wanted: Path) -> Iterator[Finding]:
    """Checks what a run needs from its folder: space, atomic renames, locks between processes, memory maps, fsync."""
    folder = nearest_folder(wanted)
    kind = kind_of(folder)
    usage = shutil.disk_usage(folder)
    facts |= {"folder": str(folder), "kind": kind, "total": usage.total, "free": usage.free}
    where = f"{wanted}" if folder == wanted.resolve() else f"{wanted} (to be created in {folder})"
    text = f"{where}: {usage.free / 1e9:,.0f} GB free of {usage.total / 1e9:,.0f}, {kind or 'unknown kind'}"
    if usage.free < 5e9:
        yield Finding("warn", "disk", text, "free some space, or choose another folder with --dir and --run-dir")
    elif kind in _TEMPORARY:
        todo = "put runs on a persistent disk (--dir, --run-dir)"
        yield Finding("warn", "disk", f"{text}: {_TEMPORARY[kind]}", todo)
    else:
        yield Finding("ok", "disk", text)
    try:
        trial = Path(tempfile.mkdtemp(prefix=".sivae-doctor-", dir=folder))
    except OSError as error:
        yield Finding("fail", "file system", f"cannot write to {folder}: {error.strerror}", "choose another --dir")
        return
    try:
        yield from _tried(facts, trial)
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def _tried(facts: dict[str, Any], trial: Path) -> Iterator[Finding]:
    fine = []
    for name, attempt in {"write": _write, "rename": _rename, "lock": _lock, "mmap": _map}.items():
        try:
            attempt(facts, trial)
            fine.append(name)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            todo = "ask the administrator of this file system, or choose another folder with --dir and --run-dir"
            yield Finding("fail", "file system", f"{name}: {error}", todo)
    if fine:
        yield Finding(
            "ok", "file system", f"works: {', '.join(fine)}; {facts.get('write_mb_s', 0):,.0f} MB/s with fsync"
        )
    if (skew := abs(facts.get("clock_skew", 0.0))) > 5:
        text = f"its clock differs from this machine's by {skew:.0f} s"
        yield Finding("warn", "file system", text, "synchronise both with NTP, or file times are misleading")


def _write(facts: dict[str, Any], trial: Path) -> None:
    data = os.urandom(1 << 20)
    start = time.perf_counter()
    path = trial / "data"
    with path.open("wb") as file:
        for _ in range(_TRIAL >> 20):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    facts["write_mb_s"] = _TRIAL / 1e6 / (time.perf_counter() - start)
    facts["clock_skew"] = path.stat().st_mtime - time.time()
    start = time.perf_counter()
    descriptor = os.open(trial, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    facts["fsync_folder_ms"] = 1000 * (time.perf_counter() - start)
    if path.read_bytes()[-len(data) :] != data:
        raise ValueError("the data read differ from those written")


def _rename(facts: dict[str, Any], trial: Path) -> None:
    """Renames a file over an open one, and a folder with files, as saving a checkpoint does."""
    old, new = trial / "name", trial / "name.partial"
    old.write_text("old")
    new.write_text("new")
    with old.open() as before:
        new.replace(old)
        if old.read_text() != "new" or new.exists():
            raise ValueError("a file that replaces another is not visible immediately")
        if before.read() != "old":
            raise ValueError("a file that is replaced is lost for processes that have it open")
    folder = trial / ".folder"
    folder.mkdir()
    (folder / "file").write_text("1")
    folder.rename(trial / "folder")
    if sorted(os.listdir(trial / "folder")) != ["file"] or ".folder" in os.listdir(trial):
        raise ValueError("a renamed folder is not visible immediately")


def _lock(facts: dict[str, Any], trial: Path) -> None:
    from filelock import FileLock

    path = trial / "lock"
    command = [sys.executable, "-c", _LOCK, str(path)]
    with FileLock(path, timeout=5):
        held = subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)
    free = subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)
    facts["lock"] = [held.returncode, free.returncode]
    if held.returncode == 0:
        raise ValueError(
            "a lock does not exclude another process (mounted with nolock?): two commands could train the same run"
        )
    if held.returncode != 3 or free.returncode != 0:
        words = (held.stderr + free.stderr).strip().splitlines()[-1:]
        raise ValueError(f"locks do not work ({' '.join(words)})")


def _map(facts: dict[str, Any], trial: Path) -> None:
    with (trial / "data").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        if len(mapped) != _TRIAL:
            raise ValueError("the size of a memory map differs from that of its file")
        if mapped[-1024:] != os.pread(file.fileno(), 1024, _TRIAL - 1024):
            raise ValueError("the bytes of a memory map differ from those of its file")


def examine_caches(facts: dict[str, Any]) -> Iterator[Finding]:
    """Checks the folders outside a run to which libraries write."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    places = {
        "TMPDIR": Path(tempfile.gettempdir()),
        "XDG_CACHE_HOME": home / "sivae-evaluation",
        "TORCH_HOME": Path(os.environ.get("TORCH_HOME") or home / "torch"),
        "TRITON_CACHE_DIR": Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton"),
        "MPLCONFIGDIR": Path(os.environ.get("MPLCONFIGDIR") or Path.home() / ".config" / "matplotlib"),
    }
    facts["places"] = {variable: str(place) for variable, place in places.items()}
    wrong = 0
    for variable, place in places.items():
        folder = nearest_folder(place)
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            wrong += 1
            text = f"cannot write to {folder} ({error.strerror})"
            yield Finding("warn", "caches", text, f"export {variable}=A_WRITABLE_FOLDER")
    if not wrong:
        yield Finding("ok", "caches", "writable")


def examine_weights(facts: dict[str, Any]) -> Iterator[Finding]:
    """Checks the weights of the network used for FID; downloads nothing."""
    from sivae_dist.evaluation.extractors.weights import INCEPTION

    path = INCEPTION.expected_at(None)
    facts |= {"path": str(path), "there": path.is_file()}
    if not path.is_file():
        todo = f"the first evaluation downloads them, or put {INCEPTION.url} into {path.parent}"
        yield Finding("warn", "weights", "the Inception weights, which FID needs, are missing", todo)
        return
    try:
        facts["sha256"] = INCEPTION.check(path, None)
    except ValueError as error:
        yield Finding("fail", "weights", str(error), f"delete {path}; the first evaluation downloads the right ones")
        return
    yield Finding("ok", "weights", "the Inception weights are here, with the right checksum")
