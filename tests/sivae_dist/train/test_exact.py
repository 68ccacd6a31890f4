"""Runs that are stopped and continued, on any number of processes: the same order of images, the same arithmetic."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from data_pipelines.images.manifest import Manifest
from sivae_dist.checkpoint import CheckpointSettings
from sivae_dist.config.opening import prepare_run, settings_of
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import read_rows
from tests.helpers import (
    assert_same,
    begin,
    differences,
    disturb,
    kind_of,
    on_processes,
    open_run,
    random_set,
    snapshot,
    tiny_settings,
    train,
)

SAMPLES = 24
NINE_STEPS = ("schedule.images={4: 24, 8: 48}",)
"""Of 8 images: 3 at 4 px, 3 in transition and 3 at 8 px. Three epochs."""

Ran = tuple[int, int, dict[str, Tensor]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_set(tmp_path_factory.mktemp("data") / "set", samples=SAMPLES)


def _run(path: Path, steps: int | None = None, disturbed: bool = False) -> Ran:
    """Trains to the end, or for `steps` steps and then ends as if killed; where it began and ended, and its tensors."""
    trainer = begin(path)
    start = trainer.images
    if disturbed and start == 0:
        disturb(trainer)
    train(trainer, steps=steps)
    return start, trainer.images, snapshot(trainer.players.tensors())


# The order: what stands at every position.


TRACED = (*NINE_STEPS, "monitoring.trace=true", "model.noise=true", "objective.style_mixing=0.5")


@pytest.fixture(scope="module")
def trace(data: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Of one process, undisturbed."""
    path = open_run(tmp_path_factory.mktemp("trace") / "run", data, *TRACED)
    train(begin(path))
    return RunDirectory(path).trace.read_bytes()


def test_the_trace_tells_every_position_apart(trace: bytes, data: Path, tmp_path: Path) -> None:
    (tmp_path / "trace.jsonl").write_bytes(trace)
    rows = read_rows(tmp_path / "trace.jsonl")
    assert [row["position"] for row in rows] == list(range(72))
    assert [row["images"] for row in rows] == list(range(1, 73))
    epochs = [[row["sample"] for row in rows[first : first + SAMPLES]] for first in range(0, 72, SAMPLES)]
    assert all(sorted(epoch) == list(range(SAMPLES)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert 20 < sum(row["flip"] for row in rows) < 52
    for drawn in ("latent", "reparameterization", "noise", "mixing_latent"):
        assert len({row[drawn] for row in rows}) == 72, drawn
    assert len({row["mixing_cutoff"] for row in rows}) > 1
    # One hash for each picture, size and side.
    assert len({row["pixels"] for row in rows}) == len(
        {(row["images"] > 24, row["sample"], row["flip"]) for row in rows}
    )


def test_the_trace_tells_the_pixels_that_were_trained_on(trace: bytes, data: Path, tmp_path: Path) -> None:
    (tmp_path / "trace.jsonl").write_bytes(trace)
    names = (data / Manifest.load(data).names.name).read_text().split()
    source = data.with_name(f"{data.name}-source")
    for row in read_rows(tmp_path / "trace.jsonl")[24:]:  # at 8 px, the size of the pictures themselves
        pixels = np.asarray(Image.open(source / f"{Path(names[row['sample']]).stem}.png")).transpose(2, 0, 1)
        x = pixels.astype(np.float32) / np.float32(127.5) - 1
        x = x[:, :, ::-1] if row["flip"] else x
        assert row["pixels"] == hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest(), row["position"]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "limit"), [(2, None), (8, None), (1, 4), (4, 1)], ids=str)
def test_the_trace_is_the_same_on_any_number_of_processes_and_in_any_parts(
    trace: bytes, data: Path, tmp_path: Path, count: int, limit: int | None
) -> None:
    parts = f"engine.max_batch_per_rank={limit or 'null'}"
    path = open_run(tmp_path / "run", data, *TRACED, parts)
    on_processes(count, _run, path)
    assert RunDirectory(path).trace.read_bytes() == trace


@pytest.mark.slow
def test_the_trace_is_the_same_when_a_run_is_killed_and_continued_on_other_numbers_of_processes(
    trace: bytes, data: Path, tmp_path: Path
) -> None:
    path = open_run(tmp_path / "run", data, *TRACED, "checkpoint.every=24")
    rows = RunDirectory(path).trace
    for count, steps, start, end in ((2, 5, 0, 40), (4, 5, 24, 64), (1, None, 48, 72)):
        for ran in on_processes(count, _run, path, steps):
            assert ran[:2] == (start, end)
        assert rows.read_bytes() == b"".join(trace.splitlines(keepends=True)[:end])


