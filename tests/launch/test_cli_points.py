"""Trained models of points, as a user meets them: pictures, tables, refusals, exports and the paper's figures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipelines.points.files import read_points
from sivae_dist import load_pretrained
from sivae_dist.config.run_settings import load_config
from sivae_dist.use.density import elbo, log_density
from sivae_dist.use.figures.paper import FIGURES, Shown, densities, deviation
from tests.command import refused, says
from tests.helpers import begin, train


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of a VAE on rings, and of a Soft-IntroVAE on 8 Gaussians."""
    paths = []
    for config in ("rings_vae", "8gaussians_soft_intro"):
        paths.append(tmp_path_factory.mktemp("runs") / config)
        short = [
            "device=cpu", "model.hidden_units=8", "schedule.images=48", "schedule.batch=16", "schedule.milestones=[]",
            "monitoring.images_every=0", "monitoring.scalars_every=16", "evaluation.every=0",
        ]  # fmt: skip
        train(begin(paths[-1], load_config(f"toy/{config}", short)))
    return paths


def test_samples_as_tables_and_pictures(runs: list[Path], tmp_path: Path) -> None:
    model = load_pretrained(runs[0])
    want = model.sample(7, 3).numpy()
    for name in ("a.csv", "a.npy"):
        said = says("sample", runs[0], "--count", 7, "--seed", 3, "--out", tmp_path / name)
        assert said == f"{tmp_path / name}: 7 samples at 48 images\n"
        assert (read_points(tmp_path / name) == want).all()
    says("sample", runs[0], "--seeds", "2,5", "--out", tmp_path / "b.csv", "--seed", 3)
    assert (read_points(tmp_path / "b.csv") == model.draw(model.latents(0, 7, 3)[[2, 5]]).numpy()).all()
    assert "5,000 samples" in says("sample", runs[0], "--out", tmp_path / "a.png")
    assert (np.asarray(Image.open(tmp_path / "a.png")) < 200).any()
    assert "write one of .png, .jpg," in refused("sample", runs[0], "--out", tmp_path / "a.txt")


def test_reconstructions(runs: list[Path], tmp_path: Path) -> None:
    says("reconstruct", runs[0], "--count", 9, "--out", tmp_path / "a.csv")
    with load_config("toy/rings_vae", []).data.open(0, torch.device("cpu")) as data:
        x = data.samples(1, range(data.train, data.train + 9)).x
    assert np.allclose(read_points(tmp_path / "a.csv"), load_pretrained(runs[0]).reconstruct(x), atol=1e-6)
    assert "9 reconstructions" in says("reconstruct", runs[0], "--count", 9, "--out", tmp_path / "a.png")


def test_what_is_for_images_is_refused(runs: list[Path], tmp_path: Path) -> None:
    out = ("--out", tmp_path / "x.png")
    for arguments in (
        ("interpolate", runs[0], 1, 2, 3, "a.png", *out),
        ("growth", runs[0], *out),
        ("animate", runs[0], "--out", tmp_path / "x.gif"),
    ):
        assert refused(*arguments) == (
            "error: this command draws images; the samples of this model are points of 2 values, which `sivae sample` "
            "draws"
        )
    for more in (("--truncation", 0.5), ("--style-mixing", "1")):
        assert "--truncation and --style-mixing are for images" in refused("sample", runs[0], *more, *out)
    assert "only the run's own test split" in refused("reconstruct", runs[0], tmp_path / "a.csv", *out)
    assert not list(tmp_path.iterdir())


def test_points_have_no_bounds_but_must_be_finite(runs: list[Path]) -> None:
    model = load_pretrained(runs[0])
    assert model.encode(torch.tensor([[300.0, -20.0]]))[0].shape == (1, 2)
    with pytest.raises(ValueError, match=r"^points must be finite$"):
        model.encode(torch.tensor([[0.0, float("nan")]]))
    with pytest.raises(ValueError, match=r"^points must be \[N, 2\], not \[1, 3\]$"):
        model.encode(torch.zeros(1, 3))


def test_exports(runs: list[Path], tmp_path: Path) -> None:
    says("export", runs[1], tmp_path / "model")
    model, own = load_pretrained(tmp_path / "model"), load_pretrained(runs[1])
    assert torch.equal(model.sample(5), own.sample(5))
    card = (tmp_path / "model" / "README.md").read_text()
    assert "of points of 2 values" in card and "points = model.sample(16, seed=0)  # [16, 2]\n" in card
    assert not [word for word in ("image", "Image", "px", "style_mix", "truncation") if word in card]
    says("sample", tmp_path / "model", "--count", 3, "--out", tmp_path / "a.npy")
    assert (read_points(tmp_path / "a.npy") == own.sample(3).numpy()).all()


