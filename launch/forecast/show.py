"""The tables of `sivae plan`, and the same as JSON."""

from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from data_pipelines.stages import pixels
from launch.forecast.actual import Actual
from launch.forecast.forecast import HOUR, Forecast, PhaseForecast
from launch.forecast.machine import Machine
from sivae_dist.process.durations import duration

Found = Forecast | ValueError
"""A forecast, or why there is none for so many GPUs."""


def facts(found: Forecast) -> dict[str, Any]:
    """A forecast as JSON has it: the whole run, then every phase."""

    def of(phase: PhaseForecast | None) -> dict[str, Any]:
        return {
            "hours": found.hours(phase),
            "gpu_hours": found.gpu_hours(phase),
            "cost": found.cost(phase),
            "kwh": found.kilowatt_hours(phase),
        }

    phases = [
        {
            "resolution": phase.resolution,
            "images": phase.images,
            "steps": phase.steps,
            "batch_per_gpu": phase.batch,
            "micro_batches": phase.parts,
            "images_per_second": phase.images_per_second,
            "memory_bytes": phase.memory,
            "fits": phase.fits,
            "sent_bytes_per_step": phase.sent // phase.steps,
            "sent_bytes": phase.sent,
            "communication_share": phase.waited / phase.seconds,
            **of(phase),
        }
        for phase in found.phases
    ]
    return {"gpus": found.gpus, **of(None), "phases": phases}


def show(machine: Machine, many: dict[int, Found], remedy: str) -> None:
    """Prints a table for each number of GPUs, and what they rest on. `remedy`: for a step that does not fit."""
    console = _console()
    for gpus, found in many.items():
        if isinstance(found, ValueError):
            console.print(f"\n{gpus} x {machine.name}: {found}")
            continue
        console.print(f"\n{gpus} x {machine.name}")
        console.print(_table(facts(found)))
        for phase in found.phases:
            if not phase.fits:
                console.print(f"warning: {pixels(phase.resolution) or 'the steps'} do not fit: set {remedy}")
    console.print("Without the start, evaluations, checkpoints and waits for data.")
    if machine.watts is not None:
        console.print(f"kWh: {machine.watts:g} W of a GPU's board all the time; hosts and cooling come on top.")
    if machine.within_node is None:
        console.print("Communication costs no time here: the machine's links were not measured.")
    for line in machine.source:
        console.print(f"constants: {line}")


def _table(run: dict[str, Any]) -> Table:
    table = Table(box=SIMPLE)
    for title in ("px", "images/s", "per GPU", "GB", "GB sent/step", "waits", "time", "GPU-hours", "cost", "kWh"):
        if _has(run, title):
            table.add_column(title, justify="right", no_wrap=True)
    for row in (*run["phases"], run):
        cells = _cells(row, whole=row is run)
        table.add_row(*(cells[str(column.header)] for column in table.columns))
    return table


def _has(run: dict[str, Any], title: str) -> bool:
    if title == "px":
        return any(pixels(phase["resolution"]) for phase in run["phases"])
    return not (title in ("cost", "kWh") and run[title.lower()] is None)


def _cells(row: dict[str, Any], *, whole: bool) -> dict[str, str]:
    """By title. `whole`: the row of the whole run."""
    cells = {
        "time": duration(row["hours"] * HOUR),
        "GPU-hours": f"{row['gpu_hours']:,.4g}",
        "cost": "" if row["cost"] is None else f"{row['cost']:,.2f}",
        "kWh": "" if row["kwh"] is None else f"{row['kwh']:,.4g}",
    }
    if whole:
        return {"px": "all", **dict.fromkeys(("images/s", "per GPU", "GB", "GB sent/step", "waits"), ""), **cells}
    parts = row["micro_batches"]
    return {
        "px": str(row["resolution"]),
        "images/s": f"{row['images_per_second']:,.4g}",
        "per GPU": f"{row['batch_per_gpu']}" + (f" x {parts}" if parts > 1 else ""),
        "GB": f"{row['memory_bytes'] / 1e9:.1f}" + ("" if row["fits"] else "!"),
        "GB sent/step": f"{row['sent_bytes_per_step'] / 1e9:.3f}",
        "waits": f"{row['communication_share']:.0%}",
        **cells,
    }


def show_actual(found: Forecast, actual: dict[int, Actual]) -> None:
    """Prints what was planned beside what happened, by phase."""
    table = Table(box=SIMPLE)
    titles = (
        "px",
        "images/s planned",
        "measured",
        "planned / measured",
        "GB planned",
        "measured",
        "planned / measured",
    )
    for title in titles:
        table.add_column(title, justify="right")
    for phase in found.phases:
        if (one := actual.get(phase.resolution)) is None:
            continue
        table.add_row(
            str(phase.resolution),
            f"{phase.images_per_second:,.4g}",
            f"{one.images_per_second:,.4g}",
            f"{phase.images_per_second / one.images_per_second:.2f}",
            f"{phase.memory / 1e9:.2f}",
            f"{one.memory / 1e9:.2f}",
            f"{phase.memory / one.memory:.2f}",
        )
    _console().print(table)


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)  # a file has no width limit
    return console
