"""What trained networks can do, and which checkpoint of a run they come from."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sivae_dist.checkpoint import CheckpointFolder, DamagedError
from sivae_dist.config.opening import settings_of
from sivae_dist.models import Cond, Mixing, Stage
from sivae_dist.models.stage import blend_real
from sivae_dist.models.style import StyleSettings
from sivae_dist.run.directory import RunDirectory
from sivae_dist.step.randomness import normals
from sivae_dist.use.loading import choose, load_growth, load_run
from sivae_dist.use.pretrained import Pretrained
from tests.checkpoints import flip, shard
from tests.helpers import CPU, begin, random_set, tiny_settings, train

SETTINGS = StyleSettings(
    resolution=16, latent=8, base_width=4, max_width=8, encoder_mapping=2, decoder_mapping=2, to_rgb_gain=1.0
)
STAGES = [Stage(16), Stage(8), Stage(16, torch.tensor(0.25))]


def model_at(stage: Stage, settings: StyleSettings = SETTINGS) -> Pretrained:
    """Networks in training, as an evaluation within it has them."""
    encoder, decoder = settings.build(0)
    return Pretrained(settings, encoder.train(), decoder.train(), stage, 1000)


def images(count: int, resolution: int) -> Tensor:
    return torch.rand(count, 3, resolution, resolution, generator=torch.Generator().manual_seed(0)) * 2 - 1


def close(got: Tensor, want: Tensor) -> None:
    """But for rounding, which differs between batches; images here go from -4 to 4."""
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


@pytest.fixture(params=STAGES, ids=["16", "8", "blending"])
def model(request: pytest.FixtureRequest) -> Pretrained:
    return model_at(request.param)


def test_latents_follow_from_seed_and_number() -> None:
    model = model_at(Stage(8))
    all_of_them = model.latents(0, 8, seed=5)
    assert all_of_them.shape == (8, 8)
    assert torch.equal(all_of_them, normals(5, "sample", 0, 8, 8, CPU))
    assert torch.equal(model.latents(3, 2, seed=5), all_of_them[3:5])
    assert (model.latents(0, 8, seed=6) != all_of_them).all()


def test_the_networks_are_called_with_the_stage(model: Pretrained) -> None:
    stage, x, z = model.stage, images(3, model.stage.resolution), model.latents(0, 3)
    with torch.no_grad():
        assert torch.equal(model.decode(z), model.decoder(z, Cond(stage)))
        mu, logvar = model.encoder(blend_real(x, stage.blend), Cond(stage))
        assert torch.equal(model.encode(x)[0], mu)
        assert torch.equal(model.encode(x)[1], logvar)
        assert torch.equal(model.reconstruct(x), model.decoder(mu, Cond(stage)))
    close(model.reconstruct(x, batch=2), model.reconstruct(x))


def test_networks_in_training_are_left_as_they_are(model: Pretrained) -> None:
    x = images(2, model.stage.resolution)
    before = {name: parameter.clone() for name, parameter in model.decoder.named_parameters()}
    outputs = [
        *model.encode(x), model.decode(model.latents(0, 2)), model.reconstruct(x), model.mean_w(),
        model.sample(2, truncation=0.5), model.interpolate(model.latents(0, 4), 2, "w"),
        model.style_mix(model.latents(0, 2), model.latents(2, 2), 1),
    ]  # fmt: skip
    assert not any(output.requires_grad for output in outputs)
    for network in (model.encoder, model.decoder):
        assert all(module.training for module in network.modules())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.decoder.named_parameters())


def test_w_is_decoded_as_the_z_it_comes_from(model: Pretrained) -> None:
    z = model.latents(0, 3)
    assert torch.equal(model.decode_styles(model.styles(z)), model.decode(z))
    with torch.no_grad():  # what training does meanwhile shows
        for parameter in model.decoder.parameters():
            parameter.mul_(1.5)
    assert torch.equal(model.decode_styles(model.styles(z)), model.decode(z))


def test_samples_by_number() -> None:
    model = model_at(Stage(16))
    samples = model.sample(5, seed=3)
    assert samples.shape == (5, 3, 16, 16)
    assert torch.equal(samples, model.decode(model.latents(0, 5, seed=3)))
    close(model.sample(2, seed=3, first=3), samples[3:])
    close(model.sample(5, seed=3, batch=2), samples)
    assert (model.sample(5, seed=4) != samples).any()


def test_truncation_pulls_towards_the_mean_of_w() -> None:
    model = model_at(Stage(16))
    with torch.no_grad():
        z = normals(0, "mean w", 0, 10_000, 8, CPU)
        mean = model.decoder.mapping(z, Cond(model.stage)).double().mean(0).float()
    close(model.mean_w(), mean)
    assert torch.equal(model.mean_w(), model.mean_w())
    w = model.styles(model.latents(0, 4))
    close(model.sample(4, truncation=0), model.decode_styles(mean[None]).expand(4, -1, -1, -1))
    close(model.sample(4, truncation=0.7), model.decode_styles(mean + 0.7 * (w - mean)))
    assert torch.equal(model.sample(4, truncation=1), model.sample(4))


@pytest.mark.parametrize(
    ("method", "value", "message"),
    [
        (
            "encode",
            torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
            "images must be floating-point numbers, not uint8; convert pixels 0..255",
        ),
        (
            "encode",
            torch.full((1, 3, 8, 8), 255.0),
            "images must lie in [-1, 1], but these reach 255; convert pixels 0..255",
        ),
        ("encode", torch.full((1, 3, 8, 8), torch.nan), "images must lie in [-1, 1], but these reach nan"),
        ("reconstruct", torch.zeros(1, 3, 8, 8, dtype=torch.int64), "must be floating-point numbers, not int64"),
        ("reconstruct", torch.zeros(1, 8, 8, 3), "images must be [N, 3, 8, 8], not [1, 8, 8, 3]"),
        ("reconstruct", torch.zeros(3, 8, 8), "images must be [N, 3, 8, 8], not [3, 8, 8]"),
        ("encode", torch.zeros(1, 1, 8, 8), "images must be [N, 3, 8, 8], not [1, 1, 8, 8]"),
        ("decode", torch.zeros(2, 9), "z must be [N, 8], not [2, 9]"),
        ("decode", torch.zeros(8), "z must be [N, 8], not [8]"),
        ("styles", torch.zeros(2, 8, dtype=torch.int32), "z must be floating-point numbers, not int32"),
        ("decode_styles", torch.zeros(2, 7), "w must be [N, 8], not [2, 7]"),
        ("interpolate", torch.zeros(2, 7), "z must be [N, 8], not [2, 7]"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(method: str, value: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(model_at(Stage(8)), method)(value)


def test_numbers_that_cannot_be_meant_are_refused() -> None:
    model = model_at(Stage(8))
    for wrong in ({"seed": -1}, {"first": -1}, {"count": -1}):
        with pytest.raises(ValueError, match="cannot be negative"):
            model.sample(**{"count": 1} | wrong)
    for psi in (-2.1, 3.0, float("nan")):
        with pytest.raises(ValueError, match="is not from -2 to 2"):
            model.sample(1, truncation=psi)


def test_what_a_linear_output_reaches_may_be_encoded_again() -> None:
    model = model_at(Stage(8))
    assert model.encode(torch.full((1, 3, 8, 8), 1.5))[0].shape == (1, 8)
    assert model.encode(torch.zeros(1, 3, 8, 8, dtype=torch.float16))[0].dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_shows_the_same_samples() -> None:
    there, here = model_at(Stage(16)), model_at(Stage(16))
    there.encoder.cuda()
    there.decoder.cuda()
    x = images(2, 16)
    for got, want in (
        (there.sample(3, truncation=0.7), here.sample(3, truncation=0.7)),
        (there.encode(x)[0], here.encode(x)[0]),
        (there.style_mix(here.latents(0, 2), here.latents(2, 2), 3), here.style_mix(*here.latents(0, 4).split(2), 3)),
    ):
        assert got.is_cuda
        torch.testing.assert_close(got.cpu(), want, rtol=0.02, atol=0.02)  # convolutions may use TF32


@pytest.mark.parametrize("space", ["z", "w"])
def test_a_square_between_four_codes(space: str) -> None:
    """The formula of appendix 9.4.3, with a at the top left, b to its right, c below and d opposite."""
    model = model_at(Stage(16))
    z = model.latents(0, 4)
    square = model.interpolate(z, 7, space)  # type: ignore[arg-type]
    assert square.shape == (8, 8, 3, 16, 16)
    decode = model.decode if space == "z" else model.decode_styles
    a, b, c, d = z if space == "z" else model.styles(z)
    for i, j in [(0, 0), (0, 7), (7, 0), (7, 7), (0, 3), (2, 0), (3, 5), (6, 1)]:
        top, left = 1 - i / 7, 1 - j / 7
        between = a * top * left + b * top * (1 - left) + c * (1 - top) * left + d * (1 - top) * (1 - left)
        close(square[i, j], decode(between[None])[0])
    close(model.interpolate(z, 7, space, batch=3), square)  # type: ignore[arg-type]


def test_a_line_between_two_codes() -> None:
    model = model_at(Stage(8))
    a, b = z = model.latents(0, 2)
    close(model.interpolate(z, 4), model.decode(torch.stack([a, 0.75 * a + 0.25 * b, (a + b) / 2, (a + 3 * b) / 4, b])))


@pytest.mark.parametrize(("count", "steps"), [(3, 7), (1, 7), (4, 0)])
def test_no_line_and_no_square(count: int, steps: int) -> None:
    model = model_at(Stage(8))
    with pytest.raises(ValueError, match="two or four codes and at least one step"):
        model.interpolate(model.latents(0, count), steps)


@pytest.mark.parametrize("cutoff", [1, 2, 5])
def test_styles_are_mixed_at_the_cutoff(cutoff: int) -> None:
    model = model_at(Stage(16))
    coarse, fine = model.latents(0, 2), model.latents(2, 3)
    mixed = model.style_mix(coarse, fine, cutoff)
    assert mixed.shape == (2, 3, 3, 16, 16)
    for i, j in [(0, 0), (0, 2), (1, 1)]:
        with torch.no_grad():
            mixing = Mixing(fine[j : j + 1], torch.tensor([cutoff]))
            close(mixed[i, j], model.decoder(coarse[i : i + 1], Cond(model.stage, mixing=mixing))[0])
    close(model.style_mix(coarse, fine, cutoff, batch=4), mixed)
    same = model.style_mix(coarse, coarse, cutoff, truncation=0.5)
    close(same[[0, 1], [0, 1]], model.sample(2, truncation=0.5))


@pytest.mark.parametrize("cutoff", [0, 4, 6])
def test_a_cutoff_outside_of_the_layers_in_use(cutoff: int) -> None:
    model = model_at(Stage(8))
    with pytest.raises(ValueError, match="between layers 1 and 3 at 8 px"):
        model.style_mix(model.latents(0, 1), model.latents(0, 1), cutoff)


# Checkpoints.


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all its checkpoints: of 8 and 16 images at 4 px, of 24, 32, 40 and 48 at 8 px."""
    data = random_set(tmp_path_factory.mktemp("data") / "set")
    path = tmp_path_factory.mktemp("runs") / "run"
    train(begin(path, tiny_settings(data, "checkpoint.every=8", "checkpoint.keep_every=8")))
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> RunDirectory:
    shutil.copytree(finished, tmp_path / "run")
    return RunDirectory(tmp_path / "run")


