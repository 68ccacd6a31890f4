"""Checks before the first step of a run that its largest step fits into memory, and finds micro-batches that fit.

On a GPU the step is rehearsed: forward and backward of both players with zeros for images, and no step. On a CPU, where
a process that asks for too much is not refused but killed, the step is traced (memory.py) and compared with the memory
that is available.
"""

import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from data_pipelines.stages import pixels
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.engines.settings import EngineSettings
from sivae_dist.models import Cond, Stage
from sivae_dist.models.stage import blend_real
from sivae_dist.objectives import Draws
from sivae_dist.process import startup, watchdog
from sivae_dist.process.host import host_memory, resident
from sivae_dist.process.processes import everyone, on_first, rank, world_size
from sivae_dist.run.atomic import write_text
from sivae_dist.step.schedule import Schedule, Step
from sivae_dist.train.memory import estimate, feature_values, remedy, surely_fits
from sivae_dist.train.players import Players

_KEPT_FREE = 0.9
"""Share of a CPU's free memory that `auto` uses: an estimate may be wrong, and other programs come and go."""


class Rehearsal:
    """Run by all processes together, with the same result: the smallest micro-batch of any process decides."""

    def __init__(
        self,
        settings: RunSettings,
        schedule: Schedule,
        players: Players,
        device: torch.device,
        draw: Callable[[Step, int, int], Draws],
        say: Callable[[str], None],
    ) -> None:
        """`draw(step, first, count)` as in training; `say` prints a line to the terminal."""
        self.settings = settings
        self.engine = settings.engine
        self.schedule = schedule
        self.players = players
        self.device = device
        self.draw = draw
        self.say = say

    def fitted(self, images: int, record: Path) -> EngineSettings:
        """The engine's settings with micro-batches that fit, for a run that stands at `images`.

        The result of `engine.max_batch_per_rank=auto` is kept in `record`, and reused on the same hardware.
        ValueError when a step does not fit, naming the `engine.max_batch_per_rank` that does.
        """
        steps = list(self._largest_steps(images))
        if self.engine.max_batch_per_rank == "auto":
            found = self._find_all(steps, record)
            return self.engine.model_copy(update={"max_batch_per_rank": found})
        if self.engine.rehearsal != "none":
            self._check(max(steps, key=lambda step: self._load(step, self._given(step))))
        return self.engine

    # The steps, and what they need.

    def _largest_steps(self, images: int) -> Iterator[Step]:
        """The largest step of every phase to come: the first after the warm-up, in the transition if any."""
        for phase in self.schedule.phases:
            if phase.end > images:
                position = max(phase.start, images, min(self.schedule.warmup, phase.end - 1))
                yield self.schedule.step_at(position)

    @staticmethod
    def _share(step: Step) -> int:
        return step.batch // world_size()

    def _given(self, step: Step) -> int:
        """Images at once according to the settings."""
        share = self._share(step)
        return share // self.engine.parts(share, step.phase.resolution)

    def _load(self, step: Step, batch: int) -> int:
        """A measure of the activations: a step with a smaller load than one that fits also fits."""
        return batch * feature_values(self.settings, step.phase.resolution)

    # What fits.

    def _check(self, step: Step) -> None:
        batch = self._given(step)
        if self._fits(step, batch, binding=True):
            return
        smaller = None
        if not self.settings.model.batch_statistics:
            smaller = next((b for b in _divisors(self._share(step)) if b < batch and self._fits(step, b)), None)
        raise ValueError(self._refusal(step, batch, smaller))

    def _refusal(self, step: Step, batch: int, smaller: int | None) -> str:
        where = f"{batch} images{pixels(step.phase.resolution, ' at ')} do not fit into the memory of {self._memory()}"
        if self.settings.model.batch_statistics:
            return f"{where}: set {remedy(self.settings)}"
        if smaller is not None:
            return f"{where}: set engine.max_batch_per_rank={smaller}, which fits, or auto"
        remedies = ["a smaller model"]
        if self.engine.lighter is not None and world_size() > 1:
            remedies.insert(0, self.engine.lighter)
        if not self.engine.checkpoint_activations:
            remedies.insert(0, "engine.checkpoint_activations=true")
        return f"{where}, not even one at a time: try {' or '.join(remedies)}"

    def _find_all(self, steps: list[Step], record: Path) -> dict[int, int]:
        """Images at once by resolution."""
        hardware = self._hardware()
        before = on_first(lambda: _read(record))
        same = before.get("hardware") == hardware
        known = {int(r): int(b) for r, b in before["images"].items()} if same else {}
        found: dict[int, int] = {}
        fitting = 0
        for step in sorted(steps, key=lambda step: step.phase.resolution, reverse=True):
            resolution, share = step.phase.resolution, self._share(step)
            batches = [b for b in _divisors(share) if b <= known.get(resolution, share)]
            for batch in batches:
                load = self._load(step, batch)
                if load <= fitting or self._fits(step, batch):
                    fitting = max(fitting, load)
                    found[resolution] = batch
                    break
            else:
                raise ValueError(self._refusal(step, 1, None))
        found = known | dict(sorted(found.items()))
        on_first(lambda: write_text(record, json.dumps({"hardware": hardware, "images": found})))
        why = "as before on the same hardware" if found == known else "found anew" if before else "found"
        images = ", ".join(f"{b}{pixels(r, ' at ')}" for r, b in sorted(found.items()))
        self.say(f"engine.max_batch_per_rank=auto, {why}: {images}")
        return found

    def _fits(self, step: Step, batch: int, *, binding: bool = False) -> bool:
        """Whether a step with `batch` images at once fits on every process. `binding`: the step will be taken."""
        traced = self.engine.rehearsal == "trace" or (self.engine.rehearsal == "auto" and self.device.type == "cpu")
        return all(everyone(lambda: self._fits_traced(step, batch, binding) if traced else self._rehearse(step, batch)))

    def _fits_traced(self, step: Step, batch: int, binding: bool) -> bool:
        segment = step.segment
        place = (self.settings, segment.resolution, segment.blending, batch, world_size())
        share, kind = self._share(step), self.device.type
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            return estimate(*place, share=share, device=kind).peak <= free + torch.cuda.memory_reserved(self.device)
        sharing = int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
        memory = host_memory()
        room = memory.available // sharing + resident()
        if surely_fits(self.settings, segment.resolution, batch, share, room):
            return True
        peak = estimate(*place, share=share, warming_up=segment.warming_up, device=kind).peak
        if not binding:
            return peak <= _KEPT_FREE * room
        if room < peak <= memory.total // sharing:
            way = (
                f"set {remedy(self.settings)}"
                if self.settings.model.batch_statistics
                else (f"{remedy(self.settings)} finds a batch that fits")
            )
            self.say(
                f"warning: {batch} images{pixels(segment.resolution, ' at ')} need {peak / 1e9:.1f} GB per process, "
                f"and {room / 1e9:.1f} GB are free now; {way}"
            )
        return peak <= memory.total // sharing

    # The step that is not taken.

    def _rehearse(self, step: Step, batch: int) -> bool:
        watchdog.expect(slow=True)
        resolution = step.phase.resolution
        startup.doing(f"rehearsing a step of {batch} images{pixels(resolution, ' at ')}")
        fits = True
        try:
            self._untaken_step(step, batch)
        except RuntimeError as error:
            if not _is_of_memory(error):
                raise
            fits = False
        self.players.forget_gradients()
        gc.collect()
        if self.device.type == "cuda":
            if fits:
                peak = torch.cuda.max_memory_reserved(self.device)
                self.say(
                    f"memory: {batch} images{pixels(resolution, ' at ')} take {peak / 1e9:.1f} GB of {self._memory()}"
                )
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        if not fits and self.engine.waits and world_size() > 1:
            # The others wait in a collective that this process will never enter, so it cannot look any further.
            smaller = next((b for b in _divisors(self._share(step)) if b < batch), None)
            raise ValueError(self._refusal(step, batch, smaller).replace(", which fits,", " or less,"))
        return fits

    def _untaken_step(self, step: Step, batch: int) -> None:
        """Allocates all that a step holds at its peak, and frees it."""
        resolution, share = step.phase.resolution, self._share(step)
        self.players.prepare(step.segment)
        moments = torch.empty(self.players.missing_moments(), dtype=torch.uint8, device=self.device)
        model = self.settings.model
        blend = torch.full((), step.blend, device=self.device) if step.segment.blending else None
        label = torch.zeros(share, dtype=torch.int64, device=self.device) if model.classes else None
        given = {name: self._zeros(share, resolution) for name in ("x", *model.inputs)}
        blended = {name: blend_real(one, blend) for name, one in given.items()}
        xs = blended.pop("x").split(batch)
        conds = Cond(Stage(resolution, blend), label, extra=blended).split(batch, len(xs))
        first = step.position + rank() * share
        draws = [self.draw(step, first + k * batch, batch) for k in range(len(xs))]
        two = list(zip(xs, conds, draws, strict=True))[:2]  # those after the second would only repeat it
        turns = self.players.encoder_engine.rehearse(two)
        self.players.decoder_engine.rehearse(
            [(x, turn.crossing, c, d) for (x, c, d), turn in zip(two, turns, strict=True)]
        )
        del moments

    def _zeros(self, count: int, resolution: int) -> torch.Tensor:
        """Images as the iteration has them."""
        x = torch.zeros((count, *self.settings.model.shape(resolution)), dtype=self.engine.dtype, device=self.device)
        return x.contiguous(memory_format=self.engine.image_format(x))

    # Where.

    def _memory(self) -> str:
        if self.device.type == "cuda":
            total = torch.cuda.get_device_properties(self.device).total_memory
            return f"{self.device} ({torch.cuda.get_device_name(self.device)}, {total / 1e9:.1f} GB)"
        return f"this machine ({host_memory().total / 1e9:.1f} GB for {world_size()} process(es))"

    def _hardware(self) -> dict[str, Any]:
        """The facts that decide which micro-batches fit; equal on all processes."""

        def mine() -> list[Any]:
            if self.device.type == "cpu":
                return ["cpu", round(host_memory().total / 2**30)]
            properties = torch.cuda.get_device_properties(self.device)
            return [properties.name, round(properties.total_memory / 2**30)]

        devices = everyone(mine)
        engine = self.engine.model_dump(mode="json", exclude={"max_batch_per_rank", "rehearsal"})
        batches = {str(phase.resolution): phase.batch for phase in self.schedule.phases}
        return {"devices": devices, "engine": engine, "batch": batches}


def _is_of_memory(error: RuntimeError) -> bool:
    """Whether an error is a lack of memory, in torch's allocator or in a library that allocates for itself."""
    words = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def _divisors(share: int) -> Iterator[int]:
    """The divisors of `share`, from itself down to 1."""
    return (share // parts for parts in range(1, share + 1) if share % parts == 0)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        return content if content.keys() == {"hardware", "images"} else {}
    except ValueError:  # cut short by a full disk; it is found anew
        return {}