def test_what_points_are(tmp_path: Path) -> None:
    text = " ".join(says("data", "info", "rings", "--out", tmp_path / "a.png").split())
    assert "Four rings around the origin" in text and "without end, 100,000 are an epoch" in text and "S = 2" in text
    assert text.endswith(f"{tmp_path / 'a.png'}: 10,000 points".split("/")[-1])
    assert (np.asarray(Image.open(tmp_path / "a.png")) < 200).any()
    (tmp_path / "my.csv").write_text("x,y,t\n" + "1,-6,3\n2,5,4\n" * 10)
    text = says("data", "info", tmp_path / "my.csv")
    for fact in ("│ 3 ", "18 points", "2 points", "S = 3", "1 to 2; -6 to 5; 3 to 4"):
        assert fact in text
    assert "no prepared data set at" in refused("data", "info", tmp_path / "none")
    assert "none.csv: No such file" in refused("data", "info", tmp_path / "none.csv")
    assert "--out draws points" in refused("data", "info", tmp_path, "--out", tmp_path / "b.png")


# The paper's figures.


@pytest.fixture
def shown(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> list[Shown]:
    monkeypatch.setattr("sivae_dist.use.figures.paper.figure9._DENSITY_CELLS", 6)
    monkeypatch.setattr("sivae_dist.use.figures.paper.figure9._ELBO_CELLS", 32)
    return [Shown.of(run, checkpoint="latest", live=False, device=None) for run in runs]


def test_a_sheet_has_what_is_given_and_blanks(shown: list[Shown]) -> None:
    figure = densities(shown, 0, 50)
    *panels, _ = figure.axes
    rows = [panels[:7], panels[7:]]
    titles = [
        "real",
        *(f"{kind}\n{of}" for kind in ("samples", "exp(ELBO)", "log p(x)") for of in ("VAE", "Soft-IntroVAE")),
    ]
    assert [axes.get_title() for axes in rows[0]] == titles
    assert [row[0].get_ylabel() for row in rows] == ["rings", "8gaussians"]
    assert [[axes.get_frame_on() for axes in row] for row in rows] == [
        [True, True, False, True, False, True, False],
        [True, False, True, False, True, False, True],
    ]
    dots: Any = rows[0][1].collections[0].get_offsets()
    assert np.allclose(dots, shown[0].model.sample(50), atol=1e-5)
    image = rows[0][3].images[0]
    assert image.get_extent() == [-4, 4, -4, 4] and rows[1][4].images[0].get_extent() == [-2, 2, -2, 2]
    array: Any = image.get_array()
    middle = [-4 + 8 * (10 + 0.5) / 32, -4 + 8 * (20 + 0.5) / 32]  # of column 10, row 20 from below
    want = elbo(shown[0].model, torch.tensor([middle])).exp().item()
    assert float(array[20, 10]) == pytest.approx(want, rel=1e-4)
    assert {float(axes.images[0].get_clim()[0]) for axes in (rows[0][5], rows[1][6])} == {-12.0}


def test_the_likelihood_is_that_of_the_trained_elbo(shown: list[Shown]) -> None:
    assert [deviation(run) for run in shown] == pytest.approx([(0.05 / 1.6) ** 0.5, (0.3 / 0.4) ** 0.5])


def test_densities_of_a_row_have_the_same_noise(shown: list[Shown]) -> None:
    """The least of its runs', or a broad likelihood would hide what the samples of the others are like."""
    beside = replace(shown[0], settings=shown[0].settings.model_copy(update={"objective": shown[1].settings.objective}))
    assert deviation(beside) > 0.8
    *panels, _ = densities([shown[0], beside], 0, 50).axes
    assert [[text.get_text() for text in axes.texts] for axes in panels[-2:]] == [["σ = 0.18"]] * 2
    image: Any = panels[-1].images[0].get_array()
    middle = torch.tensor([[-4 + 8 * 2.5 / 6, -4 + 8 * 3.5 / 6]])
    want = log_density(beside.model, middle, deviation(shown[0])).item()
    assert float(image[3, 2]) == pytest.approx(want, rel=1e-4)


def test_samples_and_curves_of_both_runs(shown: list[Shown]) -> None:
    curves, *panels = FIGURES["fig21"](shown, 0, 40).axes
    for run, axes, line in zip(shown, panels, curves.lines, strict=True):
        assert run.name in axes.get_title() and line.get_label() == run.name
        dots: Any = axes.collections[0].get_offsets()
        assert np.allclose(dots, run.model.sample(40), atol=1e-5)
        assert line.get_xydata().tolist() == [[row["images"], row["kl/real"]] for row in run.metrics]  # type: ignore[union-attr]


def test_figures_are_files(runs: list[Path], tmp_path: Path) -> None:
    for name in ("a.png", "a.svg"):
        assert says("figure", "fig21", *runs, "--count", 9, "--out", tmp_path / name).endswith(": fig21 of 2 runs\n")
        assert (tmp_path / name).stat().st_size > 1_000
    assert "'fig8' is not one of: fig9, fig21" in refused("figure", "fig8", *runs, "--out", tmp_path / "x.png")
    again = refused("figure", "fig9", runs[0], runs[0], "--out", tmp_path / "x.png")
    assert "rings_vae and rings_vae are both VAE on rings: name one of them" in again
    assert not (tmp_path / "x.png").exists()
