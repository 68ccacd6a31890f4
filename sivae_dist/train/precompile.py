"""The background process of ahead.py: compiles both objectives of a segment, and leaves their code on disk.

    python -m sivae_dist.train.precompile PARENT REQUEST

Everything that the code depends on is as in training: layout of weights and inputs, precision, number of threads.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from sivae_dist.config.opening import settings_of
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.engines.compiling import compile_without_running, reported
from sivae_dist.models.layers import forms
from sivae_dist.objectives import EncoderTurn
from sivae_dist.process.numerics import configure, set_environment
from sivae_dist.process.parents import end_with
from sivae_dist.run.directory import RunDirectory
from sivae_dist.step.schedule import Segment
from sivae_dist.train.players import place
from sivae_dist.train.tracing import micro_batch


def compile_segment(settings: RunSettings, segment: Segment, batch: int, device: torch.device) -> None:
    """Compiles both objectives for micro-batches of `batch` images, without computing anything.

    Weights and inputs are real, since the code for tensors of a fake mode would not be found by those of training.
    """
    networks = settings.model.build(settings.seed)
    place(networks, settings.engine, device)
    with device:
        x, cond, draws = micro_batch(settings, networks[1], segment.resolution, segment.blending, batch)
    objectives = settings.objective.build(
        *networks,
        segment.resolution,
        settings.model.dimensions,
        warming_up=segment.warming_up,
        amp=settings.engine.amp,
    )
    crossing: list[torch.Tensor] = []
    with forms.using("compiled"):
        for network, objective in zip(networks, objectives, strict=True):
            for one in networks:
                one.requires_grad_(False)
            for part in network.parts_in_use(segment.resolution, segment.blending):
                part.requires_grad_(True)
            compile_without_running(objective)
            turn: Any = objective(x, *crossing, cond, draws)
            crossing = [turn.crossing] if isinstance(turn, EncoderTurn) else []


def main(parent: int, request: dict[str, Any]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))  # with the compilers that it runs
    end_with(parent, signal.SIGTERM)
    os.nice(19)
    torch.set_num_threads(request["threads"])
    settings = settings_of(RunDirectory(Path(request["run"])))
    device = torch.device(request["device"])
    set_environment(settings.engine.deterministic)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    configure(settings.engine.precision, settings.engine.deterministic, device)
    segment = Segment(request["resolution"], request["blending"], request["warming_up"])
    with reported():
        compile_segment(settings, segment, request["batch"], device)


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
