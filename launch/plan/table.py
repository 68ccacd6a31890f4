"""The table that a dry run prints: phases, memory, disk and work."""

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from data_pipelines.stages import pixels
from launch.plan.memory import estimate_phase, images_at_once
from launch.plan.preflight import Plan
from launch.plan.trial import check_space
from sivae_dist.run.directory import RunDirectory
from sivae_dist.step.schedule import Phase
from sivae_dist.train.memory import Estimate, meta_networks

_WIDE = 116
"""Terminal width from which a single table is printed."""

_SCHEDULE = ("images", "epochs", "steps", "blend", "batch", "x rank", "memory")


def show(plan: Plan, run: RunDirectory) -> None:
    """Prints the plan, fitted to the terminal's width."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)  # a file has no width limit
    phases = plan.schedule.phases
    estimates = [estimate_phase(plan.settings, plan.schedule, p, plan.processes, plan.place.device) for p in phases]
    left = [_schedule_cells(plan, *row) for row in zip(phases, estimates, strict=True)]
    cells = [_objective_cells(plan, phase) for phase in phases]
    columns, right = (*cells[0],), [[*row.values()] for row in cells]
    if console.width >= _WIDE:
        tables = [((*_SCHEDULE, *columns), [a + b for a, b in zip(left, right, strict=True)])]
    else:
        tables = [(_SCHEDULE, left), (columns, right)]
    sizes = [[str(phase.resolution)] if pixels(phase.resolution) else [] for phase in phases]
    for names, rows in tables:
        table = Table(*["px"] * any(sizes), *names, box=SIMPLE)
        for size, row in zip(sizes, rows, strict=True):
            table.add_row(*size, *row)
        console.print(table)
    for line in (*plan.settings.objective.legend, *_summary(plan, run, estimates)):
        console.print(line)


def _schedule_cells(plan: Plan, phase: Phase, found: Estimate) -> list[str]:
    batch, share = images_at_once(plan.settings, phase, plan.processes), phase.batch // plan.processes
    auto = plan.settings.engine.max_batch_per_rank == "auto"
    parts = "" if share == batch else f" x {share // batch}"
    return [
        f"{phase.images:,}",
        f"{phase.images / plan.data.train:.3g}",
        f"{-(-phase.images // phase.batch):,}",
        f"{phase.blend_images:,}",
        str(phase.batch),
        f"auto, {share}" if auto else f"{batch}{parts}",
        f"{'> ' if auto and share > 1 else ''}{_bytes(found.peak)}",
    ]


def _objective_cells(plan: Plan, phase: Phase) -> dict[str, str]:
    """Cells by column heading."""
    rates = dict.fromkeys((phase.lr_encoder, phase.lr_decoder))
    own = plan.settings.objective.columns(phase.resolution, plan.settings.model.dimensions)
    return {"lr E/D": "/".join(f"{rate:g}" for rate in rates), **own}


def _summary(plan: Plan, run: RunDirectory, estimates: list[Estimate]) -> list[str]:
    schedule, settings = plan.schedule, plan.settings
    encoder, decoder = (sum(p.numel() for p in network.parameters()) for network in meta_networks(settings))
    steps = sum(-(-phase.images // phase.batch) for phase in schedule.phases)
    work = plan.processes * sum(
        found.flops * -(-phase.images // phase.batch) for phase, found in zip(schedule.phases, estimates, strict=True)
    )
    most = max(estimates, key=lambda found: found.peak)
    data = plan.data.stored_bytes(settings.model.resolutions)
    objective = settings.objective
    lines = [
        f"{objective.title}: {schedule.end:,} images in {steps:,} steps, {objective.warmup_images:,} images of warm-up "
        "as a plain VAE",
        f"{plan.processes} process(es) on {plan.place.device}, {plan.data.train:,} training samples",
        *plan.data.notes(),
        f"parameters: encoder {encoder:,}, decoder {decoder:,}",
        f"work: {work:.2g} floating-point operations",
        f"memory: up to {_bytes(most.peak)} per process (state {_bytes(most.state)}, step "
        f"{_bytes(most.activations + most.inputs)}, overhead {_bytes(most.overhead)})",
        f"disk: data {_bytes(data)}, {check_space(settings, schedule, run.path)}",
    ]
    return lines + [f"note: {note}" for note in plan.notes] + [f"warning: {line}" for line in plan.warnings]


def _bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
