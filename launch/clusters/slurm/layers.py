"""Merges settings from two sources (a file, command-line options) by SLURM's rules."""

import re
from typing import Any

from launch.clusters.counts import gpu_count
from launch.clusters.slurm.gpu_requests import gres_count, with_gpus, without_gpus
from launch.clusters.slurm.options import Options, sbatch_options, srun_options

_FOLDED = {
    "job-name": "job_name", "nodes": "nodes", "ntasks-per-node": "tasks_per_node", "gpus-per-node": "gpus_per_node",
    "gpus-per-task": "gpus_per_task", "gres": "gres", "cpus-per-task": "cpus_per_task", "mem": "mem", "time": "time",
    "partition": "partition", "account": "account", "qos": "qos", "constraint": "constraint", "exclude": "exclude",
}  # fmt: skip
"""Options of sbatch that are also settings, because sivae needs their values or has keys for them."""

_ALWAYS = {"nodes", "tasks_per_node", "time", "job_name"}
_LINES = {"gpus_per_node", "cpus_per_task"}
"""Settings whose values are needed even if their lines are omitted, as for a partition with implicit GPUs."""


def one_layer(values: dict[str, Any]) -> dict[str, Any]:
    """Settings from one source (a file, or command-line options), with options of sbatch and srun turned into settings
    where possible. ValueError with one line per problem."""
    values = dict(values)
    options = sbatch_options(values.pop("sbatch", None) or {})
    _take_the_place(options, values)
    if isinstance(values.get("setup"), str):
        values["setup"] = tuple(values["setup"].splitlines())
    srun = srun_options(values.pop("srun", None) or {})
    if (image := srun.pop("container-image", None)) is not None:
        values |= {"container_image": image, "container_runtime": "pyxis"}
    return values | ({"sbatch": options} if options else {}) | ({"srun": srun} if srun else {})


def _take_the_place(options: Options, values: dict[str, Any]) -> None:
    """Moves options into settings, and drops settings that they exclude in SLURM."""
    if {"mem-per-cpu", "mem-per-gpu"} & options.keys():
        values.pop("mem", None)
    if "gres" in options and gres_count(_text("gres", options["gres"])) and "gpus-per-node" not in options:
        values.pop("gpus_per_node", None)
    if "gpus" in options:
        values.pop("gpus_per_node", None)
    for name, key in _FOLDED.items():
        if name not in options:
            continue
        if options[name] is False:
            if key in _ALWAYS:
                raise ValueError(f"sbatch option {name} cannot be left out: the run depends on its value")
            if key not in _LINES:
                values[key] = options.pop(name) or None
            continue
        values[key] = _text(name, options.pop(name))
    if "signal" in options:
        values["signal_delay"] = _signal_delay(_text("signal", options.pop("signal")))
    if (gpus := gres_count(values.get("gres"))) and "gpus_per_node" in values:
        if gpu_count(values["gpus_per_node"]) != gpus:
            raise ValueError(
                f"gres: {values['gres']} and gpus_per_node: {values['gpus_per_node']} contradict each other: write one"
            )
        del values["gpus_per_node"]


def _text(name: str, value: str | bool) -> str:
    if isinstance(value, bool):
        raise ValueError(f"sbatch option {name} needs a value")
    return value


def _signal_delay(text: str) -> int:
    match = re.fullmatch(r"(?:(?:SIG)?USR2|12)@(\d+)", text, re.IGNORECASE | re.ASCII)
    if match is None:
        raise ValueError(
            f"sbatch option signal cannot be {text}: the processes save on USR2; write signal_delay: SECONDS"
        )
    return int(match[1])


def merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """Merges two layers; the upper one takes precedence, also over settings that its own exclude in SLURM."""
    below, above = dict(lower), dict(upper)
    options = {name: dict(below.pop(name, {})) for name in ("sbatch", "srun")}
    given = above.get("sbatch", {})
    if "mem" in above or {"mem-per-cpu", "mem-per-gpu"} & given.keys():
        below.pop("mem", None)
        for name in ("mem-per-cpu", "mem-per-gpu"):
            options["sbatch"].pop(name, None)
    if "tasks_per_node" in above:
        options["sbatch"].pop("ntasks", None)
    if gres_count(below.get("gres")) and "gres" not in above and gpu_count(above.get("gpus_per_node", 0)):
        above["gres"] = with_gpus(below["gres"], above.pop("gpus_per_node"))  # this cluster requires gres
    elif (
        {"gpus_per_node", "gpus"} & (above.keys() | given.keys())
        or gres_count(above.get("gres"))
        or (above.keys() >= {"gpus_per_task", "tasks_per_node"})
    ):
        below.pop("gpus_per_node", None)
        options["sbatch"].pop("gpus", None)
        if "gres" in below:
            below["gres"] = without_gpus(below["gres"])
    setup = (*below.get("setup", ()), *above.get("setup", ()))
    merged = {name: value | above.get(name, {}) for name, value in options.items()}
    return (
        below | above | {name: value for name, value in merged.items() if value} | ({"setup": setup} if setup else {})
    )
