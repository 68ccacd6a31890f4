"""The training loop: iterations (iteration.py) over a growing pair of networks."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from data_pipelines.dataset import Dataset, Needs, Request
from data_pipelines.stages import pixels
from sivae_dist.config.prolonging import what_next
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.models import ModelSettings
from sivae_dist.monitoring.monitor import Monitor
from sivae_dist.monitoring.trace import Trace
from sivae_dist.process import startup, watchdog
from sivae_dist.process.processes import mean_over_processes, rank, world_size
from sivae_dist.process.stopping import Stop
from sivae_dist.run.directory import RunDirectory
from sivae_dist.step.guard import Guard, NonFiniteError
from sivae_dist.step.quarantine import Quarantine
from sivae_dist.step.schedule import Schedule, Segment, Step, crosses
from sivae_dist.train.ahead import Ahead
from sivae_dist.train.checkpoints import Checkpoints, Standing
from sivae_dist.train.evaluations import Evaluations
from sivae_dist.train.iteration import Iteration
from sivae_dist.train.players import Players
from sivae_dist.train.preview import preview
from sivae_dist.train.rehearsal import Rehearsal


class Trainer:
    """One process of a run. All processes build the same one; what they do not share is their slice of every batch."""

    images: int
    """Seen so far."""
    _phase: int | None
    _segment: Segment | None

    def __init__(
        self, settings: RunSettings, run: RunDirectory, device: torch.device, stop: Stop | None = None
    ) -> None:
        self.settings = settings
        self.run = run
        self.device = device
        self.stop = stop or Stop()
        self.stop.join()
        startup.doing(f"opening {settings.data.where}")
        self.data = settings.data.open(settings.seed, device)
        check_data(settings, self.data)
        self.schedule = make_schedule(settings, self.data.train)
        self.schedule.check_world_size(world_size())
        startup.doing("building the networks")
        self.players = Players(settings, device)
        self.guard = Guard(settings.guard, device)
        self.quarantine = Quarantine(self.data)
        self.checkpoints = Checkpoints(settings, run, self.data, self.players, self.guard, self.quarantine, device)
        standing, warnings = self.checkpoints.begin()
        self._stand_at(standing)
        self.monitor = Monitor(
            run, settings.objective, self.schedule, self.images, standing.metrics, speaks=rank() == 0
        )
        self._warn(warnings)
        for line in (standing.origin, *self.checkpoints.start_lines):
            self.monitor.say(line)
        if self.images == 0:
            self.monitor.text("config", f"```\n{settings.to_yaml()}\n```", 0)
        startup.doing("opening the images")
        self.data.start()
        self.evaluations = Evaluations(settings, self.players, self.data, self.stop, self.monitor, standing.owed)
        self.trace = Trace(run.trace, self.images, self.data.order) if settings.monitoring.trace else None
        self.iteration = Iteration(settings, self.players, self.guard, device, self.trace)
        self.ahead = Ahead(settings, run.path, self.schedule, device) if settings.engine.compile else None

    def train(self) -> bool:
        """Trains from where the run stands to its end and returns True, or until it is asked to stop and returns False.

        NonFiniteError, SampleError or OSError end it; what is saved stays valid.
        """
        already = self._is_over()
        if self.images < self.schedule.total:
            startup.doing("rehearsing a checkpoint")
            self.checkpoints.saver.rehearse(self.players.tensors(), self.players.full_size)
            startup.doing("rehearsing the largest step")
            draw, say = self.iteration.draw, self.monitor.say
            rehearsal = Rehearsal(self.settings, self.schedule, self.players, self.device, draw, say)
            self.iteration.engine = rehearsal.fitted(self.images, self.run.micro_batches)
        stopped = not self.evaluations.make_up(self.images)
        while self.images < self.schedule.total and not stopped:
            try:
                stopped = self._take_steps()
            except NonFiniteError as error:
                self._roll_back(error)
                stopped = not self.evaluations.make_up(self.images)
        watchdog.expect(slow=True)
        self.checkpoints.saver.wait()
        self._report_saves()
        self.checkpoints.saver.check()
        if not self._is_over():
            return False
        if not already and self.settings.monitoring.images_every:
            self.monitor.draw_curves()
        startup.done()
        self.monitor.say(what_next(self.monitor.run.path, self.settings, self.schedule, already=already))
        return True

    def _is_over(self) -> bool:
        return self.images >= self.schedule.total and self.evaluations.owed is None

    def _take_steps(self) -> bool:
        """Steps to the end, or until any process is asked to stop, which is True."""
        every, measuring, saving = self.settings.monitoring, self.settings.evaluation, self.settings.checkpoint
        batches = self.data.batches(self._requests())
        for step, batch in zip(self.schedule.steps(self.images), batches, strict=True):
            self.stop.vote()
            self.quarantine.vote(batch)
            self._enter(step)
            terms = self.iteration.take(step, batch)
            last = step.end >= self.schedule.total
            stopped = self.stop.decided()
            logged = last or crosses(step, every.scalars_every)
            measured = crosses(step, measuring.every) or (last and measuring.every > 0)
            saved = last or stopped or crosses(step, saving.every) or (measured and saving.keep_best > 0)
            # On other devices than a CPU, checking every step would make the host wait for the device.
            if self.device.type == "cpu" or logged or saved or measured:
                if message := self.guard.check(step):
                    self.monitor.say(message)
            self._warn(self.quarantine.check())
            self.players.average(step.batch)
            self.images = step.end
            if logged:
                self._log(step, terms)
            if crosses(step, every.images_every) or (last and every.images_every):
                self._log_images(step)
            values: dict[str, float] | None = {}
            if measured:
                values = self.evaluations.take(self.iteration.stage(step), step.end, put_off=stopped)
                stopped = stopped or values is None
            if saved or stopped:
                watchdog.expect(slow=True)  # a save before it may not be done
                self.checkpoints.save(step, values, self.monitor)
                watchdog.expect()
            self._report_saves()
            startup.done()
            self.monitor.step(step)
            if stopped:
                return True
        return False

    def _requests(self) -> Iterator[Request]:
        """This process's slice of every batch to come."""
        for step in self.schedule.steps(self.images):
            share = step.batch // world_size()
            first, inputs = step.position + rank() * share, self.settings.model.inputs
            yield Request(first, share, step.phase.resolution, inputs)

    def _enter(self, step: Step) -> None:
        """Prepares both players whenever what is static in a step changes."""
        watchdog.expect(slow=step.segment != self._segment)
        if self._phase not in (None, step.phase.index) and self.settings.schedule.reset_optimizer:
            self.players.reset_optimizers()
        self._phase = step.phase.index
        if step.segment != self._segment:
            compiled = ", which compiles" if self.settings.engine.compile else ""
            startup.doing(f"taking the first step{pixels(step.phase.resolution, ' at ')}{compiled}")
            self._segment = step.segment
            for line in self.ahead.wait(step.segment) if self.ahead is not None else ():
                self.monitor.say(line)
            self.players.prepare(step.segment)
        elif self.ahead is not None:
            self.ahead.start(step, self.iteration.engine)

    def _log(self, step: Step, terms: dict[str, Tensor]) -> None:
        values = mean_over_processes(torch.stack([value.double() for value in terms.values()])).tolist()
        row = dict(zip(terms, values, strict=True))
        if self.settings.guard.policy == "skip":
            row["guard/skipped_steps"] = int(self.guard.skipped)
        self.monitor.scalars(step, row, self.data, self.quarantine.total, self.device)

    def _log_images(self, step: Step) -> None:
        stage, here = self.iteration.stage(step), self.monitor.speaks
        self.monitor.images(step, preview(self.settings, self.players, self.data, stage, here=here))

    def _report_saves(self) -> None:
        for outcome in self.checkpoints.saver.ended():
            self.monitor.saved(outcome.images, outcome)

    def _warn(self, messages: Iterable[str]) -> None:
        for message in messages:
            self.monitor.say(f"warning: {message}")

    def _stand_at(self, standing: Standing) -> None:
        self.images = standing.images
        self._phase = standing.phase
        self._segment = None

    def _roll_back(self, error: NonFiniteError) -> None:
        """Goes back to the newest checkpoint; raises `error` when that is not asked for, not possible, or no help."""
        if not self.guard.returns(self.images):
            raise error
        watchdog.expect(slow=True)
        standing, warnings = self.checkpoints.go_back()
        if standing is None:
            raise error
        self._stand_at(standing)
        self.evaluations.owed = standing.owed
        self.monitor.rewind(standing.images, standing.metrics)
        self._warn([*warnings, f"{error}; {standing.origin}"])

    def close(self) -> None:
        """Ends threads, processes and files. A checkpoint that is being written is finished first."""
        if self.ahead is not None:
            self.ahead.close()
        self.checkpoints.saver.close()
        self.data.close()
        self.monitor.close()
        if self.trace is not None:
            self.trace.close()


def make_schedule(settings: RunSettings, train: int) -> Schedule:
    """`train`: samples per epoch."""
    return Schedule(settings.schedule, settings.model.resolutions, train, settings.objective.warmup_images)


def check_data(settings: RunSettings, data: Dataset) -> None:
    """ValueError when the data set cannot feed the model, or lacks a package, or contradicts what the settings say of
    it; they must be fitted to one."""
    model = settings.fitted(data).model
    if not settings.model.is_fitted:
        raise ValueError(f"the settings do not name the classes of {data.where}: begin the run by prepare_run")
    data.check(needs_of(model))


def needs_of(model: ModelSettings) -> Needs:
    """What a fitted model asks of a data set."""
    return Needs({stage: tuple(model.shape(stage)) for stage in model.resolutions}, model.classes, model.inputs)
