"""A step is tried before a run begins: it leaves no trace, and memory that does not suffice is found then."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sivae_dist.checkpoint import CheckpointFolder
from sivae_dist.config.opening import prepare_run
from sivae_dist.config.run_settings import load_config
from sivae_dist.process import host
from sivae_dist.process.host import HostMemory, host_memory
from sivae_dist.process.processes import rank
from sivae_dist.run.directory import RunDirectory
from sivae_dist.step.schedule import Step
from sivae_dist.train import rehearsal
from sivae_dist.train.rehearsal import Rehearsal
from sivae_dist.train.tracing import Tracker
from tests.engines import Tensors, begun, with_engine
from tests.helpers import CPU, assert_same, begin, gathered, on_processes, snapshot, tiny_settings, train

WIDE = ("model.base_width=16", "model.max_width=32", "objective.warmup=8", "engine.kernels=plain")


class Memory(Tracker):
    """An allocator with `limit` bytes: what is beyond them raises, in the very operation that asks for it."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def add(self, storage: torch.UntypedStorage) -> None:
        super().add(storage)
        if self.bytes > self.limit:
            raise torch.OutOfMemoryError(f"{self.bytes} of {self.limit}")


# What is left behind: nothing.


def _continued(paths: list[Path]) -> list[Tensors] | None:
    """Each run, which stands in its transition, to its end; and whether a step was rehearsed in the second alone."""
    tried: list[tuple[int, bool]] = []
    real = Rehearsal._untaken_step

    def watched(self: Rehearsal, step: Step, batch: int) -> None:
        tried.append((step.phase.resolution, step.segment.blending))
        real(self, step, batch)

    Rehearsal._untaken_step = watched  # type: ignore[method-assign]
    results = []
    try:
        for path in paths:
            results.append(gathered(train(begin(path))))
            assert tried == [(8, True)] * len(results[1:])
    finally:
        Rehearsal._untaken_step = real  # type: ignore[method-assign]
    return results if rank() == 0 else None


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "count"), [("ddp", 2), ("zero3", 2)])
def test_a_resumed_run_with_a_rehearsal_equals_one_without(data: Path, tmp_path: Path, engine: str, count: int) -> None:
    run = begun(tmp_path / "run", data)
    paths = [
        with_engine(run, data, engine, "checkpoint.every=24", f"engine.rehearsal={how}", path=tmp_path / how)
        for how in ("none", "step")
    ]
    results = on_processes(count, _continued, paths)[0]
    assert results is not None
    assert_same(*results)


def test_a_new_run_with_a_rehearsal_equals_one_without(data: Path, tmp_path: Path) -> None:
    none, step = (
        train(begin(tmp_path / how, tiny_settings(data, *WIDE, "monitoring.trace=true", f"engine.rehearsal={how}")))
        for how in ("none", "step")
    )
    assert_same(snapshot(none.players.tensors()), snapshot(step.players.tensors()))
    assert (tmp_path / "none" / "trace.jsonl").read_text() == (tmp_path / "step" / "trace.jsonl").read_text()


# Memory that does not suffice.


def peak(data: Path, path: Path, *assignments: str) -> int:
    """Bytes of a run that is left after its first step."""
    trainer = begin(path, tiny_settings(data, *WIDE, *assignments))
    with Memory(1 << 60) as memory:
        train(trainer, steps=1)
    return memory.peak


