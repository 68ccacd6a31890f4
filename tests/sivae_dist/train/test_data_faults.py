"""What damaged and missing samples do to a run: named and fatal, or replaced, counted and bounded; never a hang."""

import io
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.dataset import SampleError
from data_pipelines.images.manifest import Manifest
from data_pipelines.images.ranges import to_uint8
from data_pipelines.order import Order
from sivae_dist.config.opening import prepare_run
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import read_rows
from tests.helpers import begin, on_processes, random_set, snapshot, tiny_settings, train

SAMPLES = 24
SHARD = 1
"""The shard that is damaged; it holds the samples 7 to 13."""
QUARANTINE = ("data.faults=quarantine", "data.max_faults=0.5")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images in shards of 7; 4 px are arrays, 8 px tars."""
    return random_set(tmp_path_factory.mktemp("data") / "set", array_max_resolution=4)


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    """Of the data set, to be damaged."""
    return Path(shutil.copytree(sound, tmp_path / "set"))


# The faults. Each changes one shard and says which samples are lost by it.


def tar_of(root: Path) -> Path:
    return root / "0008" / f"shard-{SHARD:05d}.tar"


def index_of(root: Path) -> np.ndarray:
    return np.asarray(np.load(root / "0008" / f"shard-{SHARD:05d}.index.npy"))


def change(root: Path, row: int, first: int, content: bytes) -> None:
    """Writes into the bytes of an image, from its byte `first` on (negative: into its header)."""
    with tar_of(root).open("r+b") as file:
        file.seek(int(index_of(root)["offset"][row]) + first)
        file.write(content)


def rewrite(root: Path, edit: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> None:
    """The tar with other members, and the index as it was."""
    with tarfile.open(tar_of(root)) as old:
        members = [(info.name, old.extractfile(info).read()) for info in old]  # type: ignore[union-attr]
    with tarfile.open(tar_of(root), "w") as new:
        for name, content in edit(members):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            new.addfile(info, io.BytesIO(content))


def cut_inside(root: Path) -> None:
    with tar_of(root).open("r+b") as file:
        file.truncate(int(index_of(root)["offset"][3]) + 10)


def cut_between(root: Path) -> None:
    with tar_of(root).open("r+b") as file:
        file.truncate(int(index_of(root)["offset"][3]) - 512)


def garbage(root: Path) -> None:
    change(root, 3, 0, b"?" * int(index_of(root)["size"][3]))


def half(root: Path) -> None:
    size = int(index_of(root)["size"][3])
    change(root, 3, size // 2, bytes(size - size // 2))


def flipped(root: Path) -> None:
    offset = int(index_of(root)["offset"][3]) + 50
    change(root, 3, 50, bytes([tar_of(root).read_bytes()[offset] ^ 1]))


def bad_header(root: Path) -> None:
    change(root, 3, -512 + 120, b"\xff" * 20)


def empty_member(root: Path) -> None:
    rewrite(root, lambda members: [(name, b"" if k == 3 else content) for k, (name, content) in enumerate(members)])


def missing_member(root: Path) -> None:
    rewrite(root, lambda members: members[:3] + members[4:])


def empty_tar(root: Path) -> None:
    rewrite(root, lambda members: [])


def no_bytes(root: Path) -> None:
    tar_of(root).write_bytes(b"")


def absent(root: Path) -> None:
    tar_of(root).unlink()


def stale_index(root: Path) -> None:
    index = tar_of(root).with_name(f"shard-{SHARD:05d}.index.npy")
    shutil.copy(index.with_name("shard-00000.index.npy"), index)


def array_flipped(root: Path) -> None:
    path = root / "0004" / f"shard-{SHARD:05d}.npy"
    content = bytearray(path.read_bytes())
    content[-5] ^= 16
    path.write_bytes(content)


def array_cut(root: Path) -> None:
    path = root / "0004" / f"shard-{SHARD:05d}.npy"
    path.write_bytes(path.read_bytes()[:-1])


ALL = range(7, 14)
FAULTS: dict[Callable[[Path], None], tuple[int, Any, str]] = {
    # resolution, samples that are lost, what is said
    cut_inside: (8, ALL, r"0008/shard-00001\.tar has \d+ bytes instead of \d+"),
    cut_between: (8, ALL, r"0008/shard-00001\.tar has \d+ bytes instead of \d+"),
    garbage: (8, [10], r"0008/shard-00001\.tar key 00000010 \(sample 10\) is damaged"),
    half: (8, [10], r"0008/shard-00001\.tar key 00000010 \(sample 10\) is damaged"),
    flipped: (8, [10], r"0008/shard-00001\.tar key 00000010 \(sample 10\) is damaged"),
    # A tar is padded to 10,240 bytes, so that these have the right size; what comes after has moved.
    empty_member: (8, range(10, 14), r"0008/shard-00001\.tar key .* \(sample 1[0-3]\) is damaged"),
    missing_member: (8, range(10, 14), r"0008/shard-00001\.tar key .* \(sample 1[0-3]\) is damaged"),
    empty_tar: (8, ALL, r"0008/shard-00001\.tar key .* \(sample \d+\) is damaged"),
    no_bytes: (8, ALL, r"0008/shard-00001\.tar has 0 bytes"),
    absent: (8, ALL, r"0008/shard-00001\.tar cannot be read \(No such file"),
    stale_index: (8, ALL, r"0008/shard-00001\.index\.npy is damaged"),
    array_flipped: (4, ALL, r"0004/shard-00001\.npy is damaged \(its checksum differs"),
    array_cut: (4, ALL, r"0004/shard-00001\.npy is damaged"),
}


Outcome = tuple[str | None, int, dict[str, Any]]
"""How a run ended on a process: its error if it had one, samples replaced, tensors."""


def run(*paths: str) -> list[Outcome]:
    """Runs that were opened before, one after the other."""
    outcomes: list[Outcome] = []
    for path in paths:
        trainer = begin(Path(path))
        try:
            trainer.train()
        except Exception as caught:
            trainer.data.close()
            return [*outcomes, (f"{type(caught).__name__}: {caught}", trainer.quarantine.total, {})]
        outcomes.append((None, trainer.quarantine.total, snapshot(trainer.players.tensors())))
        trainer.close()
    return outcomes


def lost(root: Path, resolution: int, samples: Any) -> int:
    """How often samples would be seen at a resolution of the tiny run: 16 positions at 4 px, then 32 at 8 px."""
    order = Order([shard.samples for shard in Manifest.load(root).shards], 0, False)
    first, count = (0, 16) if resolution == 4 else (16, 32)
    return int(np.isin(order.at(first, count)[0], list(samples)).sum())


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_fatal_and_named(fault: Callable[[Path], None], copy: Path, tmp_path: Path) -> None:
    _, _, message = FAULTS[fault]
    fault(copy)
    prepare_run(RunDirectory(tmp_path / "run"), tiny_settings(copy))
    errors = [error or "" for ((error, _, _),) in on_processes(2, run, str(tmp_path / "run"))]
    assert all(errors), "a process went on without the other"
    assert any(re.search(f"^SampleError: .*{message}", error) for error in errors), errors


@pytest.fixture(scope="module")
def quarantined(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[Outcome]]]:
    """A damaged set for each fault, and how a run on it ended: on one process alone, then on both of two."""
    folder = tmp_path_factory.mktemp("quarantined")
    outcomes: dict[str, list[Outcome]] = {fault.__name__: [] for fault in FAULTS}
    for processes in (1, 2):
        for fault in FAULTS:
            root = folder / fault.__name__
            if not root.exists():
                shutil.copytree(sound, root)
                fault(root)
            settings = tiny_settings(root, *QUARANTINE, "monitoring.trace=true")
            prepare_run(RunDirectory(folder / f"{fault.__name__}-{processes}"), settings)
        paths = [str(folder / f"{fault.__name__}-{processes}") for fault in FAULTS]
        for ends in on_processes(processes, run, *paths):
            for fault, end in zip(FAULTS, ends, strict=True):
                outcomes[fault.__name__].append(end)
    return {name: (folder / name, ends) for name, ends in outcomes.items()}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_quarantined(
    fault: Callable[[Path], None], quarantined: dict[str, tuple[Path, list[Outcome]]]
) -> None:
    """With the same count on all processes and at any number of them, and the same substitutes."""
    resolution, samples, _ = FAULTS[fault]
    root, outcomes = quarantined[fault.__name__]
    expected = lost(root, resolution, samples)
    assert expected > 0
    assert [(error, count) for error, count, _ in outcomes] == [(None, expected)] * 3
    runs = [root.with_name(f"{root.name}-{processes}") for processes in (1, 2)]
    assert runs[0].joinpath("trace.jsonl").read_bytes() == runs[1].joinpath("trace.jsonl").read_bytes()
    for path in runs:
        rows = [row for row in read_rows(path / "speed.jsonl") if "data/quarantined" in row]
        assert rows[-1]["data/quarantined"] == expected


@pytest.mark.slow
def test_a_bad_header_does_no_harm(sound: Path, copy: Path, tmp_path: Path) -> None:
    """The index says where the images are."""
    bad_header(copy)
    for root, name in ((sound, "sound"), (copy, "copy")):
        prepare_run(RunDirectory(tmp_path / name), tiny_settings(root))
    (got, want), _ = on_processes(2, run, str(tmp_path / "copy"), str(tmp_path / "sound"))
    assert got[:2] == want[:2] == (None, 0)
    assert all((got[2][key] == tensor).all() for key, tensor in want[2].items())


def test_too_many_are_fatal_on_all_processes_alike(copy: Path, tmp_path: Path) -> None:
    cut_between(copy)
    prepare_run(RunDirectory(tmp_path / "run"), tiny_settings(copy, "data.faults=quarantine", "data.max_faults=0.09"))
    outcomes = [outcome for (outcome,) in on_processes(2, run, str(tmp_path / "run"))]
    errors = {error for error, _, _ in outcomes}
    assert len(errors) == 1 and [count for _, count, _ in outcomes] == [3, 3]
    assert re.search(
        r"^SampleError: 3 of 24 training samples could not be read in epoch \d, more than data\.max_faults=0\.09 "
        r"allows; the last: .*0008/shard-00001\.tar has \d+ bytes",
        errors.pop() or "",
    )


def test_each_fault_is_told_once(copy: Path, tmp_path: Path) -> None:
    garbage(copy)
    tar_of(copy).with_name("shard-00000.tar").unlink()
    trainer = begin(tmp_path / "run", tiny_settings(copy, *QUARANTINE, "schedule.images={4: 16, 8: 200}"))
    told: list[str] = []
    trainer.monitor.say = told.append  # type: ignore[method-assign]
    train(trainer)
    assert trainer.quarantine.total >= 6 * 8  # nine epochs
    lines = sorted(line for line in told if "takes its place" in line)
    assert len(lines) == 2 and all(line.startswith("warning: ") for line in lines)
    assert "shard-00000.tar cannot be read" in lines[0] and "key 00000010 (sample 10)" in lines[1]


def test_counts_go_on_after_a_resume(copy: Path, tmp_path: Path) -> None:
    stale_index(copy)
    settings = tiny_settings(copy, *QUARANTINE, "checkpoint.every=8")
    whole = train(begin(tmp_path / "whole", settings))
    for steps in (3, 2, None):
        again = train(begin(tmp_path / "run", settings), steps)
    assert again.quarantine.total == whole.quarantine.total == lost(copy, 8, ALL)
    assert again.quarantine.state() == whole.quarantine.state()


def test_a_fatal_run_goes_on_in_quarantine(copy: Path, tmp_path: Path) -> None:
    """As the only thing that a user changes."""
    flipped(copy)
    with pytest.raises(SampleError, match="sample 10"):
        train(begin(tmp_path / "run", tiny_settings(copy, "checkpoint.every=8")))
    trainer = begin(tmp_path / "run", tiny_settings(copy, *QUARANTINE, "checkpoint.every=8"))
    assert trainer.images >= 16
    assert train(trainer).images == 48


def test_images_for_the_eye_are_grey_where_they_are_lost(copy: Path, tmp_path: Path) -> None:
    garbage(copy)
    trainer = begin(tmp_path / "run", tiny_settings(copy, *QUARANTINE))
    found = trainer.data.samples(8, range(9, 12))
    pixels = to_uint8(found.x).numpy()
    assert (pixels[1] == 128).all() and pixels[0].std() > 10 and pixels[2].std() > 10
    assert list(found.damaged) == [1] and "sample 10" in found.damaged[1]
    trainer.close()
    strict = begin(tmp_path / "other", tiny_settings(copy))
    with pytest.raises(SampleError, match="sample 10"):
        strict.data.samples(8, range(9, 12))
    strict.close()
