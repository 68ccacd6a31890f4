"""Writes a configuration file for a data set and a machine."""

import textwrap
from collections.abc import Callable
from pathlib import Path

from launch.configure import hardware as machines
from launch.configure.plan import make_plan
from launch.configure.writing import commands, title, to_yaml
from sivae_dist.run.atomic import replacing


def configure(
    data: str, out: Path, hardware: str, resolution: int | None, hours: float | None, say: Callable[[str], None]
) -> None:
    """Writes a valid configuration. Raises a one-line ValueError when there is none, or `out` exists."""
    import torch

    from data_pipelines.images.dataset import ImageSettings
    from data_pipelines.images.opening import open_store
    from sivae_dist.config.run_settings import load_config
    from sivae_dist.train.trainer import check_data, make_schedule

    if out.exists():
        raise ValueError(f"{out} exists: choose another with --out, or remove it")
    if out.suffix not in (".yaml", ".yml"):
        raise ValueError(f"--out {out} must be a .yaml file")
    machine = machines.parse(hardware)
    with open_store(data, ImageSettings(path=data).remote) as store:
        manifest = store.manifest()
    if manifest.train < 1:
        raise ValueError(f"{data} has no training images")
    say(f"{data}: {manifest.train:,} training images up to {manifest.resolution} px; hardware: {machine.name}")
    plan = make_plan(data, manifest, machine, resolution, hours, say)
    with replacing(out) as partial:
        partial.write_text(to_yaml(plan, str(out)))
        settings = load_config(partial)
        with settings.data.open(settings.seed, torch.device("cpu")) as opened:
            check_data(settings.fitted(opened), opened)
        make_schedule(settings, opened.train).check_world_size(machine.processes)
    for text in title(plan):
        for line in textwrap.wrap(text, 80, break_on_hyphens=False):
            say(line)
    say(f"written to {out}; next:")
    for command in commands(plan, str(out)):
        say(f"    {command}")