@pytest.fixture(scope="module")
def limit(data: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """Enough for the largest step in two parts, and not in one."""
    folder = tmp_path_factory.mktemp("peaks")
    whole = peak(data, folder / "whole", "engine.rehearsal=step")
    parts = peak(data, folder / "parts", "engine.rehearsal=step", "engine.max_batch_per_rank=4")
    assert parts < 0.8 * whole
    return (whole + parts) // 2


@pytest.mark.slow
def test_a_step_that_does_not_fit_is_refused_with_what_does(data: Path, tmp_path: Path, limit: int) -> None:
    step = "engine.rehearsal=step"
    with pytest.raises(ValueError, match=r"8 images at 8 px do not fit .*engine.max_batch_per_rank=4"), Memory(limit):
        train(begin(tmp_path / "whole", tiny_settings(data, *WIDE, step)))
    assert CheckpointFolder(RunDirectory(tmp_path / "whole").checkpoints).newest_valid()[0] is None
    with Memory(limit):
        trainer = train(begin(tmp_path / "parts", tiny_settings(data, *WIDE, step, "engine.max_batch_per_rank=4")))
    assert trainer.images == trainer.schedule.total
    with pytest.raises(ValueError, match=r"not even one at a time: try engine.checkpoint_activations=true"):
        trainer = begin(tmp_path / "none", tiny_settings(data, *WIDE, step))
        draw, say = trainer.iteration.draw, trainer.monitor.say
        tried = Rehearsal(trainer.settings, trainer.schedule, trainer.players, CPU, draw, say)
        with Memory(1000):
            tried.fitted(0, tmp_path / "record")


@pytest.mark.slow
def test_auto_finds_what_fits_and_keeps_it(
    data: Path, tmp_path: Path, limit: int, capsys: pytest.CaptureFixture[str]
) -> None:
    auto = (*WIDE, "engine.rehearsal=step", "engine.max_batch_per_rank=auto")
    with Memory(limit):
        found = train(begin(tmp_path / "auto", tiny_settings(data, *auto)), steps=5)
    assert found.iteration.engine.max_batch_per_rank == {4: 8, 8: 4}
    assert "engine.max_batch_per_rank=auto, found: 8 at 4 px, 4 at 8 px" in capsys.readouterr().out
    given = train(begin(tmp_path / "given", tiny_settings(data, *WIDE, "engine.max_batch_per_rank={8: 4}")), steps=5)
    assert_same(snapshot(found.players.tensors()), snapshot(given.players.tensors()))
    again = begin(tmp_path / "auto")
    assert again.settings.engine.max_batch_per_rank == "auto"
    train(again, steps=1)  # there is more memory now, but it is the same machine
    assert again.iteration.engine.max_batch_per_rank == {4: 8, 8: 4}
    assert "as before on the same hardware" in capsys.readouterr().out
    record = tmp_path / "auto" / "micro_batches.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | {"hardware": content["hardware"] | {"devices": [["another", 1]]}}))
    other = train(begin(tmp_path / "auto"), steps=1)
    assert other.iteration.engine.max_batch_per_rank == {4: 8, 8: 8}
    assert "found anew" in capsys.readouterr().out


def _found(path: Path, limit: int) -> Any:
    trainer = begin(path)
    with Memory(limit if rank() == 1 else 1 << 60):
        train(trainer, steps=1)
    return trainer.iteration.engine.max_batch_per_rank


def test_all_processes_take_the_smallest_that_any_finds(data: Path, tmp_path: Path, limit: int) -> None:
    settings = tiny_settings(
        data, *WIDE, "schedule.batch=16", "engine.rehearsal=step", "engine.max_batch_per_rank=auto"
    )
    prepare_run(RunDirectory(tmp_path / "run"), settings)
    assert on_processes(2, _found, tmp_path / "run", limit) == [{4: 8, 8: 4}] * 2


# Traced, on CPUs.


@pytest.mark.parametrize(
    ("free", "total", "found"),
    [
        (8e9, 16e9, None),
        (0.82e9, 16e9, "warning: 2 images at 256 px need 2.9 GB per process, and 2.8 GB"),
        (0.82e9, 2.85e9, "engine.max_batch_per_rank=1,"),
    ],
)
def test_a_run_on_a_cpu_is_compared_with_its_memory(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, total: float, found: str | None
) -> None:
    """The reference model, whose step of two images takes 2.9 GB with activations recomputed, and in two parts 2.5."""
    monkeypatch.setattr(rehearsal, "host_memory", lambda: HostMemory(int(total), int(free)))
    monkeypatch.setattr(rehearsal, "resident", lambda: int(2e9))
    trainer = begin(tmp_path / "run", tiny_settings(data))
    trainer.close()
    settings = load_config("ffhq256", ["schedule.batch.256=2", "engine.checkpoint_activations=true"])
    said: list[str] = []
    schedule = rehearsal.Schedule(settings.schedule, settings.model.resolutions, 1000)
    tried = Rehearsal(settings, schedule, trainer.players, CPU, trainer.iteration.draw, said.append)
    if total < 2.86e9:
        with pytest.raises(ValueError, match=found):
            tried.fitted(schedule.phases[-1].start, tmp_path / "record")
    else:
        assert tried.fitted(schedule.phases[-1].start, tmp_path / "record") is settings.engine
        assert [line[: len(found or "")] for line in said] == ([found] if found else [])


def test_limits_of_control_groups_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(**files: str) -> None:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    monkeypatch.setattr(host, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(host, "_CGROUPS", tmp_path / "groups")
    write(proc__meminfo="MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 600 kB\n", proc__self__cgroup="0::/job/step\n")
    assert host_memory() == (1024_000, 614_400)
    write(groups__job__step__memory_dot_max="max\n", groups__job__step__memory_dot_current="50000",
          groups__job__step__memory_dot_stat="inactive_file 1\n")  # fmt: skip
    assert host_memory() == (1024_000, 614_400)
    write(groups__job__memory_dot_max="400000\n", groups__job__memory_dot_current="150000",
          groups__job__memory_dot_stat="anon 5\ninactive_file 50000\n")  # fmt: skip
    assert host_memory() == (400_000, 300_000)
    write(proc__self__cgroup="5:cpu,cpuacct:/x\n4:memory:/elsewhere\n")
    write(groups__memory__memory_dot_limit_in_bytes="200000", groups__memory__memory_dot_usage_in_bytes="190000",
          groups__memory__memory_dot_stat="total_inactive_file 40000\n")  # fmt: skip
    assert host_memory() == (200_000, 50_000)


def test_auto_needs_a_rehearsal_and_a_loss_that_does_not_depend_on_it(data: Path) -> None:
    with pytest.raises(ValueError, match="max_batch_per_rank=auto needs a rehearsal: remove rehearsal=none"):
        tiny_settings(data, "engine.max_batch_per_rank=auto", "engine.rehearsal=none")
    with pytest.raises(ValueError, match=r"hinge=batch depends on engine.max_batch_per_rank"):
        tiny_settings(data, "objective={name: intro, margin: 4, hinge: batch}", "engine.max_batch_per_rank=auto")
    for value in ("0", "many", "{8: 0}", "1.5", "true"):
        with pytest.raises(ValueError, match=r"engine.max_batch_per_rank: .* is not a number of images") as caught:
            tiny_settings(data, f"engine.max_batch_per_rank={value}")
        assert "\n" not in str(caught.value)
