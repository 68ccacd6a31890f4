"""What tests of engines share: a run that stands in the middle, and copies of it that go on with other engines."""

import shutil
from pathlib import Path

from torch import Tensor

from sivae_dist.checkpoint import CheckpointFolder
from sivae_dist.config.opening import prepare_run
from sivae_dist.process.processes import rank
from sivae_dist.run.directory import RunDirectory
from tests.helpers import begin, disturb, gathered, tiny_settings, train

ZERO = {f"zero{stage}": f"engine={{name: zero, stage: {stage}}}" for stage in (0, 1, 2)}
# Without this, DeepSpeed would keep weights as small as these in every process.
ZERO["zero3"] = "engine={name: zero, stage: 3, deepspeed: {zero_optimization: {stage3_param_persistence_threshold: 0}}}"
ENGINES = {"ddp": "engine={name: ddp}"} | ZERO

Tensors = dict[str, Tensor]


def begun(path: Path, data: Path, *assignments: str, steps: int = 3) -> Path:
    """A run of tiny_settings that DDP has trained for `steps` steps and saved.

    After 3 it stands in the transition to 8 px: some parameters have had 3 steps, others 1, others none.
    """
    every = f"checkpoint.every={8 * steps}"
    train(disturb(begin(path, tiny_settings(data, every, *assignments))), steps=steps)
    assert CheckpointFolder(RunDirectory(path).checkpoints).final(8 * steps).exists()
    return path


def with_engine(run: Path, data: Path, engine: str, *assignments: str, path: Path | None = None) -> Path:
    """A copy of the run that goes on with another engine; `assignments` as it was begun."""
    copy = path or run.with_name(f"{run.name}-{engine}")
    shutil.copytree(run, copy)
    prepare_run(RunDirectory(copy), tiny_settings(data, ENGINES[engine], *assignments))
    return copy


def go_on(paths: list[Path], steps: int | None = None) -> list[Tensors] | None:
    """Continues runs one after the other; on the first process, all that each holds then."""
    results = []
    for path in paths:
        trainer = train(begin(path), steps=steps)
        results.append(gathered(trainer))
    return results if rank() == 0 else None
