"""`sivae plan` and `sivae benchmark`."""

import json
import os
import platform
import re
from pathlib import Path
from typing import get_args

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from launch.forecast.actual import actual, processes_of
from launch.forecast.forecast import Forecast, forecast
from launch.forecast.gpus import GPUS
from launch.forecast.machine import Machine, read_machine
from launch.forecast.microbenchmarks import Report, Stopwatch, operation_seconds, rates, streams
from launch.forecast.show import Found, facts, show, show_actual
from sivae_dist.config.opening import settings_of
from sivae_dist.config.run_settings import RunSettings, load_config
from sivae_dist.process import startup
from sivae_dist.process.devices import Place, pick_device, processor
from sivae_dist.process.host import host_memory, resident
from sivae_dist.process.numerics import Precision
from sivae_dist.run.atomic import write_text
from sivae_dist.run.directory import RunDirectory
from sivae_dist.step.schedule import Schedule
from sivae_dist.train.memory import remedy
from sivae_dist.train.trainer import make_schedule


def plan_run(
    config: str,
    assignments: list[str],
    gpu: str | None,
    machine_file: Path | None,
    gpus: str | None,
    price: float | None,
    samples: int | None,
    out: Path | None,
) -> None:
    """Prints the plan, and compares a run's with what happened. ValueError for what cannot be planned."""
    machine = _machine(gpu, machine_file)
    if price is not None and not price > 0:
        raise ValueError(f"--price {price:g}: a GPU-hour costs more than nothing")
    run = RunDirectory(Path(config))
    settings = settings_of(run, assignments) if run.exists else load_config(config, assignments)
    schedule = make_schedule(settings, _samples(settings, samples))
    numbers = _numbers(gpus) if gpus is not None else [processes_of(run)] if run.exists else None
    if numbers is None:
        raise ValueError("give --gpus, the numbers of GPUs to plan for, as 8,64")
    many = {number: _found(settings, schedule, machine, number, price) for number in numbers}
    startup.done()
    show(machine, many, remedy(settings))
    if settings.engine.compile:
        print("engine.compile: its gain is not known; operations are counted without it.")
    plans = [facts(found) for found in many.values() if isinstance(found, Forecast)]
    if out is not None:
        refused = {str(number): str(found) for number, found in many.items() if isinstance(found, ValueError)}
        whole = {"machine": machine.name, "constants": machine.source, "plans": plans, "refused": refused}
        write_text(out, json.dumps(whole, indent=1) + "\n")
    if not plans:
        raise ValueError("; ".join(map(str, many.values())))
    if run.exists:
        planned = next(found for found in many.values() if isinstance(found, Forecast))
        show_actual(planned, actual(run, schedule))


def _found(settings: RunSettings, schedule: Schedule, machine: Machine, gpus: int, price: float | None) -> Found:
    try:
        return forecast(settings, schedule, machine, gpus, price)
    except ValueError as error:
        return error


def _machine(gpu: str | None, file: Path | None) -> Machine:
    if (gpu is None) == (file is None):
        raise ValueError("give either --gpu, the kind of GPU, or --machine, what `sivae benchmark` has written")
    if file is not None:
        return read_machine(file)
    assert gpu is not None
    if gpu.lower() not in GPUS:
        raise ValueError(f"--gpu {gpu}: known are {', '.join(GPUS)}; measure others by `sivae benchmark`")
    return GPUS[gpu.lower()]


def _numbers(text: str) -> list[int]:
    """`8,64` as 8, 64."""
    numbers = [int(part) if re.fullmatch(r"\s*\d{1,6}\s*", part, re.ASCII) else 0 for part in text.split(",")]
    if min(numbers) < 1:
        raise ValueError(f"--gpus {text}: numbers of GPUs are whole and positive, as 8,64")
    return list(dict.fromkeys(numbers))


def _samples(settings: RunSettings, given: int | None) -> int:
    """Training samples, which only a schedule in epochs needs."""
    if given is not None or settings.schedule.epochs is None:
        return given or 1
    startup.doing(f"opening {settings.data.where}")
    try:
        with settings.data.open(settings.seed, torch.device("cpu")) as data:
            return data.train
    except (ValueError, OSError) as error:
        raise ValueError(f"{error}; the schedule is in epochs: give --samples, the number of training images") from None


def benchmark_machine(out: Path, device: str, precision: str | None, threads: int) -> None:
    """Measures this machine, prints a table, and writes the file. ValueError for what cannot be measured."""
    place = pick_device(device, Place())
    usual = "fp32,bf16" if place.type == "cpu" else "fp32,tf32,bf16"
    wanted = _precisions(precision or usual)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        measured = measure(place, wanted, lambda line: print(f"measured {line}", flush=True))
    finally:
        torch.set_num_threads(before)
    startup.done()
    _print(measured)
    write_text(out, measured.model_dump_json(indent=1) + "\n")
    print(f"written to {out}: sivae plan CONFIG --machine {out} --gpus 1")


def measure(device: torch.device, precisions: list[Precision], say: Report) -> Machine:
    """The constants of this machine, with the threads that this process has."""
    import sivae_dist.train.trainer  # noqa: F401  # a process that trains has imported it

    process_bytes = resident()
    watch = Stopwatch(device)
    found = [(list(rates(one, watch, say)), list(streams(one, watch, say))) for one in precisions]
    threads = torch.get_num_threads()
    if device.type == "cuda":
        name, memory = torch.cuda.get_device_name(device), torch.cuda.get_device_properties(device).total_memory
        process_bytes = memory - torch.cuda.mem_get_info(device)[0] - torch.cuda.memory_reserved(device)
        clock = "seconds that pass"
    else:
        name, memory = f"{threads} thread(s) of {processor()}", host_memory().total
        clock = "CPU seconds" if threads == 1 else "seconds that pass"
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    machine = Machine(
        name=name,
        device="cuda" if device.type == "cuda" else "cpu",
        measured=True,
        source=[f"measured by `sivae benchmark` in {clock}, {versions}"],
        rates=[one for each, _ in found for one in each],
        streams=[one for _, each in found for one in each],
        operation_seconds=0.0,
        memory=memory,
        process_bytes=process_bytes,
    )
    return machine.model_copy(update={"operation_seconds": operation_seconds(machine, watch)})


def _precisions(text: str) -> list[Precision]:
    known: tuple[Precision, ...] = get_args(Precision)
    found = [one for one in known if one in text.split(",")]
    if len(found) != len(text.split(",")):
        raise ValueError(f"--precision {text}: known are {', '.join(known)}")
    return found


def _print(machine: Machine) -> None:
    """The fastest of each kind, and the time of an operation."""
    table = Table("kind", "precision", "at most", box=SIMPLE)
    best: dict[tuple[str, str], str] = {}
    for one in sorted(machine.rates, key=lambda one: one.flops_per_second):
        best[one.kind, one.precision] = f"{one.flops_per_second / 1e9:,.0f} GFLOP/s"
    for each in sorted(machine.streams, key=lambda one: one.bytes / one.seconds):
        best[each.kind, each.precision] = f"{each.bytes / each.seconds / 1e9:,.1f} GB/s"
    for (kind, precision), value in best.items():
        table.add_row(kind, precision, value)
    console = Console(highlight=False, markup=False)
    console.print(f"{machine.name}, {os.cpu_count()} cores")
    console.print(table)
    console.print(f"an operation is issued in {machine.operation_seconds * 1e6:.1f} us")
