"""How far `sivae plan` is off on this machine: predicted and measured steps of configurations that it does not know.

    python -m benchmarks.plan [--machine FILE] [--rows 1,2,3] [--rounds 3] [--out FILE]

The machine is measured by `sivae benchmark` first (convolutions, matrix products, element-wise operations and copies;
no step), unless a file has it. Then real steps are taken, in CPU seconds of one thread, the least of some rounds.
Memory is the peak of a step: bytes of tensors (counted in a step that is not timed), and the resident bytes of a
process of its own that takes nothing but this step.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.iteration import PASSIVE
from benchmarks.report import report
from launch.forecast.command import measure
from launch.forecast.machine import Machine, read_machine
from launch.forecast.roofline import time_of_step
from launch.steps import Stepper
from sivae_dist.config.run_settings import RunSettings, load_config
from sivae_dist.models.layers import forms
from sivae_dist.train.counts import trace_step
from sivae_dist.train.memory import estimate
from sivae_dist.train.players import Players
from sivae_dist.train.tracing import Tracker

TIME_GOAL, MEMORY_GOAL = 0.2, 0.1
"""How far a prediction may be off."""


class Row(NamedTuple):
    config: str
    resolution: int
    batch: int
    settings: list[str]

    @property
    def name(self) -> str:
        return f"{self.config} {' '.join(self.settings)}, {self.resolution} px, {self.batch}"

    def load(self) -> RunSettings:
        """Its settings; from here on layers are computed in their form."""
        settings = load_config(self.config, ["data.path=unused", "device=cpu", *self.settings])
        forms.use(None if settings.engine.kernels == "auto" else settings.engine.kernels)
        return settings


ROWS = (
    Row("ffhq256", 8, 8, ["engine.precision=fp32"]),
    Row("ffhq256", 32, 2, ["engine.precision=bf16"]),
    Row("ffhq256", 128, 1, ["engine.precision=fp32"]),
    Row("tiny", 32, 16, ["engine.precision=fp32", "engine.kernels=plain"]),
    Row("fluent_emoji64", 64, 8, ["engine.precision=fp32", "objective={name: vae}"]),
)


class Predicted(NamedTuple):
    seconds: float
    tensors: int
    """Bytes that the process holds at the peak."""
    resident: int
    """The same with what it takes besides tensors."""


def predict(row: Row, machine: Machine) -> Predicted:
    run = row.load()
    traced = trace_step(run, row.resolution, row.batch)
    found = estimate(run, row.resolution, False, row.batch, 1, device="cpu")
    tensors = found.peak - found.overhead
    seconds = time_of_step(traced.work, machine, run.engine.precision).total
    return Predicted(seconds, tensors, tensors + machine.process_bytes)


class Measured(NamedTuple):
    seconds: float
    tensors: int
    resident: int


def take(row: Row, rounds: int) -> Measured:
    """Steps of a row, after two that do not count, in this process."""
    stepper = Stepper(row.load(), torch.device("cpu"), row.resolution)
    x, draws = stepper.images(row.batch), stepper.draws(row.batch)
    stepper.step(x, draws)
    resident = _most_resident()
    with Tracker() as tracker:
        stepper.step(x, draws)
    given = x.nbytes + sum(t.nbytes for t in (draws.z, draws.eps, draws.noise) if t is not None)
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        stepper.step(x, draws)
        seconds.append(time.process_time() - start)
    return Measured(min(seconds), tracker.peak + given + _held(stepper.players), resident)


def _most_resident() -> int:
    """Bytes; getrusage would include what the process was before it became this program."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _held(players: Players) -> int:
    """Bytes of weights, averages and moments."""
    weights = [p for network in players.networks for p in network.parameters()]
    averages = [p for ema in (players.encoder_ema, players.decoder_ema) for p in ema.parameters()]
    optimizers = (players.encoder_engine.optimizer, players.decoder_engine.optimizer)
    moments = [t for each in optimizers for state in each.state.values() for t in state.values()]
    return sum(tensor.nbytes for tensor in (*weights, *averages, *moments))


def in_a_process(number: int, rounds: int) -> Measured:
    command = [sys.executable, "-m", "benchmarks.plan", "--take", str(number), "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, tensors, resident = done.stdout.split()
    return Measured(float(seconds), int(tensors), int(resident))


def _cells(predicted: float, measured: float, unit: float, goal: float) -> str:
    off = predicted / measured - 1
    return f"{predicted / unit:.2f} | {measured / unit:.2f} | {off:+.0%} {'yes' if abs(off) <= goal else 'no'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", type=Path, help="written by `sivae benchmark`; measured now when left out")
    parser.add_argument("--rows", help="numbers of rows from 1 on, as 1,3; all by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--take", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="a file for the results")
    arguments = parser.parse_args()
    if not PASSIVE.items() <= os.environ.items():  # read when torch is loaded
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.plan", *sys.argv[1:]], os.environ | PASSIVE)
    torch.set_num_threads(1)
    if arguments.take is not None:
        print(*take(ROWS[arguments.take], arguments.rounds))
        return
    numbers = [int(one) - 1 for one in (arguments.rows or ",".join(map(str, range(1, len(ROWS) + 1)))).split(",")]
    with report(arguments.out, "Planned and measured steps", ("torch",)) as say:
        start = time.process_time()
        if arguments.machine is None:
            machine = measure(torch.device("cpu"), ["fp32", "bf16"], lambda line: None)
            say(f"- the machine's constants took {time.process_time() - start:.0f} CPU seconds")
        else:
            machine = read_machine(arguments.machine)
        say(f"- {machine.name}; goals: time within {TIME_GOAL:.0%}, memory within {MEMORY_GOAL:.0%}\n")
        say("| configuration, images | CPU s, planned | measured | off | GB of tensors, planned | measured | off "
            "| GB resident, planned | measured | off |")  # fmt: skip
        say("|" + "---|" * 10)
        for number in numbers:
            predicted, measured = predict(ROWS[number], machine), in_a_process(number, arguments.rounds)
            cells = (
                _cells(predicted.seconds, measured.seconds, 1, TIME_GOAL),
                _cells(predicted.tensors, measured.tensors, 1e9, MEMORY_GOAL),
                _cells(predicted.resident, measured.resident, 1e9, MEMORY_GOAL),
            )
            say(f"| {ROWS[number].name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
