"""engine.compile with torch's own compiler: code from the background is found, and computes what it should."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sivae_dist.engines import compiling
from sivae_dist.process.numerics import configure
from sivae_dist.step.schedule import Segment
from sivae_dist.train import ahead
from tests.helpers import CPU, begin, disturb, gathered, largest_difference, open_run, train

VAE = (
    "objective={name: vae}", "engine.precision=fp64", "model.resolution=4", "model.blur=false", "schedule.images=16",
    "model.encoder_mapping=1", "model.decoder_mapping=1", "model.latent=4", "model.max_width=4",
)  # fmt: skip


def _trained(path: Path, code: Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(code)
    configure("fp64", False, CPU)  # as every process of a run; it is a part of the code's key
    torch._dynamo.utils.counters.clear()
    trainer = train(disturb(begin(path)))
    return gathered(trainer), dict(torch._dynamo.utils.counters["inductor"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_finds_what_was_compiled_in_the_background(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And learns what it learns with layers as the paper writes them."""
    code = tmp_path / "code"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(code))
    monkeypatch.setattr(compiling, "why_not", lambda device: "")
    plain, _ = _trained(open_run(tmp_path / "plain", data, "engine.kernels=plain", *VAE), code)
    run = open_run(tmp_path / "run", data, "engine.compile=true", "engine.max_batch_per_rank=4", *VAE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert "waited" in ahead._Work(run, Segment(4, False, False), 4, CPU).finish(900)
        values, counters = _trained(run, code)
    finally:
        torch.set_num_threads(threads)
    assert counters["fxgraph_cache_hit"] == 4 and "fxgraph_cache_miss" not in counters
    assert largest_difference(values, plain) <= 1e-10
