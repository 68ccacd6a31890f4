"""Point 9: compares the loaders, images decoded on the GPU with those decoded on the CPU."""

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from data_pipelines.dataset import Request
from data_pipelines.images.dataset import ImageSettings
from data_pipelines.images.loaders import LOADERS, USUAL_LOADER
from launch.doctor.gpu.course import Course
from launch.doctor.report import Finding

_BATCH = 32
_APART = 8
"""Maximum difference of a pixel (of 255) between two JPEG decoders."""


def loaders(course: Course, facts: dict[str, Any]) -> Iterator[Finding]:
    """Reads JPEGs with every loader: images per second, and the largest difference of a pixel from the usual loader."""
    usual: torch.Tensor | None = None
    for name, kind in LOADERS.items():
        if name == USUAL_LOADER:
            continue
        try:
            kind.check()
        except ValueError:
            yield Finding("ok", f"9 {kind.title}", "skipped: it is not installed", f"{kind.install} if you need it")
            continue
        if usual is None:
            usual, facts[USUAL_LOADER] = _read(course, USUAL_LOADER)
        first, facts[name] = _read(course, name)
        apart = int((usual - first).abs().max() * 127.5 + 0.5)
        facts["apart"] = max(apart, facts.get("apart", 0))
        text = (
            f"JPEGs of {course.side} px: {USUAL_LOADER} {facts[USUAL_LOADER]:,.0f}, {name} {facts[name]:,.0f} images/s "
            f"with 4 threads; pixels at most {apart} of 255 apart"
        )
        if apart <= _APART:
            yield Finding("ok", f"9 {kind.title}", text)
        else:
            yield Finding("fail", f"9 {kind.title}", text, f"use data.loader={USUAL_LOADER}; send the JSON")


def _read(course: Course, loader: str) -> tuple[torch.Tensor, float]:
    """The first batch, on the CPU, and the rate after it in images per second."""
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
    """Drawn faces at the course's resolution, as JPEGs in tars."""
    from data_pipelines.images.prepare import PrepareSettings, prepare

    data: Path = course.test.root / "large"
    if not data.exists():
        known = {"resolution": course.side, "array_max_resolution": course.side // 2, "format": "jpeg"}
        prepare(course.test.faces(), data, PrepareSettings.model_validate(known), 1)
    return data