# The arithmetic.


@pytest.mark.slow
@pytest.mark.parametrize(("count", "starts"), [(1, [0, 2, 3, 4, 5, 7]), (2, [0, 2, 4]), (4, [0, 5, 7])], ids=str)
def test_a_run_killed_around_a_change_ends_with_the_same_bits(
    data: Path, tmp_path: Path, count: int, starts: list[int]
) -> None:
    """Each of `starts`, in steps, resumes before, at or after a change (after 3 and 6) and is killed past the next."""
    straight, broken = (open_run(tmp_path / name, data, *NINE_STEPS) for name in ("straight", "broken"))
    want = on_processes(count, _run, straight)[0]
    assert want[:2] == (0, 72)
    for start, kept in zip(starts, [*starts[1:], None], strict=True):
        every = 0 if kept is None else 8 * kept
        prepare_run(
            RunDirectory(broken), tiny_settings(data, *NINE_STEPS, f"checkpoint.every={every}", "checkpoint.keep=9")
        )
        steps = None if kept is None else kept + 1 - start
        for ran in on_processes(count, _run, broken, steps):
            assert ran[:2] == (8 * start, 72 if kept is None else 8 * (kept + 1))
    assert_same(ran[2], want[2])
    assert RunDirectory(broken).metrics.read_bytes() == RunDirectory(straight).metrics.read_bytes()


def largest_differences(got: dict[str, Tensor], want: dict[str, Tensor]) -> dict[str, float]:
    """By kind of a tensor."""
    largest: dict[str, float] = {}
    for name, difference in differences(got, want).items():
        largest[kind_of(name)] = max(largest.get(kind_of(name), 0.0), difference)
    assert len(largest) == 2 * 5
    return largest


SIXTY_STEPS = ("schedule.batch=4", "schedule.images={4: 16, 8: 224}", "schedule.blend=0.1", "model.noise=true")
"""4 at 4 px, 6 in transition, 50 at 8 px."""


@pytest.fixture(scope="module")
def on_two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Ran]]:
    """By precision: a run on two processes, killed a step after a checkpoint, and how it ends without a kill.

    In fp32 that end is one step later, and Adam's eps keeps gradients that are rounding errors from becoming large.
    """
    runs: dict[str, tuple[Path, Ran]] = {}
    for precision, steps, eps in (("fp64", None, "1.0e-8"), ("fp32", 11, "1.0e-6")):
        settings = (
            *SIXTY_STEPS,
            f"engine.precision={precision}",
            f"optimizer.eps={eps}",
            "monitoring.scalars_every=4000",
        )
        folder = tmp_path_factory.mktemp(precision)
        straight = open_run(folder / "straight", data, *settings)
        killed = open_run(folder / "killed", data, *settings, "checkpoint.every=40")
        on_processes(2, _run, killed, 11, True)
        runs[precision] = killed, on_processes(2, _run, straight, steps, True)[0]
    return runs


def _continued(killed: Path, count: int, steps: int) -> Ran:
    """On `count` processes, in a copy."""
    path = killed.with_name(f"on-{count}")
    shutil.copytree(killed, path)
    settings = settings_of(RunDirectory(path))
    prepare_run(RunDirectory(path), settings.model_copy(update={"checkpoint": CheckpointSettings(every=0)}))
    ran: list[Ran] = on_processes(count, _run, path, steps)
    for other in ran[1:]:
        assert_same(other[2], ran[0][2])
    return ran[0]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_another_number_of_processes_continues_the_same_in_double_precision(
    on_two: dict[str, tuple[Path, Ran]], count: int
) -> None:
    killed, want = on_two["fp64"]
    got = _continued(killed, count, 50)
    assert got[:2] == (40, 240) and want[1] == 240
    found = largest_differences(got[2], want[2])
    assert max(found.values()) <= 1e-9
    assert max(found.values()) > 0  # another order of summation, which shows that it is compared


@pytest.mark.parametrize("count", [1, 4])
def test_another_number_of_processes_takes_the_same_next_step_in_single_precision(
    on_two: dict[str, tuple[Path, Ran]], count: int
) -> None:
    killed, want = on_two["fp32"]
    got = _continued(killed, count, 1)
    assert got[:2] == (40, 44) and want[1] == 44
    found = largest_differences(got[2], want[2])
    assert max(found.values()) <= 1e-5
    assert max(found.values()) > 0
