"""The evaluations of a run in training, and those that a request to stop put off until the next start."""

from time import perf_counter
from typing import TYPE_CHECKING

from data_pipelines.dataset import Dataset
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.evaluation.rows import tag
from sivae_dist.models import Stage
from sivae_dist.monitoring.monitor import Monitor
from sivae_dist.process import startup, watchdog
from sivae_dist.process.processes import on_first
from sivae_dist.process.stopping import Stop
from sivae_dist.train.players import Players
from sivae_dist.use.pretrained import Pretrained

if TYPE_CHECKING:
    from sivae_dist.evaluation.evaluator import Evaluator


class Evaluations:
    """All processes call all methods together."""

    def __init__(
        self, settings: RunSettings, players: Players, data: Dataset, stop: Stop, monitor: Monitor, owed: Stage | None
    ) -> None:
        """`owed`: as the attribute. Loads nothing when a run is not evaluated."""
        self.settings = settings
        self.players = players
        self.monitor = monitor
        self.owed = owed
        """The stage of an evaluation that was put off where the run stands."""
        self._evaluator = self._load(data, stop) if settings.evaluation.every else None

    def _load(self, data: Dataset, stop: Stop) -> "Evaluator":
        startup.doing("loading the evaluation")
        from sivae_dist.evaluation.evaluator import Evaluator  # takes seconds
        from sivae_dist.evaluation.progress import Progress

        say = self.monitor.say
        evaluator = Evaluator(self.settings.evaluation, data, data.device, say, Progress(stop, say).tick)
        if problem := evaluator.prepare():
            say(f"warning: {problem}; without it training continues and the other metrics are measured")
        return evaluator

    def take(self, stage: Stage, images: int, *, put_off: bool) -> dict[str, float] | None:
        """Values by tag after `images` images; None when they are put off, or any process was asked to stop."""
        values = None if put_off else self._measure(stage, images)
        self.owed = stage if values is None else None
        return values

    def make_up(self, images: int) -> bool:
        """Measures what is owed, unless an attempt that was killed has done so; False when asked to stop."""
        owed = self.owed
        if owed is not None and not on_first(self.monitor.is_evaluated) and self._measure(owed, images) is None:
            return False
        self.owed = None
        return True

    def _measure(self, stage: Stage, images: int) -> dict[str, float] | None:
        """Measures the current networks; None when any process was asked to stop."""
        from sivae_dist.evaluation.progress import StoppedError

        assert self._evaluator is not None
        watchdog.expect(slow=True)
        start = perf_counter()
        live = self.settings.evaluation.live
        try:
            with self.players.whole(live=live) as networks:
                rows = self._evaluator.evaluate(Pretrained(self.settings.model, *networks, stage, images, live))
        except StoppedError:
            return None
        self.monitor.evaluated(images, rows, perf_counter() - start)
        watchdog.expect()
        return {tag(row): row["value"] for row in rows}
