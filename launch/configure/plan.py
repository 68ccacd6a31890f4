"""Chooses the resolution and length of a run for the available time, and all settings that depend on them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_pipelines.images.mirroring import why_not_mirrored
from launch.configure.hardware import Hardware
from launch.configure.recipes import FEW, Name, Recipe
from sivae_dist.evaluation.extractors import EXTRACTORS
from sivae_dist.evaluation.metrics import METRICS, USUAL_METRICS, Features, Metric, Need, Reconstructions, Trained
from sivae_dist.evaluation.settings import EvaluationSettings

if TYPE_CHECKING:
    from data_pipelines.images.manifest import Manifest
    from launch.configure.speed import Speed, Traced
    from sivae_dist.config.run_settings import RunSettings

HOURS = {"cpu": 8.0, "cuda": 48.0}
"""Default time limit of a run: a night, a weekend."""

_ENOUGH = {"narrow": 0.6, "paper": 0.75}
"""Minimum share of a recipe's images that justifies a larger resolution."""
_NARROW_UP_TO = 128


@dataclass(frozen=True)
class Plan:
    """A run for a data set on some hardware."""

    data: str
    manifest: "Manifest"
    hardware: Hardware
    recipe: Recipe
    images: dict[int, int]
    warmup: int
    seconds: float
    """Expected duration of the whole run."""
    factor: float
    """Ratio of its images to the recipe's."""
    micro: dict[int, int]
    """Images that one process handles at once, for resolutions at which its share does not fit."""
    fid: bool
    """Whether the weights for FID are here."""

    @property
    def total(self) -> int:
        return sum(self.images.values())

    @property
    def flip(self) -> tuple[bool, str]:
        """data.flip, and why."""
        reason = why_not_mirrored(self.manifest)
        return reason is None, reason or "mirrored images are equally valid; set false for digits, text, maps"

    def every(self, parts: int) -> int:
        """A round number of images, at least a step, that divides the run into about `parts` parts."""
        raw = max(self.total / parts, max(self.recipe.batches().values()))
        unit = 10 ** max(0, math.floor(math.log10(raw)))
        return int(max(unit, round(raw / unit) * unit))

    @property
    def evaluation(self) -> dict[str, Any]:
        """Settings of evaluation: of reconstructions if images are held out, and FID if its weights are here."""
        metrics = [name for name in USUAL_METRICS if self._can_measure(METRICS[name])]
        if self.measures_features:
            return {
                "every": self.every(20),
                "metrics": metrics,
                "samples": min(50_000, max(2_000, self.manifest.train)),
            }
        return {"every": self.every(10), "metrics": metrics, "test_samples": 500} if metrics else {}

    @property
    def measures_features(self) -> bool:
        """Whether features of samples and real images are compared, which takes hours on CPUs."""
        return self.hardware.kind == "cuda" and self.fid

    def _can_measure(self, metric: type[Metric]) -> bool:
        unmet: set[Need] = {Trained}  # a need of metrics of other data than images
        if not self.measures_features:
            unmet.add(Features)
        if not self.manifest.test:
            unmet.add(Reconstructions)
        return unmet.isdisjoint(metric.needs)

    @property
    def engine(self) -> dict[str, Any]:
        """Settings of the engine on GPUs."""
        micro: dict[str, Any] = {"max_batch_per_rank": "auto" if self.hardware.here else self.micro}
        return {"precision": "tf32", **(micro if self.micro else {})}

    def values(self) -> dict[str, Any]:
        """The configuration."""
        paper, cpu = self.recipe.name == "paper", self.hardware.kind == "cpu"
        threads = 1 if cpu else 4
        rate = 0.0015 if paper else 0.001
        checkpoint: dict[str, Any] = {"every": self.every(50)}
        evaluation = self.evaluation
        if self.measures_features:
            best = next(name for name in evaluation["metrics"] if Features in METRICS[name].needs)
            checkpoint |= {"keep_best": 1, "best_metric": f"evaluation/{best}"}
        last = 0.17 if paper else 0.2
        return {
            "device": self.hardware.kind,
            "data": {"path": self.data, "flip": self.flip[0], "threads": threads},
            "model": self.recipe.model,
            "objective": {**self.recipe.objective, "warmup": self.warmup},
            "schedule": {
                "images": self.images,
                "blend": {r: last if r == self.recipe.resolution else 0.5 for r in self.images} if paper else 0.2,
                "blend_curve": "cosine" if paper else "linear",
                "batch": self.recipe.batches(),
                "lr_encoder": rate,
                "lr_decoder": rate,
                **({"reset_optimizer": True} if paper else {"final_decay": 0.5, "final_lr": 0.05}),
            },
            "ema": {"half_life": 10_000 if paper else min(2_000, self.every(35))},
            **({} if cpu else {"engine": self.engine}),
            "checkpoint": checkpoint,
            "monitoring": {"scalars_every": self.every(200), "images_every": self.every(20)},
            **({"evaluation": evaluation} if evaluation else {}),
        }


