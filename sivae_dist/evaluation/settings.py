"""Settings of the evaluation: metrics, when they are measured, and against which images."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from data_pipelines.choices import name_in
from data_pipelines.dataset import Dataset
from data_pipelines.settings import expand
from sivae_dist.evaluation.extractors import EXTRACTORS, USUAL_EXTRACTOR
from sivae_dist.evaluation.metrics import METRICS, USUAL_METRICS, Need
from sivae_dist.published import check_hexadecimal
from sivae_dist.settings import Images, Settings


class EvaluationSettings(Settings):
    every: Images = 0
    """Images between evaluations in training, with one more at the end; 0 for none."""
    metrics: tuple[Annotated[str, name_in(METRICS)], ...] | None = None
    """Of images `fid` and `kid` of samples, with an extractor, and `psnr`, `ssim`, `mse`, `vgg_distance` and
    `vgg_random_distance` of reconstructions of the test split. Of points in the plane `gnelbo`, `kl_official`,
    `jsd_official`, `kl_histogram` and `jsd_histogram`, and `modes` and `high_quality` where they are a mixture of
    Gaussians. Of image translation `content_transfer`, `content_transfer_vgg`, `content_transfer_vgg_random`,
    `class_from_content` and `content_from_class`, where they are asked for. And metrics that were added
    (docs/evaluation.md). null: all of these that the data have what it takes for, except kid and the perceptual
    distances."""
    samples: int = Field(50_000, ge=2)
    """Number of samples drawn, for metrics of images that need them."""
    reference: Literal["train", "test", "all"] = "train"
    """The real images that samples are compared with."""
    reference_samples: Annotated[int, Field(ge=2)] | None = None
    """Use only this many of them, from the first; null for all."""
    extractor: Annotated[str, name_in(EXTRACTORS)] = USUAL_EXTRACTOR
    """`inception-v3-compat`: torch-fidelity's port of the Inception network of 2015, whose weights file is needed.
    `inception-v3-random`: the same with random weights of a fixed seed at 139 px, which needs no file."""
    layer: Literal["64", "192", "768", "2048"] = "2048"
    """Dimensions of the features."""
    weights: str | None = None
    """The file of weights of `inception-v3-compat`; `~` and `$VARIABLES` are replaced. By default torch's hub cache
    (`$TORCH_HOME/hub/checkpoints`), into which it is downloaded if possible."""
    sha256: Annotated[str | None, AfterValidator(check_hexadecimal)] = None
    """Checksum of `weights`, or its first digits, if they deliberately differ from those of 2015."""
    test_samples: Annotated[int, Field(ge=1)] | None = None
    """Reconstruct only this many images of the test split, from the first; null for all."""
    batch: int = Field(50, ge=1)
    """Images per batch and process."""
    seed: int = 0
    """Seed of the samples' latents."""
    live: bool = False
    """Evaluate the networks as they are instead of their moving averages."""
    cache: str | None = None
    """Folder of the real images' statistics, which are computed once for all runs; `~` and `$VARIABLES` are replaced.
    By default `sivae-evaluation` in `$XDG_CACHE_HOME` or `~/.cache`."""

    @field_validator("metrics", mode="before")
    @classmethod
    def _separated(cls, value: object) -> object:
        """`fid,psnr` is a list as well, which needs no brackets that a shell might take for its own."""
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    def chosen(self, data: Dataset) -> tuple[str, ...]:
        """The names of the metrics to measure. ValueError for one that is not for such data, and when none is."""
        possible = [name for name, metric in METRICS.items() if metric.lacks(data) is None]
        names = tuple(name for name in USUAL_METRICS if name in possible) if self.metrics is None else self.metrics
        here = f"those for {data.where} are {', '.join(possible)}" if possible else f"none is for {data.where}"
        for name in names:
            if lacking := METRICS[name].lacks(data):
                raise ValueError(f"evaluation.metrics: {name} is measured on {lacking}; {here}")
        if not names:
            raise ValueError(f"evaluation.metrics: there is nothing to measure; {here}")
        return names

    def check_groups(self, groups: Collection[str]) -> None:
        """ValueError when a metric that is asked for is about other groups of z than a model has."""
        for name in self.metrics or ():
            if missing := [group for group in METRICS[name].groups if group not in groups]:
                raise ValueError(
                    f"evaluation.metrics: {name} is about codes of {' and '.join(missing)}, which this model does not "
                    "have; a model of image translation has"
                )

    def needs(self, need: Need, data: Dataset) -> bool:
        """Whether any metric has this need. ValueError as `chosen`."""
        return any(need in METRICS[name].needs for name in self.chosen(data))

    def reported(self, data: Dataset) -> list[str]:
        """The names of all values as far as they are known without the extractor's weights: their beginnings."""
        label = EXTRACTORS[self.extractor](self).label
        return [METRICS[name].reported(name, label).removesuffix("]") for name in self.chosen(data)]

    @property
    def folder(self) -> Path:
        if self.cache is not None:
            return Path(expand(self.cache))
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sivae-evaluation"