def folder_of(run: RunDirectory, images: int) -> Path:
    return CheckpointFolder(run.checkpoints).final(images)


def test_the_newest_is_loaded(finished: Path) -> None:
    model = load_run(finished)
    checkpoint = CheckpointFolder(finished / "checkpoints").readable()[-1]
    assert (model.images, model.stage, model.data) == (48, Stage(8), checkpoint.meta.data)
    for live in (False, True):
        model = load_run(finished, live=live)
        assert model.live == live
        kind = "" if live else "_ema"
        tensors = checkpoint.load((f"decoder{kind}.", f"encoder{kind}."))
        for name, network in (("encoder", model.encoder), ("decoder", model.decoder)):
            assert not network.training
            for key, tensor in network.state_dict().items():
                assert torch.equal(tensor, tensors[f"{name}{kind}.{key}"]), key


def test_a_checkpoint_by_its_images(finished: Path) -> None:
    assert load_run(finished, checkpoint=16).stage == Stage(4)
    model = load_run(finished, checkpoint="24")
    assert (model.images, model.stage.resolution) == (24, 8)
    assert model.stage.blend is not None
    known = "latest, best, 8, 16, 24, 32, 40, 48"
    with pytest.raises(ValueError, match=re.escape(f"{finished} has no checkpoint 25; choose one of: {known}")):
        load_run(finished, checkpoint=25)
    with pytest.raises(ValueError, match="no checkpoint newest; choose one of: latest"):
        load_run(finished, checkpoint="newest")


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_by_the_settings_of_the_run(finished: Path, mode: str) -> None:
    run = RunDirectory(finished)
    there = CheckpointFolder(run.checkpoints).readable()
    assert len(there) == 6
    # Those of 8 px with no blending: values at another stage mean something else.
    at_the_end = [c for c in there if c.meta.resolution == 8 and not c.meta.blending]
    by_value = {checkpoint.score("kl/real"): checkpoint.images for checkpoint in at_the_end}
    assert len(by_value) >= 2
    settings = settings_of(run).model_copy(
        update={
            "checkpoint": settings_of(run).checkpoint.model_copy(update={"best_metric": "kl/real", "best_mode": mode})
        }
    )
    best = min(by_value) if mode == "min" else max(by_value)  # type: ignore[type-var]
    assert choose(run, settings, "best").images == by_value[best]


