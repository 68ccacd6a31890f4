"""Ten minutes on a GPU: a training iteration beside the authors' code, then the points of `sivae doctor --gpu`.

    python -m benchmarks.gpu [--minutes 10] [--authors CLONE] [--rows 64x32,256x8] [--config ffhq256]
                             [--set KEY=VALUE ...] [--json FILE] [--out FILE]

The iteration and the baseline are those of benchmarks/iteration.py. Each mode of a row is measured alone in turn, in
seconds of a device that has finished all its work, after iterations that do not count. The table begins with batches
that fill a GPU; torch.compile, which takes up to a minute for each row, comes last. What six tenths of the time do not
suffice for is skipped and named, and the points get the rest; the table replaces the fourth. A mode that fails is kept
with its message, and the others are still measured.

On a CPU (`--device cpu`) the same code runs with `--set` of tiny networks, for tests: its figures mean nothing.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import torch

from benchmarks.gpu_page import against_the_plan, judge, page
from benchmarks.iteration import Contender, OurIteration, baseline_of
from benchmarks.machine import machine
from benchmarks.report import commit, report
from launch.doctor.gpu import points
from launch.doctor.gpu.course import Course, clocked
from launch.doctor.report import Report, without_secrets
from launch.doctor.selftest import SelfTest
from sivae_dist.config.run_settings import RunSettings, load_config
from sivae_dist.objectives.soft_intro import SoftIntroSettings
from sivae_dist.process import numerics
from sivae_dist.process.devices import device_model, driver_version, pick_device
from sivae_dist.process.numerics import Precision
from sivae_dist.train.kernels import choose_kernels
from sivae_dist.train.tracing import Tracker

SHARE = 0.6
"""Of the minutes, for the table."""
COMPILATION = 60.0
"""Seconds that must be left for a mode with torch.compile to begin."""
PASSES_OF_THE_BASELINE = 33


class Mode(NamedTuple):
    ours: bool
    precision: Precision
    compiled: bool = False

    def __str__(self) -> str:
        return "-".join(
            [*([] if self.ours else ["baseline"]), self.precision, *(["compiled"] if self.compiled else [])]
        )


MODES = {
    str(mode): mode
    for mode in (
        Mode(False, "fp32"),
        Mode(False, "tf32"),
        Mode(True, "fp32"),
        Mode(True, "tf32"),
        Mode(True, "bf16"),
        Mode(True, "bf16", compiled=True),
        Mode(True, "tf32", compiled=True),
        Mode(True, "fp32", compiled=True),
    )
}


class Row(NamedTuple):
    resolution: int
    batch: int

    def __str__(self) -> str:
        return f"{self.resolution}, {self.batch}"


ROWS = tuple(
    Row(*row)
    for row in (
        (256, 8), (64, 32), (128, 16), (32, 64), (16, 128), (8, 256),
        (256, 1), (128, 1), (64, 4), (32, 8), (16, 8), (8, 8),
    )
)  # fmt: skip
"""Batches that fill a GPU, then those of benchmarks/iteration.py; the first come first."""


class Cell(NamedTuple):
    """Figures of one mode at one row."""

    host: float
    """Seconds of an iteration until the host has issued it."""
    total: float
    """Seconds of an iteration."""
    begin: float
    """Seconds until iterations are timed: building, choosing algorithms, compiling."""
    flops: int | None
    """Of an iteration of the layers as they are without torch.compile; None where it could not be counted."""
    passes: int
    """Through a network, of an iteration."""
    traced: int | None
    """The most bytes that an iteration holds beyond what it begins with, by its operations; None if compiled."""
    allocated: int | None
    """The same by torch's allocator; None on a CPU."""
    state: int | None
    """Bytes that it begins with; None on a CPU."""


@contextmanager
def new_tensors_on(device: torch.device) -> Iterator[None]:
    """Makes tensors on `device` for which the baseline's code names none, as the authors' own launcher does; a default
    device would be looked up in every call and slow it down."""
    if device.type != "cuda":
        yield
        return
    torch.set_default_tensor_type("torch.cuda.FloatTensor")
    try:
        yield
    finally:
        torch.set_default_tensor_type("torch.FloatTensor")


