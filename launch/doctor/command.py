"""Runs all checks in order."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from launch.doctor import gpus, machine, packages, storage, surroundings
from launch.doctor.report import Finding, Report
from launch.environment import forget_launchers
from sivae_dist import __version__

Look = Callable[[dict[str, Any]], Iterator[Finding]]


def examine(folder: Path, path: Path, *, quick: bool = False) -> bool:
    """Prints the report and writes it to `path`; returns whether anything failed.

    `folder`: where runs will be written. `quick`: skip the self-test.
    """
    report = Report()
    look(report)
    storage_of(report, folder)
    if not quick:
        self_test(report)
    return finish(report, path)


def examine_gpu(folder: Path, path: Path, config: str, batch: int | None) -> bool:
    """The ten points on this machine's GPUs, for a run of `config` with `batch` images per process at its final
    resolution. ValueError, with the remedy, when there is no GPU."""
    import torch

    from sivae_dist.config.run_settings import load_config
    from sivae_dist.process.devices import usable_gpus, why_no_gpu

    settings = load_config(config, ["data.path=unused"])
    if not usable_gpus("auto"):
        raise ValueError(f"--gpu needs a GPU: {why_no_gpu()}; sivae doctor without --gpu checks the rest")
    from launch.doctor.gpu import points
    from launch.doctor.gpu.course import Course
    from launch.doctor.selftest import SelfTest
    from sivae_dist.process import numerics

    numerics.set_environment(deterministic=True)  # libraries read it once
    report = Report()
    report.facts["intended"] = settings.plain()
    look(report)
    storage_of(report, folder)
    report.title("Ten points on a GPU")
    with SelfTest(torch.device("cuda", 0), torch.cuda.device_count()) as test:
        points.run(report, Course.of(settings, batch, test))
    return finish(report, path)


def look(report: Report) -> None:
    """Checks the installation and the machine."""
    report.title("Installed")
    _each(report, {"python": packages.examine_python, "packages": packages.examine_packages})
    _each(report, {"torch": gpus.examine_torch, "compiler": packages.examine_compiler})
    _each(report, {"kernels": packages.examine_kernels})
    report.title("Machine")
    _each(report, {"GPUs": gpus.examine_gpus, "cores": machine.examine_cores, "memory": machine.examine_memory})
    count = len(report.facts["GPUs"].get("gpus", []))
    _each(report, {"/dev/shm": lambda facts: machine.examine_shared_memory(facts, count)})
    _each(report, {"open files": machine.examine_limits})
    report.title("Surroundings")
    _each(
        report,
        {
            "environment": surroundings.examine_environment,
            "host name": surroundings.examine_names,
            "clock": surroundings.examine_clock,
            "SLURM": surroundings.examine_slurm,
        },
    )


def storage_of(report: Report, folder: Path) -> None:
    report.title("Files")
    _each(
        report,
        {
            "file system": lambda facts: storage.examine_folder(facts, folder),
            "caches": storage.examine_caches,
            "weights": storage.examine_weights,
        },
    )


def self_test(report: Report) -> None:
    """Trains a tiny model on all GPUs, or on two processes on the CPU."""
    report.title("Self-test")

    def start(facts: dict[str, Any]) -> Iterator[Finding]:
        import torch

        from launch.doctor.selftest import SelfTest
        from sivae_dist.process import numerics

        forget_launchers()
        numerics.set_environment(deterministic=True)  # libraries read it once
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        device = torch.device("cuda" if count else "cpu")
        tests.append(SelfTest(device, count or 2))
        return iter(())

    tests: list[Any] = []
    _each(report, {"self-test": start})
    for test in tests:
        with test:
            for name, check in {
                "step": test.step,
                "decoding": test.decoders,
                "processes": test.processes_agree,
                "resume": test.resumed,
            }.items():
                report.check(name, check)


def _each(report: Report, looks: dict[str, Look]) -> None:
    """Runs each check with its own section of the facts."""
    for name, examination in looks.items():
        facts = report.facts.setdefault(name, {})
        report.check(name, lambda examination=examination, facts=facts: examination(facts))  # type: ignore[misc]


def finish(report: Report, path: Path) -> bool:
    """Writes the JSON and prints a summary; returns whether anything failed."""
    written = report.write(path, {"sivae": __version__})
    failed, warned = report.count("fail"), report.count("warn")
    report.title(
        f"{failed} failed, {warned} to look at, {report.count('ok')} fine. The report without secrets: {written}"
    )
    return failed > 0
