"""Settings that are valid individually but make no sense together."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import TypeAdapter

from data_pipelines.dataset import Dataset
from data_pipelines.stages import pixels
from sivae_dist.config.names import config_path
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.config.yaml_reading import read_yaml
from sivae_dist.models import AnyModel, ModelSettings
from sivae_dist.train.memory import logged_terms

_WITHOUT_KEYS_OF_THEIR_OWN = ("schedule.blend_of",)
"""Mappings that an extended run writes for itself."""


def untrained_keys(config: str, assignments: Sequence[str], settings: RunSettings) -> list[str]:
    """Keys for resolutions that a run with these settings, from a configuration and `key=value`, does not train.

    Keys for a configuration's own resolutions remain valid when a smaller `model.resolution` excludes them.
    """
    own: ModelSettings = TypeAdapter(AnyModel).validate_python(read_yaml(config_path(config)).get("model") or {})
    assigned = tuple(f"{assignment.partition('=')[0]}." for assignment in assignments)
    return [
        key
        for key, resolution in _by_resolution(settings.plain())
        if resolution not in settings.model.resolutions
        and (resolution not in own.resolutions or f"{key}.".startswith(assigned))
    ]


def check_resolutions(settings: RunSettings, untrained: Sequence[str]) -> None:
    """ValueError naming `untrained` keys."""
    if not untrained:
        return
    trained = settings.model.resolutions
    mapping, _, last = untrained[-1].rpartition(".")
    larger = pixels(trained[-1]) and int(last) > trained[-1] and not int(last) & (int(last) - 1) and int(last) <= 1024
    sizes = f"{', '.join(map(str, trained))} px" if any(map(pixels, trained)) else "no resolutions"
    way = f"or set model.resolution={last}" if larger else f"the model has {sizes}"
    several = "are for resolutions that are" if len(untrained) > 1 else "is for a resolution that is"
    without = "them" if len(untrained) > 1 else "it"
    raise ValueError(
        f"{', '.join(untrained)} {several} not trained: give {mapping} as a whole without {without}, {way}"
    )


def _by_resolution(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, int]]:
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and key not in _WITHOUT_KEYS_OF_THEIR_OWN:
            if value and all(isinstance(inner, int) for inner in value):
                yield from ((f"{key}.{resolution}", resolution) for resolution in value)
            else:
                yield from _by_resolution(value, f"{key}.")


def check_best_metric(settings: RunSettings, data: Dataset) -> None:
    """ValueError when checkpoint.best_metric is never measured."""
    best, measured = settings.checkpoint.best_metric, settings.evaluation
    if not settings.checkpoint.keep_best:
        return
    if best.startswith("evaluation/"):
        known = [f"evaluation/{name}" for name in measured.reported(data)]
        what = "the evaluation has" if not best.startswith(tuple(known)) else ""
    else:
        known = sorted(logged_terms(settings))
        what = "metrics.jsonl will have" if best not in known else ""
    if what:
        raise ValueError(f"checkpoint.best_metric={best} is never measured: {what} {', '.join(known)}")
