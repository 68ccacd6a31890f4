"""DeepSpeed's engines against DDP: the same step, and a hundred."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from sivae_dist.checkpoint import CheckpointFolder
from sivae_dist.engines import ddp
from sivae_dist.engines.settings import _FREE
from sivae_dist.run.directory import RunDirectory
from tests.engines import ENGINES, ZERO, Tensors, begun, go_on, with_engine
from tests.helpers import differences, on_processes

pytestmark = pytest.mark.slow

OWN = {
    "allgather_bucket_size": 1000, "contiguous_gradients": False, "overlap_comm": True, "reduce_bucket_size": 1000,
    "reduce_scatter": False, "stage3_max_live_parameters": 1000, "stage3_max_reuse_distance": 1000,
    "stage3_model_persistence_threshold": 1000, "stage3_param_persistence_threshold": 100,
    "stage3_prefetch_bucket_size": 100,
}  # fmt: skip
"""All that a user may tell DeepSpeed beside our settings, as we do not."""


def relative(got: Tensor, want: Tensor) -> float:
    """The norm of the difference over the norm."""
    difference = torch.linalg.vector_norm(got - want).item()
    return difference / torch.linalg.vector_norm(want).item() if difference else 0.0


@pytest.mark.parametrize("assignments", [(), ("engine.max_batch_per_rank=1", "optimizer.clip=1e-3")])
@pytest.mark.parametrize("count", [2, 4])
def test_one_step_from_equal_state_is_that_of_ddp(
    data: Path, tmp_path: Path, count: int, assignments: tuple[str, ...]
) -> None:
    """Also in parts, with the gradient cut, and with DeepSpeed's own settings changed.

    The moments of biases before a normalization are sums of which few digits are left, so that rounding errors show,
    as they do between two memory formats under DDP. Adam divides them by themselves: it takes an eps not to have these
    errors as large as any step.
    """
    assert OWN.keys() == _FREE.keys()
    assignments = ("optimizer.eps=1e-5", *assignments)
    run = begun(tmp_path / "run", data, *assignments)
    paths = {engine: with_engine(run, data, engine, *assignments) for engine in ENGINES}
    if count == 2:
        for engine in ("zero2", "zero3"):
            own = (*assignments, f"engine.deepspeed={json.dumps({'zero_optimization': OWN})}")
            paths[f"{engine} with its own"] = with_engine(run, data, engine, *own, path=tmp_path / f"own-{engine}")
    want, *others = on_processes(count, go_on, list(paths.values()), 1)[0]
    found, _ = CheckpointFolder(RunDirectory(run).checkpoints).newest_valid()
    assert found is not None
    before = found.load()
    for name, tensor in want.items():
        if name.startswith(("encoder.", "decoder.")) and name.replace(".", "_optim.step.", 1) in want:
            assert relative(before[name], tensor) > 1e-5, name  # it has moved
    for engine, got in zip([*paths][1:], others, strict=True):
        assert list(got) == list(want)
        for name, difference in differences(got, want).items():
            limit = 0 if "_optim.step." in name else 2e-5 if "_optim." in name else 1e-6
            assert difference <= limit, (engine, name)


class SmallBuckets(DistributedDataParallel):
    """Sums gradients in another order, which shows with more than two processes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, bucket_cap_mb=0.001, **options)


def _hundred_steps(paths: list[Path], again: Path) -> list[Tensors] | None:
    results = go_on(paths)
    ddp.DistributedDataParallel = SmallBuckets  # type: ignore[misc]
    other = go_on([again])
    return [*other, *results] if results and other else None


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_after_a_hundred_steps_the_difference_to_ddp_is_its_own(data: Path, tmp_path: Path) -> None:
    """Through a change of phase with its transition: at most three times that of DDP with another bucket size."""
    assignments = ("schedule.images={4: 488, 8: 320}", "schedule.lr_encoder=0.001", "schedule.lr_decoder=0.001")
    run = begun(tmp_path / "run", data, *assignments, steps=1)
    paths = [with_engine(run, data, engine, *assignments) for engine in ENGINES]
    again = with_engine(run, data, "ddp", *assignments, path=tmp_path / "again")
    other, want, *results = on_processes(4, _hundred_steps, paths, again, limit=600)[0]
    assert all(steps == 101 for name, steps in want.items() if "_optim.step.mapping" in name)
    weights = [name for name in want if "_optim." not in name]

    def difference(got: Tensors) -> float:
        return relative(*(torch.cat([t[name].flatten().double() for name in weights]) for t in (got, want)))

    yardstick = difference(other)
    assert 1e-7 < yardstick < 1e-4
    for engine, got in zip(ZERO, results, strict=True):
        assert difference(got) <= 3 * yardstick, engine
