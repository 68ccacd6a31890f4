"""One run's settings: each component's own, composed, read from YAML and overridden by `key=value`."""

import copy
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from data_pipelines.dataset import Dataset
from data_pipelines.kinds import DataSettings
from data_pipelines.problems import Problem, groups_of, known_keys, nearest, problems
from data_pipelines.settings import MayChange, expand
from sivae_dist.checkpoint.settings import CheckpointSettings, InitSettings
from sivae_dist.config.imports import import_all, recorded
from sivae_dist.config.names import config_path
from sivae_dist.config.yaml_reading import dump, parse, read_yaml
from sivae_dist.engines.settings import AnyEngine
from sivae_dist.evaluation.settings import EvaluationSettings
from sivae_dist.models import AnyModel
from sivae_dist.monitoring.settings import MonitoringSettings
from sivae_dist.objectives import ObjectiveSettings
from sivae_dist.process.devices import check_name
from sivae_dist.process.watchdog import WatchdogSettings
from sivae_dist.settings import MAY_CHANGE, Settings, flatten
from sivae_dist.step.guard import GuardSettings
from sivae_dist.step.optimizer import EmaSettings, OptimizerSettings
from sivae_dist.step.schedule import ScheduleSettings


class RunSettings(Settings):
    """All settings of a run."""

    seed: int = Field(0, ge=0)
    """Seed of the order, flips, latents, noise and initial weights."""
    device: Annotated[str, AfterValidator(check_name), MAY_CHANGE] = "auto"  # other draws: train/checkpoints.py
    """`auto` uses a GPU for each process if there are any; or `cpu`, `cuda`, or one GPU like `cuda:3`."""
    imports: Annotated[tuple[str, ...], MAY_CHANGE] = ()  # where code is, and not what it does
    """Modules of your own, by name or as `.py` files, that add models, objectives, distances, metrics or data sets.
    They are imported whenever the run's settings are read."""
    init: InitSettings = InitSettings()
    """Weights to start a new run with, instead of weights drawn from the seed. A run's own checkpoint comes first."""
    data: DataSettings
    """The prepared data set, and how it is read."""
    model: AnyModel = Field({}, validate_default=True)
    """The networks."""
    objective: ObjectiveSettings
    """The loss."""
    schedule: ScheduleSettings
    """How long, how fast and in which batches each resolution is trained. Values are one number for all resolutions or
    one per resolution."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """Adam, for both networks."""
    ema: EmaSettings = EmaSettings()
    """The moving average of the weights, used to draw samples."""
    engine: AnyEngine = Field({}, validate_default=True)
    """How the steps are computed, and how processes share them."""
    checkpoint: Annotated[CheckpointSettings, MAY_CHANGE] = CheckpointSettings()
    """When the run is saved, and which checkpoints stay."""
    monitoring: Annotated[MonitoringSettings, MAY_CHANGE] = MonitoringSettings()
    """What is logged during training."""
    evaluation: Annotated[EvaluationSettings, MAY_CHANGE] = EvaluationSettings()
    """Metrics in training, and the defaults of `sivae evaluate`."""
    guard: Annotated[GuardSettings, MAY_CHANGE] = GuardSettings()
    """What to do when a loss or gradient is not finite."""
    watchdog: Annotated[WatchdogSettings, MAY_CHANGE] = WatchdogSettings()
    """When a process without progress ends the run."""

    @model_validator(mode="after")
    def _fit_together(self) -> "RunSettings":
        self.objective.check(self)
        if self.objective.mixing_share and not self.model.styled:
            raise ValueError(f"objective.style_mixing needs a model with styles, but {self.model.name} has none")
        if self.model.batch_statistics:
            if self.engine.max_batch_per_rank is not None:
                raise ValueError(
                    f"engine.max_batch_per_rank divides batches, whose images {self.model.name} normalises together: "
                    "leave it out, or set model.norm=group"
                )
            if self.engine.compile:
                raise ValueError(
                    f"engine.compile makes graphs without communication, but {self.model.name} normalises the images "
                    "of all processes together: leave it out, or set model.norm=group"
                )
        self.evaluation.check_groups(self.model.groups)
        best = self.checkpoint.best_metric
        if self.checkpoint.keep_best and best.startswith("evaluation/") and not self.evaluation.every:
            raise ValueError(f"checkpoint.best_metric={best} is never measured: set evaluation.every")
        return self

    def located(self) -> "RunSettings":
        """The same settings with absolute paths, so that they mean the same in any working directory."""

        def absolute(path: str | Path) -> str:
            return os.path.abspath(expand(str(path)))

        def located(path: str | Path | None) -> str | None:
            return None if path is None else absolute(path)

        init = {name: path and Path(absolute(path)) for name, path in self.init}
        evaluation = {name: located(getattr(self.evaluation, name)) for name in ("weights", "cache")}
        return self.model_copy(
            update={
                "imports": tuple(recorded(name) for name in self.imports),
                "data": self.data.located(absolute),
                "objective": self.objective.located(absolute),
                "init": self.init.model_copy(update=init),
                "evaluation": self.evaluation.model_copy(update=evaluation),
            }
        )

    def fitted(self, data: Dataset) -> "RunSettings":
        """The same settings with what follows from the data set. ValueError when they contradict it."""
        return self.model_copy(update={"model": self.model.fitted(data.where, data.spec.classes)})

    def plain(self) -> dict[str, Any]:
        """The settings as YAML can hold them; unlike JSON it has numbers for keys."""
        return _plain(self.model_dump())

    def to_yaml(self) -> str:
        return dump(self.plain())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return str(value) if isinstance(value, Path) else value


def override(values: dict[str, Any], assignments: Sequence[str]) -> None:
    """Applies `group.key=value` in place; the value is read as YAML, and of the same key the last one counts.

    ValueError for anything else.
    """
    for assignment in assignments:
        dotted, text = _split(assignment)
        *groups, last = dotted.split(".")
        target: dict[str | int, Any] = values  # type: ignore[assignment]
        for group in groups:
            inner = target.setdefault(_key(group), {})
            if inner is None:
                inner = target[_key(group)] = {}
            if not isinstance(inner, dict):
                raise ValueError(f"{dotted}: {group} is {inner!r}, one value for all; set {group} itself")
            target = inner
        try:
            target[_key(last)] = parse(text, assignment)
        except ValueError as error:
            open_brackets = any(text.count(a) != text.count(b) for a, b in ("{}", "[]"))
            hint = "; put the whole assignment in quotes, so that the shell does not split it" if open_brackets else ""
            raise ValueError(f"{error}{hint}") from None


def _split(assignment: str) -> tuple[str, str]:
    """The dotted key and the text of its value. ValueError for an argument that is no assignment."""
    dotted, equals, text = assignment.partition("=")
    if equals and dotted and dotted == dotted.strip() and all(dotted.split(".")):
        return dotted, text
    hint = ""
    if not equals and (Path(assignment).exists() or "/" in assignment):
        hint = "; a data set is named by --data, a run's directory by --run-dir"
    elif keys := nearest(re.split("[:= ]", assignment)[0], known_keys(RunSettings)):
        hint = f"; write {keys[0]}=VALUE, without spaces"
    raise ValueError(f"{assignment!r} is not of the form key=value{hint}")


def _key(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def validate(values: dict[str, Any], origin: str, assignments: Sequence[str] = ()) -> RunSettings:
    """Settings from plain values with `group.key=value` overrides applied.

    ValueError with one line per problem, which begins with the override that causes it, or with `origin`; an unknown
    key comes with the nearest known one.
    """
    changed = copy.deepcopy(values)
    override(changed, assignments)
    names = changed.get("imports")
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        import_all(names)
    try:
        return RunSettings.model_validate(changed)
    except ValidationError as error:
        own = {str(problem) for problem in _problems(values)} if assignments else set()
        lines = [
            f"{origin}: {problem}" if not assignments or str(problem) in own else _blamed(problem, assignments)
            for problem in problems(error, RunSettings, changed)
        ]
        raise ValueError("\n".join(lines)) from None


def _problems(values: dict[str, Any]) -> list[Problem]:
    try:
        RunSettings.model_validate(values)
    except ValidationError as error:
        return problems(error, RunSettings, values)
    return []


def _blamed(problem: Problem, assignments: Sequence[str]) -> str:
    """A problem that there would not be without the overrides, after the one that causes it."""
    by_key = {assignment.partition("=")[0]: assignment for assignment in assignments}
    causes = [key for key in by_key if f"{problem.key}.".startswith(f"{key}.") or key.startswith(f"{problem.key}.")]
    key, *_ = reversed(causes or [key for key in by_key if key in problem.message] or [*by_key])
    return f"{by_key[key]}: {problem.message if key == problem.key else problem}"


def read_settings(path: Path, assignments: Sequence[str] = ()) -> RunSettings:
    """The settings in a YAML file with overrides applied. ValueError as `validate`."""
    return validate(read_yaml(path), str(path), assignments)


def load_config(name: str | Path, assignments: Sequence[str] | None = None) -> RunSettings:
    """The settings in a YAML file, by its path or name (config_path), with overrides. ValueError as `validate`."""
    return read_settings(config_path(name), assignments or ())


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Dotted keys whose values differ between two dumps of settings."""
    a, b = flatten(old), flatten(new)
    return sorted(key for key in a.keys() | b.keys() if not _same(a.get(key), b.get(key)))


def _same(a: object, b: object) -> bool:
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


def free_keys(model: type[BaseModel] = RunSettings, prefix: str = "") -> Iterator[str]:
    """Keys, and groups of keys, that may differ when a run is resumed: those that their own component marks.

    A key that several kinds of a group have is free where one of them marks it.
    """
    for name, field in model.model_fields.items():
        if any(isinstance(mark, MayChange) for mark in field.metadata):
            yield f"{prefix}{name}"
            continue
        for group in groups_of(field):
            yield from free_keys(group, f"{prefix}{name}.")


def changes_the_past(key: str) -> bool:
    """Whether a run cannot be resumed with another value of this dotted key."""
    return not any(key == free or key.startswith(f"{free}.") for free in free_keys())