def passes_of(objective: SoftIntroSettings) -> int:
    """Passes through a network in both updates (sivae_dist/objectives/soft_intro.py), forward and backward ones."""
    return 28 - (0 if objective.gamma_r else 2)


class Bench:
    """The device, the settings and the counts that modes share."""

    def __init__(self, arguments: argparse.Namespace, device: torch.device, test: SelfTest) -> None:
        """ValueError when the configuration or the clone cannot be used."""
        self.device, self.given = device, arguments
        config = self.settings(Mode(True, "fp32"))
        with torch.device("meta" if arguments.authors is None else "cpu"):
            self.baseline = baseline_of(config, arguments.config, arguments.authors).name
        assert isinstance(config.objective, SoftIntroSettings)
        self.passes = passes_of(config.objective)
        if device.type == "cuda":
            self.course = replace(Course.of(config, arguments.batch, test), modes=())
        else:
            self.course = Course(device, 1, config, 2, test, ((config.model.final_resolution, 2), (4, 2)), (), 2)
        self.flops: dict[tuple[Row, bool, bool], int] = {}

    def settings(self, mode: Mode) -> RunSettings:
        own = [f"engine.precision={mode.precision}", f"engine.compile={str(mode.compiled).lower()}"]
        given = ["data.path=unused", f"device={self.device.type}", *self.given.set, *own]
        return load_config(self.given.config, given)

    def _contender(self, mode: Mode) -> Contender:
        settings = self.settings(mode)
        numerics.configure(mode.precision, False, self.device)
        if mode.ours:
            choose_kernels(settings.engine, self.device, None)
            return OurIteration(settings, self.device, checked=False)
        return baseline_of(settings, self.given.config, self.given.authors)

    def measure(self, row: Row, mode: Mode) -> Cell:
        """Any error of torch's when the mode does not work here."""
        self.course.forget()
        start, wait = monotonic(), self.course.wait
        with nullcontext() if mode.ours else new_tensors_on(self.device):
            one = self._contender(mode)
            iterate = one.ready(*row)
            iterate()  # allocates the optimizer's state
            traced = None
            if not mode.compiled:
                with Tracker() as tracker:
                    iterate()
                traced, self.flops[self._counted(row, mode)] = tracker.peak, tracker.flops
            for _ in range(2):
                iterate()
            wait()
            state = self._mark()
            first = clocked(iterate, 1, wait)
            begin = monotonic() - start - first.total
            took = clocked(iterate, max(3, min(50, int(self.given.seconds / first.total))), wait)
        if isinstance(one, OurIteration):
            one.verdict()
        most = self.course.peak()
        return Cell(
            took.host,
            took.total,
            begin,
            self.flops.get(self._counted(row, mode)),
            self.passes if mode.ours else PASSES_OF_THE_BASELINE,
            traced,
            None if most is None or state is None else most - state,
            state,
        )

    @staticmethod
    def _counted(row: Row, mode: Mode) -> tuple[Row, bool, bool]:
        """Modes with the same operations: forms differ between bf16 and the others."""
        return row, mode.ours, mode.precision == "bf16"

    def _mark(self) -> int | None:
        """Bytes on the GPU, from which the peak is measured."""
        if self.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)


