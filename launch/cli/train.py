"""`sivae train`: one run on this machine."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.cli.errors import one_line_errors
from launch.cli.options import RunDir
from sivae_dist import startup
from sivae_dist.output import outlast_watchers

if TYPE_CHECKING:
    from sivae_dist.config import RunSettings
    from sivae_dist.schedule import Schedule


def train(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of one that comes with sivae.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    data: Annotated[str | None, typer.Option(help="A prepared data set: a directory, a URL, or pipe:COMMAND.")] = None,
    run_dir: RunDir = None,
    nproc: Annotated[int, typer.Option(min=0, help="Number of processes; 0 = one per GPU, or one without a GPU.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Resolve, check and print the phases; train nothing.")
    ] = False,
) -> None:
    """Train, or continue where the run stands: to resume, run the same command again."""
    again = "interrupted: run the same command again to continue from the last checkpoint"
    with one_line_errors(again), startup.speaking("loading PyTorch"):
        outlast_watchers()
        from launch.local import launch
        from sivae_dist.config import config_path, load_config, run_name
        from sivae_dist.devices import check_processes, default_processes
        from sivae_dist.ends import STOPPED
        from sivae_dist.run import RunDirectory

        assignments = list(overrides or [])
        if data is not None:
            assignments.append(f"data.path={json.dumps(data)}")  # quoted: a command may look like YAML
        settings = load_config(config, assignments)
        startup.doing("looking for GPUs")
        processes = nproc or default_processes(settings.device)
        check_processes(settings.device, processes)
        startup.doing(f"opening {settings.data.path}")
        schedule = check(settings, processes)
        if dry_run:
            print_phases(settings, processes)
            return
        run = RunDirectory(run_dir or Path("runs") / run_name(config_path(config)))
        for note in run.open(settings, schedule.train_samples):
            typer.echo(f"note: {note}")
        code = launch(run.path, processes)
    if code == STOPPED:
        typer.echo("stopped as asked, and saved: run the same command again to continue", err=True)
    if code:
        raise typer.Exit(code)


def check(settings: "RunSettings", processes: int) -> "Schedule":
    """The schedule of the run. ValueError for everything that can be known to fail before a process is started."""
    from data_pipelines.store import open_store
    from sivae_dist.trainer import check_data, make_schedule

    with open_store(settings.data.path, settings.data.remote) as store:
        manifest = store.manifest()
    check_data(settings, manifest)
    schedule = make_schedule(settings, manifest)
    schedule.check_world_size(processes)
    return schedule


_FAKES = {
    "soft_intro": (
        ("c", "resting KL"),
        "c: fall of a fake's exponent per nat; resting KL: nats where KL(fake) settles (aim at 1-2 times KL(real))",
    ),
    "intro": (("m",), "m: KL(fake) in nats up to which fakes are pushed away (aim above KL(real))"),
}
"""By objective: the columns of a dry run that say how generated images fare, and what they mean."""


def print_phases(settings: "RunSettings", processes: int) -> None:
    """The table of phases of a dry run."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from data_pipelines.mirroring import mirroring_note
    from data_pipelines.store import open_store
    from sivae_dist.models import build
    from sivae_dist.objectives.intro import IntroWeights
    from sivae_dist.objectives.soft_intro import SoftIntroWeights
    from sivae_dist.trainer import make_schedule

    with open_store(settings.data.path, settings.data.remote) as store:
        manifest = store.manifest()
    schedule = make_schedule(settings, manifest)
    objective = settings.objective
    columns, legend = _FAKES.get(objective.name, ((), ""))
    table = Table(
        "px", "images", "epochs", "steps", "blend", "batch", "x rank", "lr E/D", "beta rec/kl/neg", box=SIMPLE
    )
    for column in columns:
        table.add_column(column)
    for phase in schedule.phases:
        share = phase.batch // processes
        parts = settings.engine.parts(share, phase.resolution)
        weights = objective.weights(phase.resolution, settings.model.dimensions)
        betas = [weights.beta_rec, weights.beta_kl]
        fakes = []
        if isinstance(weights, SoftIntroWeights | IntroWeights):
            betas.append(weights.beta_neg)
        if isinstance(weights, SoftIntroWeights):
            fakes = [f"{weights.slope:.3g}", f"{weights.resting_kl:.1f}"]
        if isinstance(weights, IntroWeights):
            fakes = [f"{weights.margin:g}"]
        table.add_row(
            str(phase.resolution), f"{phase.images:,}", f"{phase.images / manifest.train:.3g}",
            f"{-(-phase.images // phase.batch):,}", f"{phase.blend_images:,}", str(phase.batch),
            f"{share // parts}" + (f" x {parts}" if parts > 1 else ""),
            "/".join(f"{rate:g}" for rate in dict.fromkeys((phase.lr_encoder, phase.lr_decoder))),
            "/".join(f"{beta:g}" for beta in betas), *fakes,
        )  # fmt: skip
    encoder, decoder = (sum(p.numel() for p in network.parameters()) for network in build(settings.model, 0))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)  # a file has no width to fit into
    console.print(table)
    console.print(
        f"{schedule.total:,} images, {objective.warmup:,} of them warm-up as a plain VAE, "
        f"{processes} process(es), {manifest.train:,} training samples",
        highlight=False,
    )
    console.print(mirroring_note(manifest, settings.data.flip), highlight=False)
    console.print(f"parameters: encoder {encoder:,}, decoder {decoder:,}", highlight=False)
    if legend:
        console.print(legend, highlight=False)
