"""A run's directory, the contract between training and everything that looks at it.

RUN/config.yaml        the settings as resolved
RUN/checkpoints/       see sivae_dist/checkpoint
RUN/tensorboard/       events
RUN/metrics.jsonl      what follows from settings and seed
RUN/speed.jsonl        what follows from the machine
RUN/figures/           pictures
RUN/logs/              what each process printed
"""

from dataclasses import dataclass
from pathlib import Path

from sivae_dist.config import RunSettings, changes_the_past, differences, read_yaml, validate


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
    def logs(self) -> Path:
        return self.path / "logs"

    def settings(self) -> RunSettings:
        """The settings of the run. ValueError when this is no run."""
        if not self.config.is_file():
            raise ValueError(f"{self.path} is not a run: it has no config.yaml")
        return validate(read_yaml(self.config), str(self.config))

    def open(self, settings: RunSettings) -> list[str]:
        """Begins or continues a run with these settings and records them; returns the keys that changed meanwhile.

        ValueError naming the keys when a change would contradict what the run has already done.
        """
        changed: list[str] = []
        if self.config.exists():
            changed = differences(self.settings().plain(), settings.plain())
            refused = [key for key in changed if changes_the_past(key)]
            if refused and any(self.checkpoints.glob("images-*")):
                raise ValueError(
                    f"{self.path} was begun with other settings ({', '.join(refused)}); "
                    "continue it with the same, or choose another --run-dir"
                )
        self.path.mkdir(parents=True, exist_ok=True)
        partial = self.path / ".config.yaml.partial"
        partial.write_text(settings.to_yaml())
        partial.rename(self.config)
        return changed
