"""Configurations for data sets of all sizes on hardware that is not here, and what they promise."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from data_pipelines.images.manifest import FileRecord, Level, Manifest, Shard
from launch.cli import app
from launch.configure import hardware, plan, recipes, speed
from launch.configure.hardware import Hardware, parse
from launch.configure.plan import Plan, make_plan
from launch.configure.recipes import Recipe, beta_neg
from launch.configure.speed import Speed, Traced
from launch.configure.writing import commands, to_yaml
from sivae_dist.config.run_settings import validate
from sivae_dist.objectives.soft_intro import SoftIntroWeights
from sivae_dist.train.trainer import make_schedule

TFLOP = {4: 0.0033, 8: 0.05, 16: 0.15, 32: 0.36, 64: 0.76, 128: 1.17, 256: 1.58, 512: 2.0, 1024: 2.4}
"""For an image, of the paper's networks; traced."""
GIGABYTES = {4: 0.1, 8: 0.2, 16: 0.35, 32: 0.57, 64: 0.94, 128: 1.6, 256: 2.9, 512: 5.0, 1024: 9.0}


def manifest(train: int, resolution: int = 256, channels: int = 3, test: int = 0, **more: Any) -> Manifest:
    def record(name: str) -> FileRecord:
        return FileRecord(name=name, bytes=1, sha256="0" * 64)

    shards = [Shard(samples=train, split="train")] + [Shard(samples=max(test, 1), split="test")] * bool(test)
    levels = {
        2**k: Level(kind="array", format="npy", files=tuple(record(f"{k}/{shard}") for shard in range(len(shards))))
        for k in range(2, resolution.bit_length())
    }
    return Manifest(
        resolution=resolution, channels=channels, samples=train + test, train=train, test=test, shards=tuple(shards),
        levels=levels, names=record("names.txt"), source="drawn", **more,
    )  # type: ignore[arg-type]  # fmt: skip


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces as they come out, without the minute that they take."""

    def trace(recipe: Recipe, settings: Any, machine: Hardware, say: Any) -> Traced:
        narrow = 0.003 if recipe.name == "narrow" else 1.0
        return Traced(
            {r: TFLOP[r] * 1e12 * narrow for r in recipe.resolutions},
            {r: int((machine.memory / 1e9 - 3) / GIGABYTES[r] / narrow) for r in recipe.resolutions},
        )

    monkeypatch.setattr(speed, "trace", trace)


def made(images: Manifest, machine: str, resolution: int | None = None, hours: float | None = None) -> Plan:
    return make_plan("data/mine", images, parse(machine), resolution, hours, lambda line: None)


def checked(made: Plan) -> dict[str, Any]:
    """The values, which a run takes as they are, and which the file holds."""
    settings = validate(made.values(), "plan")
    assert yaml.safe_load(to_yaml(made, "my.yaml")) == made.values()
    schedule = make_schedule(settings, made.manifest.train)
    schedule.check_world_size(made.hardware.processes)
    assert 0 < settings.objective.warmup < schedule.total
    weights = settings.objective.weights(made.recipe.resolution, settings.model.dimensions)
    assert isinstance(weights, SoftIntroWeights) and 0 < weights.resting_kl < 3000
    return made.values()


# Hardware.


@pytest.mark.parametrize(
    ("text", "processes", "gigabytes"),
    [("A100", 1, 40), ("1xA100-40GB", 1, 40), ("8x80GB", 8, 80), ("64 x H100", 64, 80), ("2xRTX 4090", 2, 24),
     ("rtx-3090", 1, 24), ("4xA100-80GB", 4, 80), ("1x2080Ti", 1, 11), ("NVIDIA L4", 1, 24), ("3x12G", 3, 12)],
)  # fmt: skip
def test_hardware(text: str, processes: int, gigabytes: int) -> None:
    found = parse(text)
    assert (found.processes, found.memory, found.kind) == (processes, gigabytes * 10**9, "cuda")
    assert found.speed is not None and 1e12 < found.speed < 2e14


def test_more_memory_of_one_model_is_the_faster_one() -> None:
    assert (parse("A100-80GB").speed or 0) > (parse("A100-40GB").speed or 0) > (parse("T4").speed or 0)


@pytest.mark.parametrize("text", ["", "0xA100", "8x", "potato", "4xPotato-80GB", "-1"])
def test_hardware_that_is_not(text: str) -> None:
    with pytest.raises(ValueError, match="--hardware"):
        parse(text)


def test_the_cpu_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.doctor.machine.cores", lambda: 6.5)
    found = parse("cpu")
    assert found.here and found.kind == "cpu" and found.processes == 4


# The rule on KL.


@pytest.mark.parametrize(
    ("kl", "beta_kl", "dimensions", "near"),
    [(29.1, 1.0, 3 * 32**2, 256), (1374, 0.2, 3 * 256**2, 512)],  # demo.yaml; the paper's for FFHQ
)
def test_beta_neg_is_that_of_what_was_measured(kl: float, beta_kl: float, dimensions: int, near: float) -> None:
    assert beta_neg(kl, beta_kl, dimensions) == pytest.approx(near, rel=0.05)


@pytest.mark.parametrize("resolution", [8, 16, 32, 64, 128])
def test_generated_images_are_pushed_beyond_real_ones(resolution: int) -> None:
    for channels, grey in ((3, 1.0), (1, 0.7)):
        _, kl, neg = Recipe("narrow", resolution, channels, 300, 1).betas
        settles = math.log(neg / (2 * kl)) * channels * resolution**2 / (2 * neg)
        assert 1 < settles / (recipes._NARROW_KL[resolution] * grey) < 2


# Data sets of all sizes.


def test_three_hundred_photographs_on_a_laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time decides on the resolution; figures of docs/results.md's core, twice."""
    per_image = {4: 0.001, 8: 0.0025, 16: 0.005, 32: 0.0085, 64: 0.03, 128: 0.15}
    plain = {r: seconds / 2 for r, seconds in per_image.items()}
    monkeypatch.setattr(speed, "measure", lambda *_: Speed(plain, {r: 3.4 * s for r, s in plain.items()}))
    monkeypatch.setattr(hardware, "this_machine", lambda text: Hardware("this CPU", "cpu", 2, 16 * 10**9))
    photos = manifest(270, test=30)
    night, hour, minutes = made(photos, "cpu"), made(photos, "cpu", hours=1), made(photos, "cpu", hours=0.1)
    assert [each.recipe.resolution for each in (night, hour, minutes)] == [128, 64, 32]
    for each, hours in ((night, 8), (hour, 1), (minutes, 0.1)):
        values = checked(each)
        assert 0.3 * hours * 3600 < each.seconds < 1.1 * hours * 3600
        assert values["model"]["max_width"] == 64 and values["data"]["flip"] and values["device"] == "cpu"
        assert "270 images" in to_yaml(each, "my.yaml") and not each.fid
        assert values["evaluation"]["metrics"] == ["psnr", "ssim", "mse"]
    assert commands(night, "my.yaml")[-1] == "sivae train my.yaml --nproc 2"
    with pytest.raises(ValueError, match="at most 128"):
        made(photos, "cpu", resolution=256)