def test_of_equals_the_newest_is_the_best(finished: Path) -> None:
    run = RunDirectory(finished)
    rule = settings_of(run).checkpoint.model_copy(update={"best_metric": "schedule/resolution", "best_mode": "min"})
    assert choose(run, settings_of(run).model_copy(update={"checkpoint": rule}), "best").images == 48
    rule = rule.model_copy(update={"best_metric": "kl/reel"})
    with pytest.raises(ValueError, match=r"no checkpoint of .* has a value of kl/reel; they have: elbo/real.*kl/real"):
        choose(run, settings_of(run).model_copy(update={"checkpoint": rule}), "best")


def test_damage_is_passed_over_only_where_the_latest_is_asked_for(run: RunDirectory) -> None:
    flip(shard(folder_of(run, 48)), -1)
    with pytest.warns(UserWarning, match="is damaged"):
        assert load_run(run.path).images == 40
    with pytest.raises(DamagedError, match=r"images-000000000048.* is damaged"):
        load_run(run.path, checkpoint=48)
    assert folder_of(run, 48).exists()


@pytest.mark.parametrize("which", ["latest", "best", 8])
def test_a_run_without_checkpoints(run: RunDirectory, which: str | int) -> None:
    shutil.rmtree(run.checkpoints)
    with pytest.raises(ValueError, match=f"{run.path} has no checkpoint yet"):
        load_run(run.path, checkpoint=which)


def test_growth_takes_each_resolution_from_its_newest_checkpoint(run: RunDirectory) -> None:
    grown = load_growth(run.path)
    assert [(model.stage, model.images) for model in grown] == [(Stage(4), 16), (Stage(8), 48)]
    early, late = load_growth(run.path, checkpoint=40)
    assert (early.images, late.images) == (16, 40)
    assert [model.images for model in load_growth(run.path, checkpoint=8)] == [8]  # nothing from after it
    flip(shard(folder_of(run, 16)), -1)
    with pytest.warns(UserWarning, match="is damaged"):
        assert [model.images for model in load_growth(run.path)] == [8, 48]


def test_growth_without_old_checkpoints_cuts_the_last_network_off(run: RunDirectory) -> None:
    for images in (8, 16):
        shutil.rmtree(folder_of(run, images))
    small, last = load_growth(run.path, live=True)
    assert (small.stage, small.images, last.images) == (Stage(4), 48, 48)
    z = last.latents(0, 2)
    with torch.no_grad():
        assert torch.equal(small.decode(z), last.decoder(z, Cond(Stage(4))))
