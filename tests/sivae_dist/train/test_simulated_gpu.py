"""The training loop on a GPU that is simulated (tests/simulated_gpu.py): no devices are mixed, and nothing waits."""

import gc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sivae_dist.config.opening import prepare_run
from sivae_dist.run.directory import RunDirectory
from sivae_dist.train.trainer import Trainer
from tests.helpers import on_processes, tiny_settings, train
from tests.simulated_gpu import GPU, HostWait, simulated_gpu

STEPS = 5
"""Of tiny_settings' 6: two at 4 px, two of the transition, one more at 8 px. The last one logs and saves, and waits."""

CASES = {
    "soft_intro, bf16": ("engine.precision=bf16",),
    "soft_intro, literal": ("objective.stop_gradient=none", "engine.max_batch_per_rank=4", "optimizer.clip=1"),
    "warm-up, tf32": ("objective.warmup=16", "guard.policy=skip", "engine.precision=tf32"),
    "intro, fp64": ("objective={name: intro, margin: 4.0, style_mixing: 0.9}", "engine.precision=fp64"),
    "intro, batch": ("objective={name: intro, margin: 4.0, hinge: batch, reconstruction: l1}",),
    "vae, recomputed": (
        "objective={name: vae, reconstruction: bce}",
        "model.output=tanh",
        "engine.checkpoint_activations=true",
        "schedule.reset_optimizer=true",
    ),
}


_KEPT: list[object] = []
"""Taking fake tensors apart can crash torch: what holds them lives as long as its process, which is not pytest's."""


def _train(data: Path, path: Path, *assignments: str) -> tuple[int, Counter[torch.dtype], set[str], int]:
    """Of a run of STEPS steps: images, operations on the GPU by type, what is not there, and moments of Adam's."""
    gc.disable()
    settings = tiny_settings(data, "monitoring.scalars_every=1000", *assignments)
    run = RunDirectory(path)
    prepare_run(run, settings)
    with simulated_gpu(pytest.MonkeyPatch()) as no_waits:
        trainer = Trainer(settings, run, GPU)
        _KEPT.append(trainer)
        with no_waits:
            train(trainer, steps=STEPS)
        tensors = {**trainer.players.tensors(), "skipped": trainer.guard.skipped}
        elsewhere = {name for name, tensor in tensors.items() if tensor.device != GPU}
        return trainer.images, no_waits.seen, elsewhere, sum(".exp_avg." in name for name in tensors)


@pytest.mark.slow
@pytest.mark.parametrize("assignments", CASES.values(), ids=CASES.keys())
def test_steps_mix_no_devices_and_wait_for_nothing(data: Path, tmp_path: Path, assignments: tuple[str, ...]) -> None:
    ((images, operations, elsewhere, moments),) = on_processes(1, _train, data, tmp_path / "run", *assignments)
    assert images == 8 * STEPS
    assert operations.total() > 1000
    precision = str(assignments).partition("precision=")[2][:4]
    assert (operations[torch.bfloat16] > 1000) == (precision == "bf16")
    assert (operations[torch.float64] > 1000) == (precision == "fp64")
    assert elsewhere == set()
    assert moments > 40, "the optimizer has not stepped"


def _mistakes() -> list[str]:
    """Those of these mistakes that are found."""
    gc.disable()
    with simulated_gpu(pytest.MonkeyPatch()) as no_waits, no_waits:
        x, host = torch.ones(4, device=GPU), torch.ones(4)
        _KEPT.extend((x, host))
        mistakes: dict[str, Callable[[], object]] = {
            "two devices": lambda: x + host,
            "item": lambda: x.sum().item(),
            "bool": lambda: bool(x[0] > 0),
            "tolist": lambda: x.tolist(),
            "mask": lambda: x[x > 0],
            "nonzero": lambda: torch.nonzero(x),
            "cpu": lambda: x.cpu(),
            "copy": lambda: x.copy_(host),
            "to": lambda: host.to(GPU),
            "tensor": lambda: torch.tensor([1, 2], device=GPU),
        }
        found = []
        for name, mistake in mistakes.items():
            try:
                mistake()
            except (HostWait, RuntimeError) as error:
                if "device" in str(error):
                    found.append(name)
        host.to(GPU, non_blocking=True)
        x.copy_(host, non_blocking=True)
        assert len(found) == len(mistakes), set(mistakes) - set(found)
        return found


def test_what_would_be_wrong_on_a_gpu_is_an_error_here() -> None:
    assert len(on_processes(1, _mistakes)[0]) == 10
