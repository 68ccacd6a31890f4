"""What commands import, and how many of their processes: imports are most of what a start costs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import ROOT, sivae
from tests.helpers import begin, random_set, tiny_settings, train

NEVER = {"torchvision", "deepspeed", "torch_fidelity", "torchmetrics", "nvidia.dali", "lmdb"}
"""By no command that trains or draws with the usual settings."""

COMPILER = {"torch._dynamo", "torch._inductor"}
"""Takes nearly as long as torch itself. A trace for memory imports it, and torch's DistributedDataParallel; training on
one process and drawing need none of it."""

TRAINING = {"torch.distributed.checkpoint", "sympy", "tensorboard"}
"""sympy comes with the first, and belongs to the compiler."""

_NOTING = """
import os, sys

def note(event, arguments):
    if event == "import":
        with open(os.environ["IMPORTS"] + f"/{os.getpid()}", "a") as file:
            file.write(arguments[0] + "\\n")

sys.addaudithook(note)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_set(tmp_path_factory.mktemp("data") / "set", test=4)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With checkpoints at 4 and 8 px."""
    path = tmp_path_factory.mktemp("runs") / "run"
    train(begin(path, tiny_settings(data, "checkpoint.every=16", "checkpoint.keep_every=16")))
    return path


@pytest.fixture
def imports_of(tmp_path: Path) -> Callable[..., list[set[str]]]:
    """What each process of a command imports, the command's own first."""

    def imports_of(*arguments: object) -> list[set[str]]:
        folder, notes = tmp_path / "site", tmp_path / "imports"
        folder.mkdir()
        notes.mkdir()
        (folder / "sitecustomize.py").write_text(_NOTING)
        sivae(*arguments, env={"PYTHONPATH": f"{folder}:{ROOT}", "IMPORTS": str(notes)}, folder=tmp_path)
        files = sorted(notes.iterdir(), key=lambda file: int(file.name))
        return [set(file.read_text().split()) for file in files]

    return imports_of


def tiny(data: Path, run: Path, *more: str) -> list[object]:
    """A run of two steps at 4 px."""
    return [
        "train", "tiny", "--data", data, "--run-dir", run, "device=cpu", "model.resolution=4", "schedule.images=32",
        "schedule.batch=16", "schedule.blend=0", "objective.warmup=0", "monitoring.images_every=0", *more,
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["sample", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(imports_of: Callable[..., list[set[str]]], arguments: list[str]) -> None:
    (found,) = imports_of(*arguments)
    assert "typer" in found
    assert not found & {"torch", "numpy", "yaml", "PIL", "cv2", "matplotlib", "webdataset", *NEVER}


@pytest.mark.slow
def test_a_dry_run_imports_what_it_checks(
    imports_of: Callable[..., list[set[str]]], data: Path, tmp_path: Path
) -> None:
    (found,) = imports_of(*tiny(data, tmp_path / "run"), "--dry-run")
    assert "torch" in found
    assert not found & {"matplotlib", *NEVER}


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "with_torch", "with_compiler"), [(1, 1, 0), (2, 3, 2)])
def test_training_imports_torch_once_a_process(
    imports_of: Callable[..., list[set[str]]],
    data: Path,
    tmp_path: Path,
    processes: int,
    with_torch: int,
    with_compiler: int,
) -> None:
    """A single process trains in the command's own; several are started by one that has checked the settings."""
    found = imports_of(*tiny(data, tmp_path / "run"), "--nproc", processes)
    assert sum("torch" in one for one in found) == with_torch
    assert sum(bool(one & COMPILER) for one in found) == with_compiler
    assert not set.union(*found) & {"matplotlib", *NEVER}


PICTURES: dict[str, list[str]] = {
    "sample": ["--count", "2"],
    "reconstruct": ["--count", "2"],
    "interpolate": ["0", "1", "2", "3", "--steps", "1"],
    "growth": ["--count", "2"],
    "animate": ["--count", "1", "--stops", "2", "--frames", "1"],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", PICTURES)
def test_a_picture_needs_neither_compiler_nor_training(
    imports_of: Callable[..., list[set[str]]], run: Path, tmp_path: Path, command: str
) -> None:
    out = tmp_path / ("out.gif" if command == "animate" else "out.png")
    (found,) = imports_of(command, run, *PICTURES[command], "--out", out)
    assert out.is_file() and "torch" in found
    assert not found & {"matplotlib", *COMPILER, *TRAINING, *NEVER}


@pytest.mark.slow
def test_an_export_is_written_and_drawn_from_without_compiler_or_training(
    imports_of: Callable[..., list[set[str]]], run: Path, tmp_path: Path
) -> None:
    (found,) = imports_of("export", run, tmp_path / "model")
    assert not found & {"matplotlib", *COMPILER, *TRAINING, *NEVER}


@pytest.mark.slow
def test_an_export_is_drawn_without_compiler_or_training(
    imports_of: Callable[..., list[set[str]]], run: Path, tmp_path: Path
) -> None:
    sivae("export", run, tmp_path / "model")
    (found,) = imports_of("sample", tmp_path / "model", "--count", "2", "--out", tmp_path / "out.png")
    assert not found & {"matplotlib", *COMPILER, *TRAINING, *NEVER}


@pytest.mark.slow
def test_curves_need_neither_compiler_nor_training(
    imports_of: Callable[..., list[set[str]]], run: Path, tmp_path: Path
) -> None:
    (found,) = imports_of("curves", run, "--out", tmp_path / "out.png")
    assert "matplotlib" in found and not found & {*COMPILER, *TRAINING, *NEVER}
