"""Settings of the engines: precision, micro-batches, rehearsal, and DeepSpeed's own configuration."""

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import BeforeValidator, field_validator, model_validator

from data_pipelines.choices import Registry, one_of
from sivae_dist.process.numerics import Precision
from sivae_dist.settings import MAY_CHANGE, Settings, flatten


def _micro_batch(value: object) -> object:
    """ValueError in one sentence for all that is neither."""
    numbers = list(value.values()) if isinstance(value, dict) else [value]
    if value not in (None, "auto") and not all(type(n) is int and n > 0 for n in numbers):
        raise ValueError(f"{value!r} is not a number of images (at least 1), one per resolution, or auto")
    return value


class Held(NamedTuple):
    """Bytes that one process holds throughout a step (train/memory.py)."""

    weights: int
    optimizer: int
    gradients: int


class Communicated(NamedTuple):
    """Bytes of whole tensors that the collectives of one step work on (train/communication.py)."""

    reduced: int
    """Of gradients, which are summed over all processes."""
    gathered: int
    """Of weights, which are put together from the slices of all processes."""


MicroBatch = Annotated[int | dict[int, int] | Literal["auto"] | None, BeforeValidator(_micro_batch)]


class EngineSettings(Settings, ABC):
    """The settings that every engine has, and the properties that other code asks any engine for."""

    waits: ClassVar[bool] = False
    """Whether a rehearsal communicates, so that a process that runs out of memory leaves the others waiting."""
    lighter: ClassVar[str | None] = None
    """An engine that holds less in each of several processes, as an override."""
    examined: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    """Settings beside the name with which `sivae doctor` compares it to the others."""

    precision: Precision = "fp32"
    """`fp32`: IEEE single precision. `tf32`: the same, with factors of products and convolutions rounded to 10 bits on
    GPUs that can (Ampere and later); on others it is fp32. `bf16`: autocast inside the networks, weights and losses in
    fp32. `fp64`: everything, for verification."""
    deterministic: Annotated[bool, MAY_CHANGE] = False
    """On GPUs the same steps give the same bits, at some cost in speed: what a run on a GPU needs to be resumed bit for
    bit, on GPUs of the same model that are connected alike. On CPUs they always do."""
    compile: Annotated[bool, MAY_CHANGE] = False
    """torch.compile of both objectives to one graph each, once for every resolution and again for its transition; the
    next in the background. It makes layers of a form of its own, which a run keeps unless `kernels` names another."""
    kernels: Annotated[Literal["auto", "plain", "fused", "native"], MAY_CHANGE] = "auto"
    """How layers are computed, equal but for rounding. `plain`: one operation after the other. `fused`: fewer
    operations that read, write and save less. `native`: the same, with element-wise parts in C++ on CPUs, which a
    compiler makes in a few seconds. `auto`: what `compile` makes; without it, the form that the run has been trained
    with, and at its start `native` on CPUs where there is a C++ compiler, else `fused`."""
    channels_last: bool = True
    """Memory format of weights and images; faster for convolutions on a GPU with bf16 and on a CPU."""
    max_batch_per_rank: Annotated[MicroBatch, MAY_CHANGE] = None
    """Images that one process takes at once; larger shares are accumulated in equal parts. One number, or one for each
    resolution (those left out have no limit); null: no limit; `auto`: as many as fit, found at the start."""
    rehearsal: Annotated[Literal["auto", "step", "trace", "none"], MAY_CHANGE] = "auto"
    """How the start checks that the largest step fits into memory. `step`: the step is computed and discarded.
    `trace`: its memory is estimated. `auto`: `step` on GPUs and `trace` on CPUs."""

    checkpoint_activations: Annotated[bool, MAY_CHANGE] = False
    """Recompute the activations of the largest blocks during backward instead of saving them: about a quarter less
    memory for a step's activations, for up to a third more time, and the same result."""

    @model_validator(mode="after")
    def _found_somehow(self) -> Self:
        if self.max_batch_per_rank == "auto" and self.rehearsal == "none":
            raise ValueError("max_batch_per_rank=auto needs a rehearsal: remove rehearsal=none")
        return self

    @model_validator(mode="after")
    def _fused_once(self) -> Self:
        if self.compile and self.kernels != "auto":
            raise ValueError(f"compile=true fuses the layers itself: remove kernels={self.kernels}")
        return self

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights and images."""
        return torch.float64 if self.precision == "fp64" else torch.float32

    @property
    def amp(self) -> torch.dtype | None:
        """The autocast type inside the networks."""
        return torch.bfloat16 if self.precision == "bf16" else None

    @property
    def weight_format(self) -> torch.memory_format:
        """Memory format of weights."""
        return self.map_format

    @property
    def map_format(self) -> torch.memory_format:
        """Memory format of images and feature maps."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def image_format(self, x: torch.Tensor) -> torch.memory_format:
        """Memory format of samples; shapes other than images keep theirs."""
        return torch.channels_last if self.channels_last and x.dim() == 4 else torch.preserve_format

    def parts(self, share: int, resolution: int) -> int:
        """The least number of equal micro-batches for one process's share of a batch; not before `auto` is found."""
        limits = self.max_batch_per_rank
        assert limits != "auto"
        limit = (limits.get(resolution) if isinstance(limits, dict) else limits) or share
        return next(k for k in range(1, share + 1) if share % k == 0 and share // k <= limit)

    @abstractmethod
    def held(self, whole: int, trained: int, updated: list[int], processes: int, kept: bool) -> Held:
        """Bytes that a process holds for both networks.

        `whole`: of all weights, `trained`: of those with moments, `updated`: of each network's in use. `kept`: whether
        gradients live beyond one backward.
        """

    @abstractmethod
    def communicated(self, updated: list[int], parts: int) -> Communicated:
        """Bytes that a step of both players communicates, with padding left out.

        `updated`: bytes of each network's weights in use. `parts`: micro-batches of a process.
        """


class DdpSettings(EngineSettings):
    """torch's DistributedDataParallel."""

    name: Annotated[Literal["ddp"], MAY_CHANGE] = "ddp"

    lighter: ClassVar[str | None] = "'engine={name: zero, stage: 2}'"

    def held(self, whole: int, trained: int, updated: list[int], processes: int, kept: bool) -> Held:
        # DDP's buckets stay, of both players; alone, gradients live for one player's update.
        gradients = sum(updated) if processes > 1 else max(updated) if kept else 0
        return Held(weights=2 * whole, optimizer=2 * trained, gradients=gradients)

    def communicated(self, updated: list[int], parts: int) -> Communicated:
        return Communicated(reduced=sum(updated), gathered=0)


_OWN = {
    "train_batch_size": "schedule.batch",
    "train_micro_batch_size_per_gpu": "engine.max_batch_per_rank",
    "gradient_accumulation_steps": "engine.max_batch_per_rank",
    "gradient_clipping": "optimizer.clip",
    "optimizer": "optimizer",
    "scheduler": "schedule",
    "bf16": "engine.precision",
    "fp16": "engine.precision",
    "amp": "engine.precision",
    "torch_autocast": "engine.precision",
    "zero_optimization.stage": "engine.stage",
    "zero_optimization.offload_optimizer": "engine.offload",
}
"""Keys of DeepSpeed's that other settings decide, and which."""

_FREE: dict[str, type] = {
    "allgather_bucket_size": int,
    "contiguous_gradients": bool,
    "overlap_comm": bool,
    "reduce_bucket_size": int,
    "reduce_scatter": bool,
    "stage3_max_live_parameters": int,
    "stage3_max_reuse_distance": int,
    "stage3_model_persistence_threshold": int,
    "stage3_param_persistence_threshold": int,
    "stage3_prefetch_bucket_size": int,
}
"""Keys of DeepSpeed's zero_optimization that change speed or memory, and not what is learned; and what they take."""

_BUCKET = 1 << 23
"""Elements that are sent at once: 34 MB. DeepSpeed's own 5e8 would cost each player 2 GB, more than the networks do."""

BUFFERS = 2 * 4 * _BUCKET
"""Bytes that gradients are sent through, twice so that one is filled while the other is sent."""


def _read(value: object) -> object:
    """The content of a JSON file if `value` names one; otherwise `value` itself."""
    if not isinstance(value, str | Path):
        return value
    try:
        return json.loads(Path(value).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{value} cannot be read as JSON: {error}") from None


class ZeroSettings(EngineSettings):
    """DeepSpeed's ZeRO, which divides what every process would otherwise hold a copy of."""

    name: Annotated[Literal["zero"], MAY_CHANGE] = "zero"
    stage: Annotated[Literal[0, 1, 2, 3], MAY_CHANGE] = 1
    """What is divided among the processes. 0: nothing. 1: the optimizer's state. 2: gradients too. 3: weights and
    averages too."""
    offload: Annotated[bool, MAY_CHANGE] = False
    """Keep the optimizer's state, and compute its step, on the CPU; needs stage 1 or higher."""
    deepspeed: Annotated[dict[str, Any], BeforeValidator(_read), MAY_CHANGE] = {}
    """Further keys of DeepSpeed's configuration, or a JSON file with them, which is read when the run is started."""

    waits: ClassVar[bool] = True
    examined: ClassVar[tuple[dict[str, Any], ...]] = ({"stage": 1}, {"stage": 2}, {"stage": 3})

    @property
    def weight_format(self) -> torch.memory_format:
        """DeepSpeed keeps weights in flat buffers of its own, one after the other."""
        return torch.contiguous_format

    @field_validator("deepspeed")
    @classmethod
    def _without_auto(cls, values: dict[str, Any]) -> dict[str, Any]:
        return _strip(values)

    @model_validator(mode="after")
    def _possible(self) -> "ZeroSettings":
        if self.precision == "fp64":
            raise ValueError("precision=fp64: DeepSpeed keeps the optimizer's state in fp32; use engine.name=ddp")
        if self.compile:
            raise ValueError("compile=true needs engine.name=ddp: DeepSpeed's hooks prevent torch.compile")
        if self.offload and self.stage == 0:
            raise ValueError("offload=true needs a stage from 1 to 3")
        ours = flatten(self._ours())
        for key, value in flatten(self.deepspeed).items():
            part, _, inner = key.partition(".")
            if part == "zero_optimization" and inner in _FREE:
                _check(key, value, _FREE[inner])
                continue
            if key in ours and ours[key] == value:
                continue
            whose = next((own for name, own in _OWN.items() if key == name or key.startswith(f"{name}.")), None)
            raise ValueError(
                f"deepspeed: {key} is decided by {whose}; leave it out"
                if whose
                else f"deepspeed: {key} is not one of the keys that can be passed on: "
                f"zero_optimization's {', '.join(_FREE)}"
            )
        return self

    def held(self, whole: int, trained: int, updated: list[int], processes: int, kept: bool) -> Held:
        stage, part = self.stage, lambda size: -(-size // processes)
        # From stage 1 on DeepSpeed steps a copy of the weights, divided like the moments.
        optimizer = 0 if self.offload else part(2 * trained + sum(updated)) if stage else 2 * trained
        return Held(
            # Stage 3 gathers layers as they are passed through, and most stay until the step.
            weights=whole + part(2 * whole) if stage == 3 else 2 * whole,
            optimizer=optimizer,
            gradients=part(max(updated)) + BUFFERS if stage >= 2 else max(updated) + (BUFFERS if stage else 0),
        )

    def communicated(self, updated: list[int], parts: int) -> Communicated:
        stage, used = self.stage, sum(updated)
        # From stage 2 on no process keeps the whole gradient from one micro-batch to the next. Stage 3 gathers weights
        # for passes, those of both networks at least once in each player's turn.
        gathered = (0, used, used, 2 * used * parts)[stage]
        return Communicated(reduced=used * parts if stage >= 2 else used, gathered=gathered)

    def configuration(self, clip: float | None) -> dict[str, Any]:
        """DeepSpeed's configuration, with the user's keys merged in."""
        ours = self._ours()
        zero = ours["zero_optimization"] | self.deepspeed.get("zero_optimization", {})
        return ours | {"gradient_clipping": clip or 0.0, "zero_optimization": zero}

    def _ours(self) -> dict[str, Any]:
        zero: dict[str, Any] = {
            "stage": self.stage,
            "allgather_bucket_size": _BUCKET,
            "memory_efficient_linear": False,  # it would replace torch's own for everybody in the process
            "reduce_bucket_size": _BUCKET,
            "stage3_prefetch_bucket_size": _BUCKET,
        }
        if self.offload:
            zero["offload_optimizer"] = {"device": "cpu"}
        return {
            "train_micro_batch_size_per_gpu": 1,  # for its own reports of speed
            "gradient_accumulation_steps": 1,  # the engine says itself which backward is the last
            "steps_per_print": None,
            "timers": {"throughput": {"enabled": False}},  # it would wait for the device in every pass
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # it would compile one of its own, which has no guarded step
            "zero_optimization": zero,
        }


def _check(key: str, value: Any, kind: Any) -> None:
    if type(value) is not kind or value < 0:
        raise ValueError(
            f"deepspeed: {key} must be {'true or false' if kind is bool else 'a whole number'}, not {value!r}"
        )


def _strip(values: dict[str, Any]) -> dict[str, Any]:
    """The values without those that are "auto", as in configurations for other trainers: they mean whatever we set."""
    kept = {key: _strip(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in kept.items() if value != "auto"}


ENGINES: Registry[type[EngineSettings]] = Registry("engine", {"ddp": DdpSettings, "zero": ZeroSettings})

USUAL_ENGINE = "ddp"
"""The default."""

AnyEngine = Annotated[EngineSettings, one_of(ENGINES, default=USUAL_ENGINE)]