def settings_of(recipe: Recipe) -> "RunSettings":
    """Settings with a recipe's networks and objective, and an arbitrary schedule."""
    from sivae_dist.config.run_settings import validate

    return validate(
        {
            "data": {"path": "unused"},
            "model": recipe.model,
            "objective": recipe.objective,
            "schedule": {"images": 1000, "batch": recipe.batches()},
        },
        "recipe",
    )


def make_plan(
    data: str,
    manifest: "Manifest",
    hardware: Hardware,
    resolution: int | None,
    hours: float | None,
    say: Callable[[str], None],
) -> Plan:
    """ValueError when the data set has no such resolution, or nothing fits."""
    hours = hours or HOURS[hardware.kind]
    sizes = sorted(r for r in manifest.levels if r <= 1024)
    if resolution is not None and resolution not in sizes:
        raise ValueError(f"--resolution {resolution}: {data} has {', '.join(map(str, sizes))} px")
    first: Name = "narrow" if hardware.kind == "cpu" or manifest.train < FEW else "paper"
    best = _fitted(first, manifest, hardware, resolution, sizes, hours, say)
    if first == "paper" and best[2] < _ENOUGH[first] / 2:
        say("too little time for the paper's networks: using the narrow ones of configs/demo.yaml")
        best = _fitted("narrow", manifest, hardware, resolution, sizes, hours, say)
    recipe, speed, factor, traced = best
    images = recipe.images(factor)
    warmup = recipe.warmup(images)
    shares = {r: batch // hardware.processes for r, batch in recipe.batches().items()}
    micro = {r: _divisor(shares[r], traced.largest[r]) for r in shares if traced and traced.largest[r] < shares[r]}
    return Plan(
        data,
        manifest,
        hardware,
        recipe,
        images,
        warmup,
        speed.seconds(recipe, images, warmup),
        factor,
        micro,
        _has_weights(),
    )


def _divisor(share: int, most: int) -> int:
    """The largest divisor of a share that fits."""
    return max(part for part in range(1, most + 1) if share % part == 0)


def _has_weights() -> bool:
    """Whether FID can be measured without a download."""
    usual = EvaluationSettings()
    return EXTRACTORS[usual.extractor](usual).at_hand()


def _fitted(
    name: Name,
    manifest: "Manifest",
    hardware: Hardware,
    resolution: int | None,
    sizes: list[int],
    hours: float,
    say: Callable[[str], None],
) -> "tuple[Recipe, Speed, float, Traced | None]":
    """The recipe at the largest resolution that fits into the time, with its speed and the factor on its images."""
    most = _NARROW_UP_TO if name == "narrow" else 1024
    least = 8 if name == "narrow" else 64
    choices = [resolution] if resolution else [r for r in sizes if least <= r <= most] or sizes[-1:]
    if resolution and name == "narrow" and resolution > most:
        raise ValueError(
            f"--resolution {resolution} is too much for {hardware.name} or for {manifest.train:,} images: "
            f"choose at most {most}, or GPUs with --hardware"
        )
    known = None
    for choice in reversed(choices):
        recipe = Recipe(name, choice, manifest.channels, manifest.train, hardware.processes)
        if known is None or name == "narrow":  # the paper's width at a resolution does not depend on the final one
            known = _speed(recipe, hardware, hours, say)
        speed, traced = known
        images = recipe.images(1.0)
        factor = hours * 3600 / speed.seconds(recipe, images, recipe.warmup(images))
        if factor >= _ENOUGH[name]:
            break
    return recipe, speed, min(factor, recipe.most), traced


def _speed(
    recipe: Recipe, hardware: Hardware, hours: float, say: Callable[[str], None]
) -> "tuple[Speed, Traced | None]":
    """The speed of its steps, and for GPUs the traced memory."""
    from launch.configure import speed

    settings = settings_of(recipe)
    traced = speed.trace(recipe, settings, hardware, say) if hardware.kind == "cuda" else None
    if hardware.here:
        return speed.measure(recipe, settings, hardware, min(15.0, max(2.0, hours * 180)), say), traced
    assert traced is not None
    return speed.expect(recipe, hardware, traced), traced
