"""When a run is saved, which of its checkpoints stay, and where a new run's weights come from."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from data_pipelines.settings import expand
from sivae_dist.run.terms import RECONSTRUCTION
from sivae_dist.settings import Images, Settings


class CheckpointSettings(Settings):
    every: Images = 100_000
    """Images between two checkpoints; 0 saves at the end of the run only."""
    keep: int = Field(2, ge=2)
    """Number of newest checkpoints that stay; at least 2, as a machine's failure may damage the newest."""
    keep_every: Images = 0
    """Images between checkpoints that stay for good; 0 for none."""
    keep_best: int = Field(0, ge=0)
    """Number of best checkpoints that stay, by `best_metric`. If greater than 0, every evaluation saves one too."""
    best_metric: str = RECONSTRUCTION
    """A value of metrics.jsonl (the last row before a checkpoint), or of the evaluation at a checkpoint
    (`evaluation/fid`). Of two resolutions the larger one is better, whatever the values."""
    best_mode: Literal["min", "max"] = "min"
    """Whether the smallest or the largest value of `best_metric` is best."""
    background: bool = True
    """Write while training continues. The checkpoint is the same either way."""
    max_failures: int = Field(3, ge=1)
    """Consecutive failed saves that stop the run; until then the next checkpoint tries again."""

    def most_kept(self, images: int) -> int:
        """Checkpoints of a run of so many images that lie on disk at once at most, with one that is being written."""
        for_good = images // self.keep_every if self.keep_every else 0
        saves = images // self.every if self.every else 0
        return min(self.keep + self.keep_best + for_good, saves + self.keep_best + 1) + 1


class InitSettings(Settings):
    run: Path | None = None
    """Another run or one of its checkpoints. Its networks and averages are used; progress and optimizer start anew."""
    weights: Path | None = None
    """A safetensors file with `encoder.NAME` and `decoder.NAME`; the averages begin as copies."""

    @field_validator("run", "weights")
    @classmethod
    def _expanded(cls, path: Path | None) -> Path | None:
        return None if path is None else Path(expand(str(path)))

    @model_validator(mode="after")
    def _one(self) -> "InitSettings":
        if self.run is not None and self.weights is not None:
            raise ValueError("init.run and init.weights cannot both be given")
        return self
