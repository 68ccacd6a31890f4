"""What follows from the figures of benchmarks/gpu.py: rates and shares of each cell, and the page."""

from collections.abc import Callable, Iterator
from typing import Any

from launch.forecast.forecast import form_of
from launch.forecast.gpus import of_card
from launch.forecast.peaks import peak
from launch.forecast.roofline import time_of_step
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.models.layers import forms
from sivae_dist.process.numerics import Precision
from sivae_dist.train.counts import trace_step

GOAL = 4.0
"""Times as fast as the baseline's faster mode, on an H100 or H200."""
GOAL_CARDS = ("H100", "H200")


def judge(cells: list[dict[str, Any]], card: str) -> None:
    """Adds what follows from the figures: rates, the share of the card's peak, and how many times the baseline."""
    for cell in cells:
        if "error" in cell:
            continue
        total, rate = cell["total"], peak(card, cell["precision"])
        cell["images/s"], cell["passes/s"] = cell["batch"] / total, cell["passes"] / total
        cell["flop/s"] = None if cell["flops"] is None else cell["flops"] / total
        cell["mfu"] = None if rate is None or cell["flop/s"] is None else cell["flop/s"] / rate[0]
        cell["peak source"] = None if rate is None else rate[1]
        beside = [
            other["total"]
            for other in cells
            if not other["ours"] and "error" not in other
            and (other["resolution"], other["batch"]) == (cell["resolution"], cell["batch"])
        ]  # fmt: skip
        cell["times the baseline"] = min(beside) / total if cell["ours"] and beside else None
        judged = cell["times the baseline"] is not None and any(name in card for name in GOAL_CARDS)
        cell["reached"] = cell["times the baseline"] >= GOAL if judged else None


def against_the_plan(settings_in: Callable[[Precision], RunSettings], cells: list[dict[str, Any]], card: str) -> None:
    """Adds which share of what `sivae plan` expects our modes reach from 64 px on; they are planned as not compiled."""
    machine = of_card(card)
    for cell in cells:
        if machine is not None and cell["ours"] and "error" not in cell and cell["resolution"] >= 64:
            precision = cell["precision"]
            settings = settings_in(precision)
            with forms.using(form_of(settings, machine)):
                traced = trace_step(settings, cell["resolution"], cell["batch"])
            planned = time_of_step(traced.work, machine, precision).total
            cell["planned"], cell["share of the plan"] = planned, planned / cell["total"]


def page(found: dict[str, Any], card: str) -> Iterator[str]:
    """Lines of the table, in the order in which the rows were measured."""
    yield (
        f"\n| px, batch | mode | ms, host | ms | images/s | passes/s | TFLOP/s | MFU, % | GB held, traced / allocated "
        f"| times {found['baseline']} | % of the plan's roofline |"
    )
    yield "|" + "---|" * 11
    order = list(dict.fromkeys((cell["resolution"], cell["batch"]) for cell in found["cells"]))
    for cell in sorted(found["cells"], key=lambda cell: order.index((cell["resolution"], cell["batch"]))):
        start = f"| {cell['resolution']}, {cell['batch']} | {cell['mode']} |"
        if "error" in cell:
            yield f"{start} {cell['error'][:120].replace('|', '/')} |" + " |" * 8
            continue
        times, reached = cell["times the baseline"], cell["reached"]
        goal = "" if reached is None else f" ({GOAL:g} {'reached' if reached else 'missed'})"
        memory = f"{_shown(cell['traced'], 1e9, 2)} / {_shown(cell['allocated'], 1e9, 2)}"
        rates = f"{cell['images/s']:,.1f} | {cell['passes/s']:,.0f} | {_shown(cell['flop/s'], 1e12, 1)}"
        mfu, share = (_shown(cell.get(name), 0.01, 0) for name in ("mfu", "share of the plan"))
        yield (
            f"{start} {1e3 * cell['host']:.1f} | {1e3 * cell['total']:.1f} | {rates} | {mfu} | {memory} "
            f"| {_shown(times, 1, 2)}{goal} | {share} |"
        )
    sources = sorted({cell["peak source"] for cell in found["cells"] if cell.get("peak source")})
    yield "\nMFU: floating-point operations of the layers without torch.compile, over the card's peak in that precision"
    yield f"({'; '.join(sources)})." if sources else f"(not computed: the peaks of {card} are not known)."
    yield "The plan's roofline: launch/forecast/gpus.py, whose shares of the peaks are assumed; the goal is 60% of it."
    if found["skipped"]:
        yield f"\nSkipped for lack of time: {'; '.join(found['skipped'])}."


def _shown(value: float | None, unit: float, digits: int) -> str:
    return "-" if value is None else f"{value / unit:,.{digits}f}"
