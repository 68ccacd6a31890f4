"""Trained networks that are told the class: by name or number, in every method and picture."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from sivae_dist.config.opening import settings_of
from sivae_dist.models import Cond, Mixing, Stage
from sivae_dist.models.residual.settings import ResidualSettings
from sivae_dist.models.style import StyleSettings
from sivae_dist.run.directory import RunDirectory
from sivae_dist.step.randomness import normals
from sivae_dist.train.preview import preview
from sivae_dist.use import figures
from sivae_dist.use.classes import class_number, class_numbers
from sivae_dist.use.export import export, load_pretrained
from sivae_dist.use.figures import Sheet
from sivae_dist.use.pretrained import Pretrained
from tests.helpers import CPU, begin, labelled_set, tiny_settings, train

NAMES = ("ant", "bee", "cat")
SETTINGS = StyleSettings(
    resolution=16, latent=8, base_width=4, max_width=8, encoder_mapping=2, decoder_mapping=2, to_rgb_gain=1.0,
    conditional=True, class_names=NAMES,
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Pretrained:
    return Pretrained(SETTINGS, *SETTINGS.build(0), Stage(16), 1000)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("told")
    data = labelled_set(folder / "set", test=6)
    settings = tiny_settings(
        data, "model.conditional=true", "monitoring.images_every=24", "monitoring.grid=4", "checkpoint.every=16"
    )
    train(begin(folder / "run", settings))
    return folder / "run"


def decoded(model: Pretrained, z: Tensor, *labels: int) -> Tensor:
    with torch.no_grad():
        images: Tensor = model.decoder(z, Cond(model.stage, torch.tensor(labels)))
    return images


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


# Names and numbers.


def test_a_class_is_a_name_first() -> None:
    assert [class_number(NAMES, wanted) for wanted in ("bee", "0", 2, np.int64(1))] == [1, 0, 2, 1]
    digits = ("1", "2", "0")
    assert [class_number(digits, wanted) for wanted in ("1", 1, "0")] == [0, 1, 2]
    with pytest.raises(
        ValueError, match=r"^there is no class 'bea'; did you mean bee\?; the model has: ant, bee, cat$"
    ):
        class_number(NAMES, "bea")
    many = [f"class {k}" for k in range(20)]
    for wanted in ("20", 20, -1, "-1", "1.0", "٣"):
        with pytest.raises(ValueError, match=rf"^there is no class {re.escape(repr(wanted))}.* class 9, \.\.\.$"):
            class_number(many, wanted)


def test_one_for_all_or_one_for_each() -> None:
    assert class_numbers(NAMES, "cat", 3).tolist() == class_numbers(NAMES, 2, 3).tolist() == [2, 2, 2]
    assert class_numbers(NAMES, ["cat", 0], 2).tolist() == [2, 0]
    assert class_numbers(NAMES, torch.tensor([1, 2], dtype=torch.int32), 2).dtype == torch.int64
    wrong: list[Any] = [
        ["cat"],
        torch.tensor([0, 3]),
        torch.tensor([-1, 0]),
        torch.tensor([0.0, 1.0]),
        torch.zeros(2, 1),
    ]
    for labels in wrong:
        with pytest.raises(ValueError, match=r"^labels must be \[N\] whole numbers from 0 to 2$"):
            class_numbers(NAMES, labels, 2)


# The methods.


def test_what_a_model_knows(model: Pretrained) -> None:
    assert model.class_names == NAMES
    plain = StyleSettings(resolution=4, latent=2, base_width=2, encoder_mapping=1, decoder_mapping=1)
    without = Pretrained(plain, *plain.build(0), Stage(4), 0)
    assert without.class_names == ()
    for call in (lambda: without.sample(1, classes=0), lambda: without.decode(without.latents(0, 1), "ant")):
        with pytest.raises(ValueError, match=r"^the model has no classes$"):
            call()


def test_samples_of_classes(model: Pretrained) -> None:
    z = model.latents(0, 4)
    close(model.sample(4), decoded(model, z, 0, 1, 2, 0))
    close(model.sample(2, first=2), decoded(model, z, 0, 1, 2, 0)[2:])
    close(model.sample(4, classes="bee"), decoded(model, z, 1, 1, 1, 1))
    close(model.sample(4, classes=[2, "ant", "bee", 2], batch=3), decoded(model, z, 2, 0, 1, 2))
    assert not torch.allclose(model.sample(4, classes="bee"), model.sample(4, classes="cat"), atol=1e-2)
    for call in (
        lambda: model.decode(z), lambda: model.styles(z), lambda: model.encode(torch.zeros(1, 3, 16, 16)),
        lambda: model.interpolate(z), lambda: model.draw(z), lambda: model.mean_w(),
        lambda: model.reconstruct(torch.zeros(1, 3, 16, 16)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"^the model has 3 classes: give labels \[N\]$"):
            call()


def test_images_are_encoded_as_what_they_are(model: Pretrained) -> None:
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mu, logvar = model.encoder(x, Cond(model.stage, torch.tensor([2, 0, 1])))
    assert all(torch.equal(a, b) for a, b in zip(model.encode(x, ["cat", 0, "bee"]), (mu, logvar), strict=True))
    own = model.reconstruct(x, labels=["cat", 0, "bee"])
    close(own, decoded(model, mu, 2, 0, 1))
    close(model.reconstruct(x, 2, labels=["cat", 0, "bee"]), own)
    close(model.reconstruct(x, labels=["cat", 0, "bee"], classes="ant"), decoded(model, mu, 0, 0, 0))


def test_truncation_pulls_towards_a_classs_own_mean(model: Pretrained) -> None:
    z = normals(0, "mean w", 0, 10_000, 8, CPU)
    with torch.no_grad():
        means = [
            model.decoder.mapping(z, Cond(model.stage, torch.full((10_000,), k))).double().mean(0) for k in range(3)
        ]
    labels = torch.tensor([2, 0, 2])
    want = torch.stack([means[k] for k in labels.tolist()]).float()
    close(model.mean_w(labels=labels), want)
    assert not torch.allclose(want[0], want[1], atol=1e-2)
    close(model.sample(3, classes=labels, truncation=0), model.decode_styles(want))
    w = model.styles(model.latents(0, 3), labels)
    close(model.sample(3, classes=labels, truncation=0.7), model.decode_styles(want + 0.7 * (w - want)))


def test_interpolation_within_a_class(model: Pretrained) -> None:
    z = model.latents(0, 2)
    line = model.interpolate(z, 2, labels="cat")
    close(line, decoded(model, torch.stack((z[0], (z[0] + z[1]) / 2, z[1])), 2, 2, 2))
    w = model.styles(z, ["ant", "cat"])
    between = model.interpolate(z, 2, "w", labels=["ant", "cat"])
    close(between, model.decode_styles(torch.stack((w[0], (w[0] + w[1]) / 2, w[1]))))
    with pytest.raises(ValueError, match=r"^codes of several classes have nothing between them in z"):
        model.interpolate(z, 2, labels=["ant", "cat"])


def test_style_mixing_of_classes(model: Pretrained) -> None:
    z = model.latents(0, 3)
    mixed = model.style_mix(z[:1], z[1:], 2, labels="bee")
    with torch.no_grad():
        for column in (0, 1):
            cond = Cond(model.stage, torch.tensor([1]), Mixing(z[1 + column :][:1], torch.tensor([2])))
            close(mixed[0, column], model.decoder(z[:1], cond)[0])
    several = model.style_mix(z[:1], z[1:], 2, labels=[0, 1, 2])
    assert not torch.allclose(several, mixed, atol=1e-2)


# Pictures.


def cells(sheet: Sheet) -> list[list[Tensor]]:
    return [[cell for cell in row if cell is not None] for row in sheet.cells]


def test_a_row_for_each_class(model: Pretrained) -> None:
    sheet = figures.samples(model, [4, 9], seed=3)
    assert (list(sheet.rows), list(sheet.columns)) == (["ant", "bee", "cat"], ["4", "9"])
    for label, row in enumerate(cells(sheet)):
        for number, cell in zip((4, 9), row, strict=True):
            close(cell, model.sample(1, 3, first=number, classes=label)[0])
    chosen = figures.samples(model, [4], seed=3, classes=[2, 0], truncation=[0.5])
    assert list(chosen.rows) == ["cat", "ant"] and "ψ = 0.5" in chosen.note
    close(cells(chosen)[0][0], model.sample(1, 3, first=4, classes="cat", truncation=0.5)[0])


def test_of_many_classes_the_first_are_shown() -> None:
    names = tuple(f"{'long ' * 10}{k}" for k in range(40))
    settings = SETTINGS.model_copy(update={"class_names": names, "resolution": 4})
    sheet = figures.samples(Pretrained(settings, *settings.build(0), Stage(4), 0), [0])
    assert len(sheet.cells) == len(sheet.rows) == 32 and ", the first 32 of 40 classes;" in sheet.note
    assert max(map(len, sheet.rows)) == 24 and sheet.rows[0].endswith("…")


def test_several_truncations_and_mixtures_name_the_class(model: Pretrained) -> None:
    sheet = figures.samples(model, [3, 5], truncation=[0, 1], classes=[1])
    assert list(sheet.rows) == ["3 bee", "5 bee"]
    close(cells(sheet)[1][0], model.sample(1, first=5, classes="bee", truncation=0)[0])
    assert list(figures.samples(model, [3, 5], truncation=[0, 1]).rows) == ["3 ant", "5 cat"]
    mixed = figures.style_mixing(model, [1], [5, 6], cutoff=2)
    assert (list(mixed.rows), list(mixed.columns)) == (["", "1 bee"], ["", "5\ncat", "6\nant"])
    close(cells(mixed)[0][1], model.sample(1, first=6, classes="ant")[0])
    close(cells(mixed)[1][1], model.style_mix(model.latents(1, 1), model.latents(5, 1), 2, labels=[1, 2])[0, 0])
    same = figures.style_mixing(model, [1], [5], classes=[0])
    close(cells(same)[1][0], model.sample(1, first=1, classes="ant")[0])


def test_the_class_of_a_reconstruction_is_changed(model: Pretrained) -> None:
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    labels = torch.tensor([2, 0])
    sheet = figures.reconstructions(model, x, labels=labels, classes=[1, 2])
    assert list(sheet.rows) == ["cat", "ant"] and list(sheet.columns) == ["real", "as itself", "as bee", "as cat"]
    own = model.reconstruct(x, labels=labels)
    for row, found in enumerate(cells(sheet)):
        close(found[0], x[row])
        close(found[1], own[row])
        close(found[2], model.reconstruct(x, labels=labels, classes="bee")[row])
    close(cells(sheet)[0][3], own[0])
    pairs = figures.reconstructions(model, x, labels=labels)
    close(cells(pairs)[0][3], own[1])


def test_growth_and_walks_are_of_one_class_after_the_other(model: Pretrained, tmp_path: Path) -> None:
    assert list(figures.growth([model], [1, 2]).rows) == ["1 bee", "2 cat"]
    sheet = figures.growth([model], [1, 2, 5], classes=[2, 0])
    assert list(sheet.rows) == ["1 cat", "2 ant", "5 cat"]
    close(cells(sheet)[1][0], model.sample(1, first=2, classes="ant")[0])
    drawn: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pretrained, "draw", lambda _, z, y, **_kw: drawn.append(y) or torch.zeros(len(z), 3, 16, 16))
        figures.animate(model, tmp_path / "a.gif", walks=3, stops=2, frames=1)
        figures.animate(model, tmp_path / "b.gif", walks=3, stops=2, frames=1, classes=[2])
    assert [labels.tolist() for labels in drawn] == [[0, 1, 2]] * 2 + [[2, 2, 2]] * 2


def test_networks_without_styles(tmp_path: Path) -> None:
    settings = ResidualSettings(resolution=8, latent=4, widths=[4], norm="group", conditional=True, class_names=NAMES)
    model = Pretrained(settings, *settings.build(0), Stage(8), 0)
    sheet = figures.samples(model, [3], classes=[2, 0])
    assert list(sheet.rows) == ["cat", "ant"]
    close(cells(sheet)[0][0], decoded(model, model.latents(3, 1), 2)[0])
    assert figures.animate(model, tmp_path / "a.gif", walks=2, stops=2, frames=2) == 4
    assert model.interpolate(model.latents(0, 4), 2, labels="ant").shape == (3, 3, 3, 8, 8)
    with pytest.raises(ValueError, match=r"^a model of the kind residual has no styles w$"):
        figures.style_mixing(model, [0], [1])


# Training and exports.


def test_previews_have_a_row_for_each_class(run: Path) -> None:
    settings = settings_of(RunDirectory(run))
    trainer = begin(run)
    try:
        shown = preview(settings, trainer.players, trainer.data, Stage(8))
    finally:
        trainer.close()
    z = normals(settings.seed, "preview", 0, 8, 8, CPU)[:4]
    rows = [trainer.players.decoder(z, Cond(Stage(8), torch.full((4,), label))) for label in range(3)]
    close(shown["images/sample"], figures.grid(torch.cat(rows).detach(), 4))
    assert shown["images/sample_ema"].shape == shown["images/sample"].shape
    real = trainer.data.samples(8, range(8))
    told = Cond(Stage(8), real.y)
    again = trainer.players.decoder(trainer.players.encoder(real.x, told)[0], told).detach()
    close(shown["images/real_reconstruction"], figures.grid(figures.in_rows(real.x, again, columns=4), 4))


def test_an_export_knows_its_classes(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "model")
    model = load_pretrained(tmp_path / "model")
    assert model.class_names == load_pretrained(run).class_names == NAMES
    assert torch.equal(model.sample(3, classes="cat"), load_pretrained(run).sample(3, classes=2))
    _, front, text = (tmp_path / "model" / "README.md").read_text().split("---\n", 2)
    assert "class-conditional" in yaml.safe_load(front)["tags"] and "pipeline_tag" not in yaml.safe_load(front)
    assert "\n| classes | 3: ant, bee, cat |\n" in text
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    said: dict[str, Any] = {}
    exec(code[1].replace('"."', repr(str(tmp_path / "model"))), said)
    assert said["images"].shape == (16, 3, 8, 8) and said["mu"].shape == (16, 8)