@pytest.mark.usefixtures("traced")
def test_thirty_thousand_on_one_gpu() -> None:
    found = made(manifest(29_000, test=1_000), "1xA100-40GB")
    values = checked(found)
    assert found.recipe.resolution == 256 and found.seconds < 49 * 3600 and values["engine"]["precision"] == "tf32"
    assert values["model"]["base_width"] == 64 and values["schedule"]["batch"][256] == 32
    assert 400_000 < values["schedule"]["images"][64] <= 870_000  # 30 passes, as celebahq256
    assert values["engine"]["max_batch_per_rank"][256] == 8  # of 32, the most that divides it and fits
    assert values["objective"]["beta_neg"] == pytest.approx(512, rel=0.02)


@pytest.mark.usefixtures("traced")
def test_three_million_on_64_gpus() -> None:
    found = made(manifest(3_000_000), "64x80GB")
    values = checked(found)
    assert found.recipe.resolution == 256 and values["schedule"]["batch"][256] == 256
    assert values["schedule"]["images"][256] > 3_600_000 and "evaluation" not in values
    assert "max_batch_per_rank" not in values.get("engine", {})
    assert commands(found, "my.yaml") == ["sivae submit my.yaml --nodes 8 --gpus-per-node 8"]


@pytest.mark.usefixtures("traced")
def test_little_time_on_a_gpu_takes_the_narrow_networks() -> None:
    found = made(manifest(30_000), "T4", hours=0.5)
    assert found.recipe.name == "narrow" and checked(found)["device"] == "cuda"
    few = made(manifest(300), "8xA100")
    assert few.recipe.name == "narrow" and checked(few)["schedule"]["batch"][4] == 16


