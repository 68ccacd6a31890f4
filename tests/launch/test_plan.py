"""What a dry run says of a run, and what every command refuses before a process is started."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from launch import plan
from launch.plan import memory
from sivae_dist.config.run_settings import RunSettings, load_config
from sivae_dist.process.host import HostMemory
from sivae_dist.published import PublishedFile
from sivae_dist.run.directory import RunDirectory
from tests.engines import begun
from tests.helpers import labelled_set, random_set, tiny_settings

WARM = "objective.warmup"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_set(tmp_path_factory.mktemp("data") / "set", samples=12)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return begun(tmp_path_factory.mktemp("runs") / "run", data)


@pytest.fixture
def settings(data: Path) -> Any:
    return lambda *assignments: tiny_settings(data, *assignments)


def refused(settings: RunSettings, path: Path = Path("nowhere")) -> str:
    """The sentence with which every command refuses, and a dry run as well."""
    with pytest.raises(ValueError) as caught:
        plan.preflight(settings, 1, RunDirectory(path), here=True)
    *fine, last = plan.checks(settings, 1, RunDirectory(path))
    assert all(check.fine for check in fine) and not last.fine and last.detail == str(caught.value)
    return str(caught.value)


# What follows from the data.


def test_a_plan_knows_the_classes_of_its_data(tmp_path: Path) -> None:
    told = tiny_settings(labelled_set(tmp_path / "set", samples=12), "model.conditional=true")
    found = plan.preflight(told, 1, RunDirectory(tmp_path / "run"), here=True).settings
    assert found.model.named_classes() == ("ant", "bee", "cat")
    assert found == told.model_copy(update={"model": found.model})


def test_data_without_labels_are_refused(settings: Any, data: Path) -> None:
    sentence = refused(settings("model.conditional=true"))
    assert sentence.startswith(f"{data} has no labels, which model.conditional=true needs: ") and "\n" not in sentence


# Settings that cannot be meant.


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        ((f"{WARM}=48",), r"warmup=48 of 48 images: the run would end before its warm-up .*'objective=\{name: vae\}'"),
        (("checkpoint.keep_best=1", "checkpoint.best_metric=kl/reel"), "kl/reel is never measured: .*kl/real"),
        (("checkpoint.keep_best=1", "checkpoint.best_metric=evaluation/kid", "evaluation.every=8"),
         "evaluation/kid is never measured: .*evaluation/psnr"),
        (("checkpoint.keep_best=1", "checkpoint.best_metric=evaluation/fid", "evaluation.every=8",
          "evaluation.extractor=inception-v3-random"), r"evaluation/fid is never measured: .*frechet_distance\["),
        (("evaluation.every=8", "evaluation.weights=/no/such/file"), "evaluation.weights: there is no file"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(settings: Any, assignments: tuple[str, ...], words: str) -> None:
    assert re.search(words, refused(settings(*assignments)))


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (("schedule.images.16=8",), "images.16 is for a resolution that is not trained: .* model.resolution=16"),
        (("schedule.batch={4: 8, 6: 8, 8: 8}",), "schedule.batch.6 is .* the model has 4, 8 px"),
        (("schedule.lr_encoder.16=1", "schedule.lr_decoder={4: 1, 8: 1, 16: 1}"),
         "lr_encoder.16, schedule.lr_decoder.16 are for resolutions"),
        (("objective.beta_neg={4: 9, 8: 9, 32: 9}",), "objective.beta_neg.32 is .* model.resolution=32"),
        (("engine.max_batch_per_rank={8: 4, 32: 1}",), "engine.max_batch_per_rank.32"),
        (("model.resolution=4", "schedule.batch.8=8"), "schedule.batch.8 is"),
        (("model.resolution=4",), None),
    ],
)  # fmt: skip
def test_values_for_resolutions_that_are_not_trained(
    settings: Any, tmp_path: Path, assignments: tuple[str, ...], words: str | None
) -> None:
    """Other than those that a configuration has for its own resolutions, when `model.resolution` is set below them."""
    path = tmp_path / "mine.yaml"
    by_resolution = ("schedule.lr_encoder={4: 1, 8: 1}", "schedule.batch={4: 8, 8: 8}")
    path.write_text(settings(*by_resolution).to_yaml())
    given = load_config(path, list(assignments))
    untrained = plan.untrained_keys(str(path), assignments, given)
    if words is None:
        assert untrained == []
        return
    with pytest.raises(ValueError, match=words):
        plan.preflight(given, 1, untrained=untrained)
    path.write_text(given.to_yaml())  # all in the file
    own = plan.untrained_keys(str(path), [], given)
    assert set(own) >= set(untrained)


def test_what_can_be_meant_is_not(settings: Any) -> None:
    fine = settings(
        "checkpoint.keep_best=1", "checkpoint.best_metric=exp_elbo/rec", "schedule.batch={4: 8, 8: 4}", f"{WARM}=43"
    )
    assert plan.preflight(fine, 2).warnings == []
    for best in ("gradient/encoder", "schedule/batch", "reconstruction/per_value"):
        plan.preflight(settings("checkpoint.keep_best=1", f"checkpoint.best_metric={best}"), 1)
    (warning,) = plan.preflight(settings(f"{WARM}=44"), 1).warnings
    assert "more than nine tenths of the run" in warning
    vae = settings("objective={name: vae}", "checkpoint.keep_best=1", "checkpoint.best_metric=kl/fake")
    assert "kl/fake is never measured" in refused(vae)


def test_weights_of_the_evaluation_that_cannot_be_had(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(self: PublishedFile, path: Path) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(PublishedFile, "_download", missing)
    (warning,) = plan.preflight(settings("evaluation.every=8"), 1, here=True).warnings
    assert "no network" in warning and "until then only the other metrics are measured" in warning
    best = settings("evaluation.every=8", "checkpoint.keep_best=1", "checkpoint.best_metric=evaluation/fid")
    with pytest.raises(ValueError, match=r"evaluation/fid is never measured: FID needs .* checkpoint.keep_best=0"):
        plan.preflight(best, 1, here=True)
    assert plan.preflight(best, 1).warnings == []  # where the job runs they may be


# Where a run stands, and begins.


def test_a_dry_run_knows_the_run_that_it_would_continue(settings: Any, run: Path) -> None:
    before = (run / "config.yaml").read_bytes()
    assert "started with other settings (optimizer.beta1)" in refused(settings("optimizer.beta1=0.5"), run)
    odd = settings("checkpoint.every=24", "schedule.lr_encoder=0.01", "monitoring.grid=4", f"{WARM}=0")
    found = plan.preflight(odd, 1, RunDirectory(run), thorough=True)
    assert found.notes == ["monitoring.grid differs from what this run was started with"]
    assert (run / "config.yaml").read_bytes() == before


def test_initial_weights_are_looked_at(settings: Any, data: Path, run: Path, tmp_path: Path) -> None:
    assert "init.run: nothing does not exist" in refused(settings("init.run=nothing"))
    assert "init.run: " in refused(settings(f"init.run={data}"))
    assert "encoder.blocks.4.style1.weight is [8, 16] there and [6, 16] here" in refused(
        settings(f"init.run={run}", "model.latent=6")
    )
    path = tmp_path / "weights.safetensors"
    assert f"{path} cannot be read" in refused(settings(f"init.weights={path}"))
    networks = zip(("encoder", "decoder"), settings().model.build(0), strict=True)
    tensors = {f"{name}.{inner}": t for name, net in networks for inner, t in net.state_dict().items()}
    save_file({name: t.contiguous() for name, t in tensors.items()}, path)
    plan.preflight(settings(f"init.weights={path}"), 1)
    assert "torch.float32 there and torch.float64 here" in refused(
        settings(f"init.weights={path}", "engine.precision=fp64")
    )
    tensors.popitem()
    save_file({name: t.contiguous() for name, t in tensors.items()}, path)
    assert "has no tensor decoder." in refused(settings(f"init.weights={path}"))
    begun_from = settings("init.run=nothing", "checkpoint.every=24")  # which has been removed since
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "config.yaml").write_text(begun_from.to_yaml())
    plan.preflight(begun_from, 1, RunDirectory(copy))


# What it takes.


def test_memory_is_compared_with_the_machine(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def machine(total: float) -> None:
        monkeypatch.setattr(memory, "host_memory", lambda: HostMemory(int(total), 0))

    machine(2e9)
    plan.preflight(settings(), 2, here=True, thorough=True, run=RunDirectory(Path("nowhere")))
    machine(0.6e9)  # of which each of two processes would take two thirds
    with pytest.raises(ValueError, match=r"4 images at once at 8 px take about 0\.8 GB per process, and this machine"):
        plan.preflight(settings(), 2, here=True, thorough=True, run=RunDirectory(Path("nowhere")))
    gpu = memory.Place("cuda", "a GPU", int(0.5e9))
    what, warning = memory.check_memory(settings(), plan.preflight(settings(), 1).schedule, 1, gpu)
    assert what.startswith("8 images") and warning is not None and "max_batch_per_rank=auto" in warning


@pytest.mark.parametrize("width", [80, 140])
def test_a_plan_is_readable_at_any_width(
    settings: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setattr(Console, "is_terminal", True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    run = RunDirectory(Path("nowhere"))
    found = plan.preflight(settings(f"{WARM}=16", "engine.max_batch_per_rank={8: 4}"), 1, run, thorough=True)
    plan.show(found, run)
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width and "…" not in text
    rows = [line.split() for line in lines]
    left = ["8", "32", "2.67", "4", "16", "8", "4", "x", "2", "0.8", "GB"]
    right = ["0.01", "1/1/16", "0.167", "12.5"]
    assert (left + right in rows) if width == 140 else (left in rows and ["8", *right] in rows)
    assert "48 images in 6 steps, 16 images of warm-up as a plain VAE" in text
    assert re.search(r"memory: up to 0\.8 GB per process \(state", text)
    assert re.search(r"disk: data .* checkpoints of 0\.00 GB; [\d,]+ GB are free", text)
    assert re.search(r"work: [\d.]+e\+0\d floating-point operations", text)
