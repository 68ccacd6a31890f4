"""Which form of the layers a run uses: the one that it has been trained with, so that it is continued bit for bit."""

from typing import cast

import torch

from sivae_dist.checkpoint import Meta
from sivae_dist.engines import compiling
from sivae_dist.engines.settings import EngineSettings
from sivae_dist.models.layers import forms
from sivae_dist.models.layers.forms import Form
from sivae_dist.models.layers.native import library
from sivae_dist.process.processes import everyone


def choose_kernels(engine: EngineSettings, device: torch.device, before: Meta | None) -> list[str]:
    """Sets the form for this process, the same in all; returns warnings. `before`: of the checkpoint to resume from.

    ValueError if it is `native` or `compiled`, by choice or by what the run was trained with, and a process has no
    compiler, and if a run that was trained with `engine.compile` is to go on in another form that nobody names.
    """
    recorded = _recorded(before, device)
    form = _asked(engine, recorded)
    lacking = _lacking(form or "native", device)
    if form is None:
        form = "fused" if lacking else "native"
    elif lacking:
        raise ValueError(_refusal(engine, form, lacking))
    forms.use(form)
    if before is None or recorded == form:
        return []
    if recorded is None:
        if form == "plain" and engine.precision != "bf16":
            return []  # the same operations as then
        return [
            "the checkpoint is from an older release, whose layers rounded differently: the run continues, but not bit "
            "for bit (except in bf16, engine.kernels=plain does)"
        ]
    return [f"the run has been trained with {recorded} kernels and continues with {form} ones: not bit for bit"]


def _recorded(before: Meta | None, device: torch.device) -> Form | None:
    if before is None or before.kernels is None:
        return None
    elsewhere = before.kernels == "native" and device.type != "cpu"
    return "fused" if elsewhere else cast(Form, before.kernels)


def _asked(engine: EngineSettings, recorded: Form | None) -> Form | None:
    """The form that the settings ask for; None where the machine decides."""
    if engine.compile:
        return "compiled"
    if engine.kernels != "auto":
        return engine.kernels
    if recorded == "compiled":
        raise ValueError(
            "the run has been trained with engine.compile=true: set it again, or name the kernels to continue with "
            "other rounding, as engine.kernels=fused"
        )
    return recorded


def _lacking(form: Form, device: torch.device) -> str | None:
    """Why a form is not possible here; None if it is."""
    if form == "compiled":
        return next(filter(None, everyone(lambda: compiling.why_not(device))), None)
    if form != "native":
        return None
    if device.type != "cpu":
        return f"they are for CPUs, and the device is {device.type}"
    return next(filter(None, everyone(library.why_not)), None)


def _refusal(engine: EngineSettings, form: Form, lacking: str) -> str:
    if form == "compiled":
        return (
            f"engine.compile=true is not possible: {lacking}; or set engine.compile=false and engine.kernels=fused, "
            "which rounds differently"
        )
    if engine.kernels == "native":
        return f"engine.kernels=native is not possible: {lacking}"
    return (
        f"the run has been trained with native kernels, which are not possible here: {lacking}; install a C++ "
        "compiler, or set engine.kernels=fused to continue with other rounding"
    )
