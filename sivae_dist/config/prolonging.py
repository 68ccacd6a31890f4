"""Changes that are allowed when a run is resumed: to what lies ahead of it, never to what it has been trained with."""

import shlex
from pathlib import Path

from data_pipelines.stages import pixels
from sivae_dist.config.run_settings import RunSettings, changes_the_past, differences
from sivae_dist.run.directory import RunDirectory
from sivae_dist.step.schedule import Schedule

_SCHEDULE = "schedule."


def continued(
    run: Path, old: RunSettings, new: RunSettings, images: int, train_samples: int | None
) -> tuple[RunSettings, list[str]]:
    """The settings with which to continue a run started with `old` and saved after `images`, and notes about them.

    They are `new`, with the transition of a phase that has begun kept as long as it was planned. `train_samples` is the
    length of an epoch. ValueError naming the keys when `new` contradicts what the run has already done.
    """
    new = _with_transitions(old, new, images, train_samples)
    changed = differences(old.plain(), new.plain())
    ahead = [key for key in changed if key.startswith(_SCHEDULE)]
    refused = [key for key in changed if changes_the_past(key) and key not in ahead and not _rounds(key, old, new)]
    if images and refused:
        raise ValueError(f"{run} was started with other settings ({', '.join(refused)}); {_way(run, refused)}")
    notes = [f"{key} differs from what this run was started with" for key in changed if key not in ahead]
    if ahead and images:
        before, now = _schedule(old, train_samples), _schedule(new, train_samples)
        past, claimed = before.past(images), now.past(images)
        if wrong := [key for key in past | claimed if past.get(key) != claimed.get(key)]:
            raise ValueError(
                f"{run} has been trained for {images:,} images, and {', '.join(ahead)} would change what was done: "
                f"{_what(wrong[0])}. Only what lies ahead may change; {_way(run, ahead)}"
            )
        differs = now.total != before.total
        length = f"{now.total:,} images, {before.total:,} before" if differs else "different from here on"
        notes.append(f"the schedule is {length} ({', '.join(ahead)})")
    elif ahead:
        notes += [f"{key} differs from what this run was started with" for key in ahead]
    return new, notes


def when_resumed(key: str) -> str:
    """Whether a dotted key may change when its run is resumed, as the end of a sentence."""
    if key.startswith(_SCHEDULE):
        return "may change for what lies ahead"
    return "must stay the same" if changes_the_past(key) else "may change"


def _rounds(key: str, old: RunSettings, new: RunSettings) -> bool:
    """Whether a change affects rounding alone. On CPUs it does not even do that, and before `tf32` had its own name,
    `fp32` on GPUs was between the two."""
    return key == "engine.precision" and {old.engine.precision, new.engine.precision} == {"fp32", "tf32"}


def _with_transitions(old: RunSettings, new: RunSettings, images: int, train_samples: int | None) -> RunSettings:
    if not images or differences(old.schedule.model_dump(), new.schedule.model_dump()) == []:
        return new
    lengths = old.schedule.blend_of | new.schedule.blend_of
    before, now = _schedule(old, train_samples), _schedule(new, train_samples)
    ahead = {phase.resolution: phase.images for phase in now.phases}
    for phase, _, _ in before.begun(images):
        if phase.blend_images and ahead.get(phase.resolution) != phase.images:
            lengths.setdefault(phase.resolution, phase.images)
    return new.model_copy(update={"schedule": new.schedule.model_copy(update={"blend_of": lengths})})


def _schedule(settings: RunSettings, train_samples: int | None) -> Schedule:
    assert train_samples is not None or settings.schedule.epochs is None
    return Schedule(settings.schedule, settings.model.resolutions, train_samples or 0, settings.objective.warmup_images)


def _what(fact: str) -> str:
    kind, _, resolution = fact.partition(".")
    where = pixels(int(resolution), " at ") if resolution else ""
    if kind == "final_decay":
        return "the learning rates, which have begun to fall (schedule.final_decay)"
    return {
        "images": f"the number of images{where}",
        "batch": f"the batch{where}",
        "lr_encoder": f"the encoder's learning rate{where}",
        "lr_decoder": f"the decoder's learning rate{where}",
        "blend": f"the transition{where}",
        "blend_curve": "the transitions",
        "milestones": "the learning rates, which have fallen at a milestone",
        "reset_optimizer": "the optimizer's state",
    }[kind]


def _way(run: Path, keys: list[str]) -> str:
    """Advice: what to do instead."""
    way = (
        "continue it with the same settings, or start a new run from its weights: "
        f"init.run={run} with another --run-dir"
    )
    if "model.resolution" in keys:
        return f"all blocks exist from the start, and the model's resolution stays: {way}"
    return way


def prolonging_command(run: Path, settings: RunSettings, schedule: Schedule) -> str:
    """The command that trains a finished run for as long again at its last resolution, or where its learning rates have
    fallen, another run from its weights."""
    config = shlex.quote(str(RunDirectory(run).config))
    if "final_decay" in schedule.past(schedule.end):
        again = shlex.quote(f"{run}-again")
        return f"sivae train {config} init.run={shlex.quote(str(run))} --run-dir {again}"
    key = "epochs" if settings.schedule.images is None else "images"
    value = getattr(settings.schedule, key)
    last = schedule.phases[-1].resolution
    longer = 2 * (value[last] if isinstance(value, dict) else value)
    if isinstance(value, dict):
        assignment = f"schedule.{key}.{last}={longer}"
    elif len(settings.model.resolutions) == 1:
        assignment = f"schedule.{key}={longer}"
    else:
        lengths = ", ".join(f"{r}: {longer if r == last else value}" for r in settings.model.resolutions)
        assignment = f"schedule.{key}={{{lengths}}}"
    return f"sivae train {config} {shlex.quote(assignment)} --run-dir {shlex.quote(str(run))}"


def what_next(run: Path, settings: RunSettings, schedule: Schedule, *, already: bool) -> str:
    """The text shown at the end of a run, with commands to type. `already`: nothing was left to train."""
    path, pictures = shlex.quote(str(run)), shlex.quote(str(RunDirectory(run).figures / "samples.png"))
    seen = f"{schedule.end:,} images of its schedule"
    return "\n".join(
        [
            f"{run} is finished already: it has seen the {seen}" if already else f"finished: {run} has seen the {seen}",
            f"  pictures:  sivae sample {path} --out {pictures}",
            f"  quality:   sivae evaluate {path}",
            f"  a model:   sivae export {path} {shlex.quote(f'{run.name}-model')}",
            f"  longer:    {prolonging_command(run, settings, schedule)}",
        ]
    )
