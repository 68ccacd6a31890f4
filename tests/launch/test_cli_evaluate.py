import shutil
from pathlib import Path

import pytest

from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import read_rows
from sivae_dist.run.ownership import owned
from tests.command import sivae, told
from tests.events import scalars
from tests.helpers import begin, random_set, tiny_settings, train

pytestmark = pytest.mark.slow

RANDOM = ("evaluation.extractor=inception-v3-random", "evaluation.layer='64'")
DISTANCE = "frechet_distance[inception-v3-random:64]"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    data = random_set(folder / "set", test=4)
    train(begin(folder / "run", tiny_settings(data, "checkpoint.every=16")))
    return folder / "run"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(sivae.__globals__["ENVIRONMENT"], "XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_values_are_printed_and_recorded(run: Path, cache: Path) -> None:
    (cache / "launch").mkdir()
    (cache / "launch" / "__init__.py").write_text("raise SystemExit('this is the launch of somebody else')")
    with owned(run):  # as if it were being trained
        done = sivae("evaluate", run, *RANDOM, "--samples", 12, "--nproc", 2, folder=cache)
    printed = done.stdout.splitlines()
    assert "2 processes, 1 thread each\nprecision fp32, torch " in done.stderr
    where = "8 px, ema weights, 48 images seen)"
    assert [line.split(" ")[0] for line in printed] == [DISTANCE, "psnr", "mse"]
    assert printed[0].endswith(f" (12 samples against 20 images of train, {where}")
    assert printed[1].endswith(f" (reconstructions of 4 images of test, {where}")
    rows = read_rows(RunDirectory(run).evaluation)
    assert [row["metric"] for row in rows] == [DISTANCE, "psnr", "mse"]
    assert [f"{row['metric']} {row['value']:.6g}" for row in rows] == [line.split(" (")[0] for line in printed]
    assert len(list((cache / "sivae-evaluation").iterdir())) == 1
    # Of an earlier checkpoint, alone; nothing that was there is lost.
    sivae("evaluate", run, "--checkpoint", 32, "--metrics", "mse", "--live", "--nproc", 1)
    again = read_rows(RunDirectory(run).evaluation)
    assert again[:3] == rows and len(again) == 4
    assert (again[3]["images"], again[3]["metric"], again[3]["weights"]) == (32, "mse", "live")
    shown = scalars(run / "tensorboard" / "evaluation")
    assert shown[f"evaluation/{DISTANCE}"] == pytest.approx({48: rows[0]["value"]})
    assert shown["evaluation/mse"] == pytest.approx({32: again[3]["value"], 48: rows[2]["value"]})


def test_a_metric_that_was_written_after_training(run: Path, tmp_path: Path) -> None:
    own = Path(__file__).parents[1] / "sivae_dist" / "evaluation" / "my_metrics.py"
    shutil.copy(own, tmp_path / "some_metrics.py")
    asked = ("--metrics", "sharpness,mse", "--samples", 12, "--nproc", 2)
    done = sivae("evaluate", run, *asked, "--import", "some_metrics", folder=tmp_path)
    (sharpness, _) = read_rows(RunDirectory(run).evaluation)[-2:]
    assert (sharpness["metric"], sharpness["samples"]) == ("sharpness", 12)
    assert done.stdout.startswith(f"sharpness {sharpness['value']:.6g} (12 samples, 8 px, ")
    (line,) = told(sivae("evaluate", run, *asked, "--import", tmp_path / "none.py", code=1).stderr)
    assert line == f"error: imports: there is no file {tmp_path}/none.py"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("model.latent=4",), "model.latent=4: only evaluation, data, device, watchdog can be set here"),
        (("--metrics", "fdi"), "'fdi' is not one of: fid, kid, psnr, ssim, mse, "),
        (("--checkpoint", "31"), "has no checkpoint 31"),
        (("evaluation.weights=/nowhere/x.pth",), "evaluation.weights: there is no file /nowhere/x.pth"),
        (("evaluation.reference_samples=1", *RANDOM), "evaluation.reference_samples=1: must be at least 2, not 1"),
    ],
)
def test_mistakes_are_told_in_one_line(run: Path, arguments: tuple[str, ...], message: str) -> None:
    done = sivae("evaluate", run, *arguments, "--nproc", 1, code=1)
    (line,) = told(done.stderr)
    assert line.startswith("error: ") and message in line


def test_what_is_no_run(tmp_path: Path) -> None:
    assert "is not a run" in sivae("evaluate", tmp_path, code=1).stderr
