"""One run's settings: each component's own, composed, read from YAML and overridden by `key=value`."""

import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ValidationError, model_validator

from data_pipelines.loader import DataSettings
from sivae_dist.checkpoint.settings import CheckpointSettings
from sivae_dist.devices import check_name
from sivae_dist.engines.settings import DdpSettings, EngineSettings
from sivae_dist.evaluation.settings import EvaluationSettings
from sivae_dist.guard import GuardSettings
from sivae_dist.initialization import InitSettings
from sivae_dist.models.style.settings import StyleSettings
from sivae_dist.monitoring.settings import MonitoringSettings
from sivae_dist.objectives import ObjectiveSettings
from sivae_dist.optimizer import EmaSettings, OptimizerSettings
from sivae_dist.schedule import ScheduleSettings
from sivae_dist.settings import Settings, flatten
from sivae_dist.watchdog import WatchdogSettings


class RunSettings(Settings):
    """Everything that a run is made from."""

    seed: int = 0
    """Of the order, flips, latents, noise and initial weights."""
    device: Annotated[str, AfterValidator(check_name)] = "auto"
    """`auto` takes a GPU for each process where there are some; or `cpu`, `cuda`, or one GPU like `cuda:3`."""
    init: InitSettings = InitSettings()
    data: DataSettings
    model: StyleSettings = StyleSettings()
    objective: ObjectiveSettings
    schedule: ScheduleSettings
    optimizer: OptimizerSettings = OptimizerSettings()
    ema: EmaSettings = EmaSettings()
    engine: EngineSettings = DdpSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    guard: GuardSettings = GuardSettings()
    watchdog: WatchdogSettings = WatchdogSettings()

    @model_validator(mode="after")
    def _fit_together(self) -> "RunSettings":
        for resolution in self.model.resolutions:
            self.objective.weights(resolution, self.model.dimensions)  # ValueError for a missing value
        if self.objective.reconstruction == "bce" and self.model.output != "tanh":
            raise ValueError("objective.reconstruction=bce needs images inside [-1, 1]: set model.output=tanh")
        best = self.checkpoint.best_metric
        if self.checkpoint.keep_best and best.startswith("evaluation/") and not self.evaluation.every:
            raise ValueError(f"checkpoint.best_metric={best} is never measured: set evaluation.every")
        return self

    def plain(self) -> dict[str, Any]:
        """The settings as YAML can hold them; unlike JSON it has numbers for keys."""
        return _plain(self.model_dump())

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.plain(), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return str(value) if isinstance(value, Path) else value


RUN_PATH_INDEPENDENT = frozenset(
    {
        "device",
        "data.path",
        "data.loader",
        "data.threads",
        "data.prefetch",
        "data.faults",
        "data.max_faults",
        "data.remote",
        "checkpoint",
        "monitoring",
        "evaluation",
        "guard",
        "watchdog",
        "engine.compile",
        "engine.name",
        "engine.stage",
        "engine.offload",
        "engine.deepspeed",
    }
)
"""Keys (or groups of keys) that may differ when a run is resumed: they do not change what is learned."""


def config_path(name: str | Path) -> Path:
    """A configuration by path, or by the name of one that comes with the package (`tiny`, `configs/tiny.yaml`)."""
    path = Path(name)
    if path.is_file():
        return path
    package = Path(__file__).parent
    relative = path.relative_to("configs") if path.parts[:1] == ("configs",) else path
    for folder in (package / "configs", package.parent / "configs"):
        for candidate in (folder / relative, folder / f"{relative}.yaml"):
            if candidate.is_file():
                return candidate
    raise ValueError(f"there is no configuration {name}: neither a file nor one that comes with sivae")


def run_name(path: Path) -> str:
    """What a configuration's runs are called: `ffhq256`, `official/ffhq256`; other people's by the file's name."""
    parts = path.with_suffix("").parts
    return "/".join(parts[parts.index("configs") + 1 :]) if "configs" in parts[:-1] else parts[-1]


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no settings")
    return values


def override(values: dict[str, Any], assignments: Sequence[str]) -> None:
    """Applies `group.key=value` in place; the value is read as YAML. ValueError for anything else."""
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        if not equals or not dotted:
            raise ValueError(f"{assignment!r} is not of the form key=value")
        *groups, last = dotted.split(".")
        target: dict[str | int, Any] = values  # type: ignore[assignment]
        for group in groups:
            inner = target.setdefault(_key(group), {})
            if not isinstance(inner, dict):
                raise ValueError(f"{dotted}: {group} is {inner!r}, one value for all; set it as a whole")
            target = inner
        try:
            target[_key(last)] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ValueError(f"{dotted}: {text!r} is not valid YAML") from None


def _key(text: str) -> str | int:
    return int(text) if text.isdigit() else text


def validate(values: dict[str, Any], origin: str) -> RunSettings:
    """Settings from plain values. ValueError in one line a problem, an unknown key with the nearest known one."""
    try:
        return RunSettings.model_validate(values)
    except ValidationError as error:
        lines: dict[str, str] = {}
        for problem in error.errors():
            place, message = _explain(problem)
            lines.setdefault(place, f"{origin}: {message}")  # of a union's branches the first complaint will do
        raise ValueError("\n".join(lines.values())) from None


_BRANCHES = frozenset({"soft_intro", "intro", "vae", "ddp", "zero", "int", "float", "constrained-int"})
"""What pydantic adds to a location to name a union's branch; it does not stand in the file."""


def _explain(problem: Any) -> tuple[str, str]:
    """Where a problem lies, as a dotted key, and what is wrong there."""
    location = [str(part) for part in problem["loc"] if part not in _BRANCHES and "[" not in str(part)]
    place = ".".join(location)
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(location[-1], _known_keys(RunSettings), n=1)
        return place, f"unknown key {place}" + (f"; did you mean {near[0]}?" if near else "")
    if problem["type"] == "missing":
        return place, f"{place} is not set"
    return place, f"{place}: {message}" if place else message


def _known_keys(model: type[BaseModel]) -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(name)
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                keys += _known_keys(inner)
    return keys


def load_config(name: str | Path, assignments: list[str] | None = None) -> RunSettings:
    """The settings in a YAML file (config_path) with overrides applied. ValueError in one line a problem."""
    path = config_path(name)
    values = read_yaml(path)
    override(values, assignments or [])
    return validate(values, str(path))


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Dotted keys whose values differ between two dumps of settings."""
    a, b = flatten(old), flatten(new)
    return sorted(key for key in a.keys() | b.keys() if not _same(a.get(key), b.get(key)))


def _same(a: object, b: object) -> bool:
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


def changes_the_past(key: str) -> bool:
    """Whether a run cannot be resumed with another value of this dotted key."""
    return not any(key == free or key.startswith(f"{free}.") for free in RUN_PATH_INDEPENDENT)