def test_what_does_not_fit_is_refused() -> None:
    small = Hardware("a small GPU", "cuda", 1, 10**8, 1e12)
    recipe = Recipe("narrow", 8, 3, 300, 1)
    with pytest.raises(ValueError, match="not even one image of 4 px fits into 0 GB"):
        speed.trace(recipe, plan.settings_of(recipe), small, lambda line: None)


def test_a_real_trace() -> None:
    recipe = Recipe("narrow", 8, 3, 300, 2)
    found = speed.trace(recipe, plan.settings_of(recipe), parse("2x24GB"), lambda line: None)
    assert found.flops[8] == pytest.approx(40e6, rel=0.25) and found.largest[8] > 1_000
    assert made(manifest(300, 8), "2x24GB").seconds > 0


def test_digits_are_not_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {4: 0.001, 8: 0.002}
    monkeypatch.setattr(speed, "measure", lambda *_: Speed(speeds, speeds))
    labels = FileRecord(name="labels.npy", bytes=1, sha256="0" * 64)
    digits = made(manifest(300, 8, classes=tuple("0123456789"), labels=labels), "cpu")
    assert checked(digits)["data"]["flip"] is False and "like digits" in digits.flip[1]
    assert checked(made(manifest(300, 8), "cpu"))["data"]["flip"] is True


# As README has it.


def inside(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, f"{done.output}\n{done.exception}"
    return done.output


@pytest.mark.slow
def test_own_images_from_a_folder_to_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare, configure, train, sample: 200 drawn photographs, and a few seconds in the place of a night."""
    from PIL import Image

    from data_pipelines.images.drawn import draw_face

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hardware, "this_machine", lambda text: Hardware("this CPU", "cpu", 1, 16 * 10**9))
    threads = torch.get_num_threads()
    Path("photos").mkdir()
    for index in range(200):
        Image.fromarray(draw_face(0, index)).save(f"photos/{index:03d}.jpg")
    inside("data", "prepare", "photos", "data/mine", "--resolution", 16, "--test", 20, "--workers", 1)
    output = inside("configure", "data/mine", "--resolution", 8, "--hours", 0.001, "--out", "my.yaml")
    assert "measured for a run to 8 px: 8 px" in output and "sivae train my.yaml --nproc 1" in output
    assert max(map(len, Path("my.yaml").read_text().splitlines())) <= 120
    assert torch.get_num_threads() == threads
    assert "exists" in inside("configure", "data/mine", "--out", "my.yaml", code=1)
    assert "warm-up as a plain VAE" in inside("train", "my.yaml", "--nproc", 1, "--dry-run")
    inside("train", "my.yaml", "--nproc", 1, "checkpoint.every=0")
    inside("sample", "runs/my", "--out", "samples.png")
    inside("reconstruct", "runs/my", "--out", "pairs.png", "--count", 4)
    assert Image.open("samples.png").width > 100 and Image.open("pairs.png").width > 30


def test_a_resolution_that_the_set_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="has 4, 8, 16 px"):
        make_plan("data/mine", manifest(300, 16), parse("A100"), 32, None, lambda line: None)
