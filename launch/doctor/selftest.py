"""A self-test of about a minute at a tiny size: a step, decoding a shard, a run on all processes, save and resume."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.doctor.report import Finding

if TYPE_CHECKING:
    import torch

    from data_pipelines.images.manifest import Manifest
    from sivae_dist.config.run_settings import RunSettings
    from sivae_dist.process.stopping import Stop

TOLERANCE = 1e-9
"""Maximum difference of any tensor of an fp64 step between devices or numbers of processes."""

_FACES = 24
_SIDE = 16
_PATIENCE = 240.0
"""Timeout in seconds for training on all processes."""


class SelfTest:
    """The checks share a temporary folder with a drawn data set."""

    def __init__(self, device: "torch.device", processes: int, folder: Path | None = None) -> None:
        """`folder`: parent of the temporary folder; the system's by default."""
        self.device = device
        self.processes = processes
        self._temporary = tempfile.TemporaryDirectory(prefix="sivae-doctor-", dir=folder)
        self.root = Path(self._temporary.name)

    def __enter__(self) -> "SelfTest":
        return self

    def __exit__(self, *_: object) -> None:
        self._temporary.cleanup()

    def settings(self, data: str | Path, *assignments: str) -> "RunSettings":
        """A run of eight steps, 4 to 16 px, in fp64."""
        from sivae_dist.config.names import config_path
        from sivae_dist.config.run_settings import override, validate
        from sivae_dist.config.yaml_reading import read_yaml

        objective = read_yaml(config_path("tiny"))["objective"]["name"]
        batch = self.processes * -(-8 // self.processes)
        values: dict[str, Any] = {
            "device": self.device.type,
            "data": {"path": str(data), "threads": 1},
            "model": {
                "resolution": _SIDE,
                "latent": 8,
                "base_width": 4,
                "max_width": 8,
                "encoder_mapping": 2,
                "decoder_mapping": 2,
            },
            "objective": {"name": objective, "beta_neg": 16.0, "style_mixing": 0.5},
            "schedule": {"images": {4: 2 * batch, 8: 2 * batch, 16: 4 * batch}, "batch": batch},
            "engine": {"precision": "fp64"},
            "optimizer": {"eps": 1e-3},  # a smaller eps would turn gradients that are only rounding errors into steps
            "checkpoint": {"every": 4 * batch},
            "monitoring": {"scalars_every": batch, "images_every": 0},
        }
        override(values, assignments)
        return validate(values, "self-test")

    def prepare(self, file_format: str) -> tuple[Path, "Manifest"]:
        """Drawn faces as a data set whose largest level is stored in tars of PNG or JPEG files."""
        from data_pipelines.images.manifest import Manifest
        from data_pipelines.images.prepare import PrepareSettings, prepare

        data = self.root / file_format
        if not data.exists():
            known = {"resolution": _SIDE, "array_max_resolution": 8, "format": file_format, "shard_size": 8}
            prepare(self.faces(), data, PrepareSettings.model_validate(known), 1)
        return data, Manifest.load(data)

    def faces(self) -> Path:
        """A folder of drawn faces of 128 px."""
        from PIL import Image

        from data_pipelines.images.drawn import draw_face

        source = self.root / "faces"
        if not source.exists():
            source.mkdir()
            for index in range(_FACES):
                Image.fromarray(draw_face(0, index)).save(source / f"{index:02d}.png")
        return source

    def faces_32(self) -> Path:
        """The faces as a data set of up to 32 px, for `sivae train tiny`."""
        from data_pipelines.images.prepare import PrepareSettings, prepare

        data = self.root / "faces-32"
        if not data.exists():
            prepare(self.faces(), data, PrepareSettings(resolution=32), 1)
        return data

    def step(self) -> Iterator[Finding]:
        """Compares one fp64 step on the CPU and the GPU, with the same draws; without a GPU, repeats it on the CPU."""
        import torch

        from launch.steps import Stepper, copied, same, worst

        cpu = torch.device("cpu")

        def one(device: torch.device) -> dict[str, torch.Tensor]:
            stepper = Stepper(self.settings("unused"), device, _SIDE, blending=True)
            stepper.step(stepper.images(8), stepper.draws(8, on=cpu))
            return copied(stepper.players.tensors())

        want, got = one(cpu), one(self.device)
        if self.device.type == "cpu":
            name = same(got, want)
            if name is None:
                yield Finding("ok", "step", "one step in fp64, twice on the CPU: equal bit for bit")
            else:
                todo = "this processor or its libraries cannot be trusted: try another machine"
                yield Finding("fail", "step", f"repeating the same step gave a different {name}", todo)
            return
        name, size = worst(got, want)
        text = f"one step in fp64, CPU against GPU: worst tensor {size:.1e} ({name})"
        if size < TOLERANCE:
            yield Finding("ok", "step", text)
        else:
            yield Finding(
                "fail", "step", text, "the GPU computes different values; send the JSON, and try another driver"
            )

    def decoders(self) -> Iterator[Finding]:
        """Decodes a shard of each format with every decoder and compares it with Pillow."""
        from data_pipelines.images.loaders import LOADERS

        for name, kind in LOADERS.items():
            try:
                kind.check()
            except ValueError:
                yield Finding("ok", "decoding", f"{kind.title} is not installed (optional)", kind.install)
                continue
            for file_format in ("png", "jpeg"):
                yield from self._decoded(file_format, name)

    def _decoded(self, file_format: str, loader: str) -> Iterator[Finding]:
        import torch

        from data_pipelines.dataset import Request
        from data_pipelines.images.dataset import ImageSettings
        from data_pipelines.images.loaders import LOADERS, USUAL_LOADER

        data, manifest = self.prepare(file_format)
        settings = ImageSettings(path=str(data), loader=loader, flip=False, threads=1)
        with settings.open(0, self.device) as opened:
            samples, _ = opened.order.at(0, manifest.train)
            (batch,) = opened.batches([Request(0, manifest.train, _SIDE)])
            pixels = ((batch.x + 1) * 127.5).round().to("cpu", torch.int16)
        by_pillow = _by_pillow(data, manifest)
        worst = max(int((pixels[k] - by_pillow[int(sample)]).abs().max()) for k, sample in enumerate(samples))
        decoder = LOADERS[loader].decoders.get(file_format, LOADERS[loader].title)
        text = f"{file_format.upper()} shard by {decoder}: {len(samples)} images, at most {worst} of 255 from Pillow's"
        if worst <= (0 if file_format == "png" else 3):
            yield Finding("ok", "decoding", text)
        else:
            yield Finding("fail", "decoding", text, f"use data.loader={USUAL_LOADER}, or reinstall the decoder")

    def processes_agree(self) -> Iterator[Finding]:
        """Compares a run on all processes with the same run on one."""
        from launch.steps import worst

        alone = self.alone()
        if self.processes == 1:
            yield Finding("ok", "processes", "a run of 8 steps on the only GPU has finished")
            return
        run = self.begin("together")
        code, last = self.together(run)
        how = "GPUs over NCCL" if self.device.type == "cuda" else "CPU processes over gloo"
        if code:
            todo = "NCCL_DEBUG=INFO shows how they try to connect; see docs/slurm.md"
            yield Finding("fail", "processes", f"a run on {self.processes} {how} failed: {last}", todo)
            return
        name, size = worst(last_tensors(run), alone)
        text = f"8 steps in fp64 on {self.processes} {how} against 1: worst tensor {size:.1e} ({name})"
        if size < TOLERANCE:
            yield Finding("ok", "processes", text)
        else:
            yield Finding("fail", "processes", text, "the processes compute different values; send the JSON")

    def resumed(self) -> Iterator[Finding]:
        """Compares a run that is stopped, saved and resumed with an uninterrupted one, bit for bit."""
        from launch.steps import same

        alone = self.alone()
        run = self.begin("resumed")
        self.train(run, stop_after(5))
        self.train(run)
        name = same(last_tensors(run), alone)
        if name is None:
            yield Finding("ok", "resume", "stopped, saved and resumed: equal bit for bit to an uninterrupted run")
        else:
            todo = "resumed runs differ from uninterrupted ones on this machine; send the JSON"
            yield Finding("fail", "resume", f"{name} differs after stopping and resuming", todo)

    def alone(self) -> "dict[str, torch.Tensor]":
        """The final tensors of the uninterrupted run on one process."""
        run = self.root / "alone"
        if not run.exists():
            self.train(self.begin("alone"))
        return last_tensors(run)

    def together(self, run: Path) -> tuple[int, str]:
        """Trains on all processes, as child processes; returns the exit code and the last line of output."""
        log = run.with_suffix(".txt")
        with log.open("a") as file:
            done = subprocess.run(self.command(run), stdout=file, stderr=file, timeout=_PATIENCE, check=False)
        return done.returncode, " ".join(log.read_text().strip().splitlines()[-1:])

    def command(self, run: Path) -> list[str]:
        return [sys.executable, "-m", "launch.launcher", str(run), str(self.processes)]

    def begin(self, name: str, *assignments: str) -> Path:
        from sivae_dist.config.opening import prepare_run
        from sivae_dist.run.directory import RunDirectory

        data, _ = self.prepare("png")
        prepare_run(RunDirectory(self.root / name), self.settings(data, *self.exactly(), *assignments))
        return self.root / name

    def exactly(self) -> list[str]:
        """The settings with which runs are exactly reproducible on this device."""
        return ["engine.deterministic=true"] if self.device.type == "cuda" else []

    def train(self, path: Path, stop: "Stop | None" = None) -> None:
        """Trains in this process, with output to a file."""
        from sivae_dist.config.opening import settings_of
        from sivae_dist.process import numerics
        from sivae_dist.run.directory import RunDirectory
        from sivae_dist.train.trainer import Trainer

        run = RunDirectory(path)
        settings = settings_of(run)
        numerics.configure(settings.engine.precision, settings.engine.deterministic, self.device)
        with path.with_suffix(".txt").open("a") as log, contextlib.redirect_stdout(log):
            trainer = Trainer(settings, run, self.device, stop)
            try:
                trainer.train()
            finally:
                trainer.close()


def stop_after(steps: int) -> "Stop":
    """A request to stop in the given step."""
    from sivae_dist.process.stopping import Stop

    class StopAfter(Stop):
        left = steps

        def decided(self) -> bool:
            self.left -= 1
            self.requested |= self.left <= 0
            return super().decided()

    return StopAfter()


def last_tensors(run: Path) -> "dict[str, torch.Tensor]":
    """Tensors of a run's newest checkpoint."""
    from sivae_dist.checkpoint import CheckpointFolder
    from sivae_dist.run.directory import RunDirectory

    found, _ = CheckpointFolder(RunDirectory(run).checkpoints).newest_valid(move_aside=False)
    if found is None:
        raise ValueError(f"{run.name} has not saved a checkpoint")
    return {name: tensor.clone() for name, tensor in found.load().items()}  # the files are about to be removed


def _by_pillow(data: Path, manifest: "Manifest") -> "dict[int, torch.Tensor]":
    """int16 [C, R, R] for every sample of the largest level, read with only tarfile and Pillow."""
    import tarfile

    import numpy as np
    import torch
    from PIL import Image

    images: dict[int, torch.Tensor] = {}
    for record in manifest.levels[manifest.resolution].files:
        with tarfile.open(data / record.name) as tar:
            for member in tar:
                if member.name.rpartition(".")[2] in ("png", "jpg"):
                    pixels = np.asarray(Image.open(tar.extractfile(member)).convert("RGB"), np.int16)  # type: ignore[arg-type]
                    images[len(images)] = torch.from_numpy(pixels).permute(2, 0, 1)
    return images
