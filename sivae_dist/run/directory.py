"""A run's directory, the contract between training and everything that looks at it.

RUN/config.yaml        the settings as resolved
RUN/checkpoints/       see sivae_dist/checkpoint
RUN/tensorboard/       events
RUN/metrics.jsonl      what follows from settings and seed
RUN/speed.jsonl        what follows from the machine
RUN/evaluation.jsonl   FID and other values, each with what it follows from
RUN/figures/           pictures: curves.png, and whatever commands are asked to draw there
RUN/figures/training/  NAME-IMAGES.png, the image grids of training; see monitoring/grids.py
RUN/micro_batches.json  what engine.max_batch_per_rank=auto has found, and on which hardware
RUN/trace.jsonl        what stood at every position (monitoring.trace)
RUN/logs/              what each process printed (launch/record.py has what jobs add)
RUN/logs/failure.txt   how the last attempt failed: the traceback of the process that failed first
RUN/logs/stacks-N.txt  where the threads of process N were when it was found hanging
RUN/logs/evaluate/     the same of `sivae evaluate`
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.images.transport import is_elsewhere
from sivae_dist.config.prolonging import continued
from sivae_dist.config.run_settings import RunSettings, read_settings
from sivae_dist.run.ends import Logs
from sivae_dist.run.ownership import owner_of
from sivae_dist.run.progress import saved_images

_NAMES = frozenset(
    {"checkpoints", "tensorboard", "figures", "logs", "code"}
    | {f"{name}.jsonl" for name in ("metrics", "speed", "evaluation", "trace", "jobs", "starts")}
    | {"micro_batches.json"}
)
"""What a run's directory may hold before it has a config.yaml."""


@dataclass(frozen=True)
class RunDirectory:
    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def speed(self) -> Path:
        return self.path / "speed.jsonl"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def grids(self) -> Path:
        return self.figures / "training"

    @property
    def curves(self) -> Path:
        return self.figures / "curves.png"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.jsonl"

    @property
    def trace(self) -> Path:
        return self.path / "trace.jsonl"

    @property
    def micro_batches(self) -> Path:
        return self.path / "micro_batches.json"

    @property
    def logs(self) -> Logs:
        """Of training."""
        return Logs(self.path / "logs")

    @property
    def evaluation_logs(self) -> Logs:
        """Of `sivae evaluate`, which may run while the run is trained."""
        return Logs(self.path / "logs" / "evaluate")

    def settings(self, overrides: Sequence[str] = ()) -> RunSettings:
        """The settings of the run, with `key=value` overrides applied. ValueError when this is no run."""
        if not self.config.is_file():
            raise ValueError(f"{self.path} is not a run: it has no config.yaml")
        return read_settings(self.config, overrides)

    def continued(self, settings: RunSettings, train_samples: int | None = None) -> tuple[RunSettings, list[str]]:
        """The settings with which this run is begun or continued when these are asked for, and what to note of them.

        `train_samples` is the length of an epoch, for a schedule in epochs. ValueError naming the keys when a change
        would contradict what the run has already done, or the directory is no place for a run. Nothing is written.
        """
        settings = settings.located()
        if not self.config.exists():
            self._check_place(settings)
            return settings, []
        return continued(self.path, self.settings().located(), settings, saved_images(self.path), train_samples)

    def _check_place(self, settings: RunSettings) -> None:
        """ValueError for a directory that holds other things than a run, or is part of the data set."""
        for place in (self.path, *self.path.absolute().parents):
            if place.exists():
                if not place.is_dir():
                    raise ValueError(f"{place} is a file, and a run needs a directory: choose another --run-dir")
                break
        path, data = self.path.resolve(), Path(settings.data.path).resolve()
        if not is_elsewhere(settings.data.path) and path.is_relative_to(data):
            raise ValueError(f"{self.path} is in the data set {data}: choose another --run-dir")
        if self.path.is_dir():
            foreign = [entry.name for entry in self.path.iterdir() if entry.name not in _NAMES]
            foreign = [name for name in sorted(foreign) if not name.startswith(".")]
            if foreign:
                raise ValueError(
                    f"{self.path} is not empty and not a run: it holds {', '.join(foreign[:3])}"
                    f"{', ...' if len(foreign) > 3 else ''}; choose another --run-dir"
                )

    def open(self, settings: RunSettings, train_samples: int | None = None) -> list[str]:
        """Begins or continues a run with these settings and records them; returns what to note of what has changed.

        ValueError as `continued`, and when the run is being trained.
        """
        if owner := owner_of(self.path):
            raise ValueError(f"{self.path} is being trained by {owner}")
        settings, notes = self.continued(settings, train_samples)
        self.path.mkdir(parents=True, exist_ok=True)
        partial = self.path / ".config.yaml.partial"
        partial.write_text(settings.to_yaml())
        partial.rename(self.config)
        return notes