def table(
    bench: Bench, rows: Sequence[Row], modes: Sequence[Mode], late: Callable[[float], bool], skipped: list[str]
) -> Iterator[dict[str, Any]]:
    """Yields the figures of each mode at each row, those with torch.compile last.

    `late`: whether fewer than so many seconds are left; what is not measured then is named in `skipped`.
    """
    for compiled in (False, True):
        for row in rows:
            for mode in (mode for mode in modes if mode.compiled is compiled):
                if late(COMPILATION if compiled else 0.0):
                    skipped.append(f"{row}: {mode}")
                    continue
                cell = {"resolution": row.resolution, "batch": row.batch, "mode": str(mode), **mode._asdict()}
                try:
                    cell |= bench.measure(row, mode)._asdict()
                except Exception as error:  # out of memory, or the compiler's; the other modes are still measured
                    cell["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
                    error.__traceback__ = None  # which holds the networks
                yield cell


def examine(bench: Bench, late: Callable[[], bool]) -> dict[str, Any]:
    """The doctor's points, of which the fourth has no modes to time; its lines are printed as they are found."""
    found, chosen = Report(), bench.given.points

    def without(point: str) -> str | None:
        if chosen is not None and point.split()[0] not in chosen:
            return "--points leaves it out"
        return "no time was left" if late() else None

    with redirect_stdout(sys.stderr):
        points.run(found, bench.course, without)
    return {"findings": [asdict(finding) for finding in found.findings], "facts": found.facts}


def _rows(text: str) -> list[Row]:
    with suppress(ValueError, TypeError):
        return [Row(*map(int, one.split("x"))) for one in text.split(",")]
    raise argparse.ArgumentTypeError(f"{text} is no list of pixels x images, as 64x32,256x8")


def _modes(text: str) -> list[Mode]:
    try:
        return [MODES[one] for one in text.split(",")]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text} is no list of {', '.join(MODES)}") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="after which nothing begins")
    parser.add_argument("--authors", type=Path, metavar="CLONE", help="of taldatech/soft-intro-vae-pytorch")
    parser.add_argument("--rows", type=_rows, default=list(ROWS), help="pixels x images, as 64x32,256x8")
    parser.add_argument("--modes", type=_modes, default=list(MODES.values()), help=f"of {', '.join(MODES)}")
    parser.add_argument("--points", type=lambda text: text.split(","), help="of the doctor, as 2,5; all by default")
    parser.add_argument("--config", default="ffhq256")
    parser.add_argument(
        "--batch", type=int, help="images a GPU in the doctor's largest step; the configuration's share"
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further settings")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=1.5, help="of timed iterations of a mode")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    parser.add_argument("--out", type=Path, help="a file for the results")
    arguments = parser.parse_args()
    numerics.set_environment(deterministic=True)  # libraries read it once
    torch.manual_seed(0)
    random.seed(0)
    try:
        device = pick_device(arguments.device)
        with SelfTest(device, torch.cuda.device_count() or 1) as test:
            run(Bench(arguments, device, test))
    except ValueError as error:
        parser.error(str(error))


def run(bench: Bench) -> None:
    """Measures all, and writes the figures and the page, also of what there is when it is interrupted."""
    given, start, card = bench.given, monotonic(), device_model(bench.device)

    def late(share: float, needed: float = 0.0) -> bool:
        return monotonic() - start + needed >= 60 * share * given.minutes

    facts: dict[str, Any] = {
        "machine": machine(),
        "card": card,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "driver": driver_version(),
        "commit": commit(),
        "config": given.config,
        "set": given.set,
        "minutes": given.minutes,
        "baseline": bench.baseline,
        "cells": [],
        "skipped": [],
    }
    try:
        with report(given.out, "Training on a GPU", ("torch",)) as say:
            say(f"- {card}, CUDA {facts['cuda']}, cuDNN {facts['cudnn']}, driver {facts['driver']}")
            if given.authors is not None:
                say(f"- baseline: the authors' code at {commit(given.authors)}")
            for cell in table(bench, given.rows, given.modes, partial(late, SHARE), facts["skipped"]):
                print(f"{cell['resolution']} px x {cell['batch']}, {cell['mode']}", file=sys.stderr, flush=True)
                facts["cells"].append(cell)
            judge(facts["cells"], card)
            against_the_plan(lambda precision: bench.settings(Mode(True, precision)), facts["cells"], card)
            for line in page(facts, card):
                say(line)
            facts["points"] = examine(bench, partial(late, 1.0))
            say("\n```")
            for finding in facts["points"]["findings"]:
                say(f"{finding['level']:<4}  {finding['name']:<12}  {finding['detail']}")
            say("```")
    finally:
        if given.json is not None:
            given.json.write_text(json.dumps(without_secrets(facts), indent=1, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
