"""A run's directory: where its files lie, and what it costs to ask."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from sivae_dist.run import directory
from sivae_dist.run.directory import FORERUNNERS, RunDirectory, SweepFolder, runs_below
from sivae_dist.run.ends import Logs
from sivae_dist.run.progress import saved_images

ROOM = Path(directory.__file__).parent


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ([f"sivae_dist.run.{path.stem}" for path in sorted(ROOM.glob("*.py"))], {"torch", "pydantic", "numpy", "yaml"}),
        (["launch.record", "launch.clusters.slurm.requeue"], {"torch", "numpy"}),
    ],
)
def test_looking_at_a_run_costs_no_import_of_torch_or_settings(modules: list[str], unwanted: set[str]) -> None:
    assert len(modules) > 1
    code = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not unwanted & {*done.stdout.split()}


def test_it_is_the_bottom_room() -> None:
    """Of our packages it imports itself alone, so that every other room can import it."""
    imports = [
        node.module
        for path in ROOM.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module
    ]
    ours = [module for module in imports if module.split(".")[0] in ("sivae_dist", "launch", "data_pipelines")]
    assert ours and all(module.startswith("sivae_dist.run.") for module in ours)


def paths_of(run: RunDirectory) -> dict[str, Path]:
    """All paths that a run has, by name."""
    found = {
        "cancelled": run.cancelled("JOB"),
        "rendezvous": run.rendezvous("JOB", "RESTART"),  # type: ignore[arg-type]
        "stacks": run.logs.stacks("N"),  # type: ignore[arg-type]
    }
    for name, value in vars(RunDirectory).items():
        if isinstance(value, property):
            path = getattr(run, name)
            if isinstance(path, Logs):
                path = path.path
            if isinstance(path, Path):
                found[name] = path
    return found | {"failure": run.logs.failure, "log": run.logs.combined}


def test_the_docstring_lists_every_file() -> None:
    assert directory.__doc__ is not None
    described = {word.rstrip("/,") for word in directory.__doc__.split()}
    paths = paths_of(RunDirectory(Path("RUN")))
    assert len(paths) > 20
    missing = [str(path) for path in paths.values() if str(path) not in described]
    assert missing == []


def test_everything_in_a_run_may_be_there_before_its_settings() -> None:
    tops = {path.relative_to("run").parts[0] for path in paths_of(RunDirectory(Path("run"))).values()}
    assert {name for name in tops if not name.startswith(".")} - {"config.yaml"} == FORERUNNERS


def test_the_runs_below_a_folder(tmp_path: Path) -> None:
    for name in ("b/deep", "a"):
        run = RunDirectory(tmp_path / name)
        run.path.mkdir(parents=True)
        assert not run.exists
        run.config.touch()
        assert run.exists
    assert runs_below(tmp_path) == [tmp_path / "a", tmp_path / "b" / "deep"]
    assert runs_below(tmp_path / "nowhere") == []


def test_how_far_a_run_has_come(tmp_path: Path) -> None:
    checkpoints = RunDirectory(tmp_path).checkpoints
    assert saved_images(tmp_path) == 0
    for name in ("images-000000000900", "images-000000001000", ".tmp-images-000000002000", "images-3000-copy"):
        (checkpoints / name).mkdir(parents=True)
    assert saved_images(tmp_path) == 1000


def test_the_logs_of_one_process_are_its_jobs_or_this_machines(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "sweep" / "0000")
    there = [
        run.job_logs / "17_1_log.out",
        SweepFolder(tmp_path / "sweep").job_logs / "17_1_log.out",
        run.logs.path / "attempt_0" / "1" / "stdout.log",
    ]
    others = [run.job_logs / "17_11_log.out", run.job_logs / "16_1_log.out", run.logs.path / "a" / "2" / "stdout.log"]
    for path in (*there, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert run.process_logs("17", 1) == there
