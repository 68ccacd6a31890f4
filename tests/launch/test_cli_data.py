import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from data_pipelines.images.manifest import Manifest
from launch.cli.data import app

REPOSITORY = Path(__file__).resolve().parents[2]
runner = CliRunner()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def run(*arguments: object) -> tuple[int, str, str]:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_prepare_and_info(source: Path, tmp_path: Path) -> None:
    names = tmp_path / "test.txt"
    names.write_text("3.png\n\n1.png\n")
    options = ["--resolution", 16, "--test", names, "--workers", 1, "--shard-size", 2, "--channels", 1]
    code, out, _ = run("prepare", source, tmp_path / "set", *options)
    assert code == 0
    assert "6/6 images" in out and "4 training and 2 test samples" in out
    manifest = Manifest.load(tmp_path / "set")
    assert (manifest.train, manifest.test, manifest.channels, manifest.resolution) == (4, 2, 1, 16)
    code, out, _ = run("info", tmp_path / "set")
    assert code == 0
    for text in ("6 (4 training, 2 test)", "none", "array", "npy", manifest.digest[:40]):
        assert text in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resolution", 20], "resolution: 20 is not a power of two"),
        (["--channels", 2], "channels"),
        (["--test", "nowhere.txt"], "neither a number, a share, nor a readable file"),
        (["--test", 6], "takes all 6"),
    ],
)
def test_errors_are_one_line(source: Path, tmp_path: Path, options: list[object], message: str) -> None:
    code, _, err = run("prepare", source, tmp_path / "set", "--workers", 1, *options)
    assert code == 1
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_other_errors(source: Path, tmp_path: Path) -> None:
    for command, message in (
        (("prepare", tmp_path / "missing", tmp_path / "set"), "does not exist"),
        (("prepare", source, tmp_path), "exists already"),
        (("info", tmp_path), "no prepared data set"),
    ):
        code, _, err = run(*command)
        assert code == 1 and message in err and err.count("\n") == 1


def test_import_is_light() -> None:
    heavy = ("torch", "webdataset", "cv2", "numpy", "pydantic")
    code = f"import sys, launch.cli.data as _; print([m for m in {heavy} if m in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_interrupt(tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "0000.png")
    for i in range(1, 2000):
        os.link(folder / "0000.png", folder / f"{i:04d}.png")
    script = tmp_path / "run.py"
    script.write_text("from launch.cli.data import app\nif __name__ == '__main__':\n    app()\n")
    command = [sys.executable, script, "prepare", folder, tmp_path / "set", "--resolution", "32"]
    command += ["--shard-size", "5", "--workers", str(workers)]
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job would ignore it
    )
    end = time.monotonic() + 60
    while not any((tmp_path / "set.partial").glob("work/shard-*.json")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err == "interrupted: run the same command again to continue\n"
    assert not list((tmp_path / "set.partial").rglob("*.tmp"))


@pytest.fixture
def prepared(source: Path, tmp_path: Path) -> Path:
    options = ["--resolution", 16, "--array-max-resolution", 8, "--shard-size", 2, "--workers", 1]
    assert run("prepare", source, tmp_path / "set", *options)[0] == 0
    return tmp_path / "set"


@pytest.mark.parametrize("workers", [1, 2])
def test_verify(prepared: Path, workers: int) -> None:
    code, out, err = run("verify", prepared, "--decode", "--workers", workers)
    assert (code, err) == (0, "")
    assert "18/18 images" in out
    last = out.splitlines()[-1]
    assert last == f"{prepared}: 6 samples at 3 levels, no fault found; all images could be decoded"
    assert "decoded" not in run("verify", prepared, "--workers", workers)[1]
    tar = prepared / "0016/shard-00001.tar"
    tar.write_bytes(tar.read_bytes()[:700])
    code, out, err = run("verify", prepared, "--workers", workers)
    assert code == 1 and err == f"error: {prepared} has 1 fault\n"
    assert [line for line in out.splitlines() if " images, " not in line and not line.endswith(" images")] == [
        "0016/shard-00001.tar at byte 700 key 00000002 (sample 2): "
        "the tar is cut short inside this member; 2 samples are missing, this one and those after it"
    ]


def test_verify_prints_no_more_than_a_hundred_faults(prepared: Path) -> None:
    for i in range(150):
        (prepared / f"0016/{i:03d}.tar").touch()
    code, out, err = run("verify", prepared, "--workers", 1)
    lines = [line for line in out.splitlines() if " images, " not in line and not line.endswith(" images")]
    assert code == 1 and "150 faults" in err
    assert len(lines) == 101 and lines[0].startswith("0016/000.tar: ") and lines[-1] == "and 50 more"


def test_verify_without_a_manifest(tmp_path: Path) -> None:
    code, out, err = run("verify", tmp_path)
    assert code == 1 and out == "" and "no prepared data set" in err and err.count("\n") == 1


def test_what_was_found_comes_before_the_error(source: Path, tmp_path: Path) -> None:
    """In one stream, as in a batch job's log."""
    (source / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    command = [sys.executable, "-m", "launch.cli", "data", "prepare", source, tmp_path / "set", "--resolution", "16"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, timeout=120, check=False
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and lines[0] == f"{source}: folder, 6 images (6 PNG)"
    assert lines[-1].startswith("error: a.heic in ") and "is HEIC" in lines[-1]
