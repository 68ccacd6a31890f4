"""Point 9: images decoded on the GPU against those decoded by the CPU."""

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from data_pipelines.dataset import Request
from data_pipelines.images.dali_loader import import_dali
from data_pipelines.images.dataset import ImageSettings
from launch.doctor.gpu.course import Course
from launch.doctor.report import Finding

_BATCH = 32
_APART = 8
"""Of 255, by which a pixel may differ between two JPEG decoders."""


def loaders(course: Course, facts: dict[str, Any]) -> Iterator[Finding]:
    """JPEGs through both loaders: images a second, and the largest difference of a pixel."""
    try:
        import_dali()
    except ValueError:
        yield Finding(
            "ok", "9 DALI", "left out: it is not installed", "pip install nvidia-dali-cuda130 where it is wanted"
        )
        return
    first: dict[str, torch.Tensor] = {}
    for loader in ("cpu", "dali"):
        first[loader], rate = _read(course, loader)
        facts[loader] = rate
    apart = int((first["cpu"] - first["dali"]).abs().max() * 127.5 + 0.5)
    facts["apart"] = apart
    text = (
        f"JPEGs of {course.side} px: cpu {facts['cpu']:,.0f}, dali {facts['dali']:,.0f} images/s with 4 threads; "
        f"pixels at most {apart} of 255 apart"
    )
    if apart <= _APART:
        yield Finding("ok", "9 DALI", text)
    else:
        yield Finding("fail", "9 DALI", text, "use data.loader=cpu; send the JSON")


def _read(course: Course, loader: str) -> tuple[torch.Tensor, float]:
    """The first batch, on the CPU, and images a second after it."""
    settings = ImageSettings(path=str(_prepared(course)), loader=loader, flip=False, threads=4)
    requests = [Request(start, _BATCH, course.side) for start in range(0, _BATCH + course.images, _BATCH)]
    with settings.open(0, course.device) as opened:
        batches = opened.batches(requests)
        first = next(batches).x.cpu()
        start, count = perf_counter(), 0
        for batch in batches:
            count += len(batch.x)
        course.wait()
        return first, count / (perf_counter() - start)


def _prepared(course: Course) -> Path:
    """Drawn faces, as JPEGs in tars at the course's side."""
    from data_pipelines.images.prepare import PrepareSettings, prepare

    data: Path = course.test.root / "large"
    if not data.exists():
        known = {"resolution": course.side, "array_max_resolution": course.side // 2, "format": "jpeg"}
        prepare(course.test.faces(), data, PrepareSettings.model_validate(known), 1)
    return data
