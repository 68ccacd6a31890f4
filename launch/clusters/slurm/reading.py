"""Loads a cluster's settings from its file and command-line options."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data_pipelines.problems import Problem, problems
from launch.clusters.files import all_files, named, read
from launch.clusters.slurm.layers import merge, one_layer
from launch.clusters.slurm.options import WITHOUT_KEY
from launch.clusters.slurm.settings import SlurmSettings


def load_settings(name: str | None, changes: Mapping[str, Any]) -> SlurmSettings:
    """The settings of a cluster, overridden by `changes`. `name`: a file, its name without folder and extension, or
    `auto`, the file whose cluster_name SLURM reports (defaults if there is none); None for defaults.

    ValueError with one line per problem.
    """
    path = None if name is None else _of_this_cluster() if name == "auto" else named(name)
    above = _layer("options", dict(changes))
    below = {} if path is None else _layer(str(path), read(path))
    origin = "options" if path is None else str(path)
    values = merge(below, above)
    try:
        return SlurmSettings.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in problems(error, SlurmSettings, values):
            place = "options" if problem.key.partition(".")[0] in above else origin
            lines.append(f"{place}: {_with_a_way_out(problem)}")
        raise ValueError("\n".join(lines)) from None


def _with_a_way_out(problem: Problem) -> str:
    if not problem.whole:
        return str(problem)
    if problem.key.replace("_", "-") in WITHOUT_KEY:
        return f"unknown key {problem.key}; it is an option of sbatch: put it below `sbatch:`"
    hint = "" if "did you mean" in problem.message else "; put options of sbatch without a key below `sbatch:`"
    return f"{problem}{hint}"


def _layer(origin: str, values: dict[str, Any]) -> dict[str, Any]:
    try:
        return one_layer(values)
    except ValueError as error:
        raise ValueError("\n".join(f"{origin}: {line}" for line in str(error).splitlines())) from None


def _of_this_cluster() -> Path | None:
    name = slurm_config().get("ClusterName")
    return next((path for path in all_files() if name and read(path).get("cluster_name") == name), None)


def slurm_config() -> dict[str, str]:
    """The output of `scontrol show config`; empty if there is no SLURM."""
    try:
        done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    pairs = (line.partition("=") for line in done.stdout.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}
