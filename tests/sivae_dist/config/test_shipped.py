"""The configurations that come with the package: each is whole, and those of the paper have the paper's values."""

from pathlib import Path
from typing import Any

import pytest

from sivae_dist.config.run_settings import RunSettings, load_config
from sivae_dist.step.schedule import Schedule

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
EXPERIMENTS = [path for path in CONFIGS.rglob("*.yaml") if path.parent.name not in ("clusters", "sweeps")]
NAMES = sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in EXPERIMENTS)
STYLE = ["celebahq256", "ffhq256", "lsun_bedroom128", "official/celebahq256", "official/ffhq256"]


def schedule(settings: RunSettings, samples: int = 60_000) -> Schedule:
    return Schedule(settings.schedule, settings.model.resolutions, samples, settings.objective.warmup_images)


def test_configurations_are_there() -> None:
    assert {"tiny", "demo", *STYLE} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration(name: str, tmp_path: Path) -> None:
    settings = load_config(name)
    copy = tmp_path / "again.yaml"
    copy.write_text(settings.to_yaml())
    again = load_config(copy)
    assert again == settings and again.to_yaml() == settings.to_yaml()
    plan = schedule(settings)
    assert [phase.resolution for phase in plan.phases] == settings.model.resolutions
    assert next(iter(plan.steps(0))).position == 0
    assert settings.objective.warmup_images < plan.total
    head = (CONFIGS / f"{name}.yaml").read_text().split("data:")[0]
    own = f"sivae train {name} --data" if settings.data.folder else f"sivae train {name}\n"
    assert own in head, "a configuration begins with its own command"
    assert all(line.startswith("#") for line in head.splitlines())


@pytest.mark.parametrize("name", STYLE)
def test_style_configurations_fit_eight_processes(name: str) -> None:
    settings = load_config(name)
    for processes in (1, 2, 4, 8, 16, 32):
        schedule(settings).check_world_size(processes)
    assert settings.engine.precision == "tf32"
    assert settings.model.latent == 512
    assert (settings.model.encoder_mapping, settings.model.decoder_mapping) == (3, 8)


@pytest.mark.parametrize(
    ("name", "samples", "total_epochs", "beta_rec"), [("ffhq256", 60_000, 270, 0.1), ("celebahq256", 29_000, 230, 0.05)]
)
def test_the_papers_values(name: str, samples: int, total_epochs: int, beta_rec: float) -> None:
    """Appendix 9.2.2."""
    settings = load_config(name)
    plan = schedule(settings, samples)
    assert plan.total == total_epochs * samples
    assert [phase.start / samples for phase in plan.phases] == [0, 30, 60, 90, 120, 150, 180]
    assert plan.phases[-1].resolution == 256
    assert [phase.blend_images / samples for phase in plan.phases] == [0] + [15] * 6
    assert {rate for phase in plan.phases for rate in (phase.lr_encoder, phase.lr_decoder)} == {0.0015}
    for resolution in settings.model.resolutions:
        weights = settings.objective.weights(resolution, settings.model.dimensions)
        assert (weights.beta_rec, weights.beta_kl) == (beta_rec, 0.2)
        assert (getattr(weights, "beta_neg", 0), getattr(weights, "gamma_r", 0)) == (512, 1e-8)
        assert weights.scale == pytest.approx(1 / (3 * 256 * 256))
    assert settings.model.variant == "paper"
    assert (settings.optimizer.beta1, settings.optimizer.beta2) == (0.9, 0.999)
    assert settings.objective.warmup == samples
    assert settings.objective.style_mixing == 0.9


@pytest.mark.parametrize(
    ("data", "vae", "intro", "soft_intro"),
    [
        ("8gaussians", (0.8, 0.05), (0.3, 0.5, 1.0, 1.0), (0.2, 0.3, 0.9)),
        ("spiral", (1.0, 0.05), (0.2, 0.5, 0.5, 2.0), (0.2, 0.5, 1.0)),
        ("checkerboard", (0.8, 0.1), (0.4, 0.2, 0.2, 8.0), (0.2, 0.1, 0.2)),
        ("rings", (0.8, 0.05), (0.8, 0.5, 0.5, 5.0), (0.2, 0.2, 1.0)),
    ],
)
def test_table_5(data: str, vae: tuple[float, ...], intro: tuple[float, ...], soft_intro: tuple[float, ...]) -> None:
    """And the rest of appendix 9.2.1, with the warm-up and the milestones of the authors' code."""
    keys = ("beta_rec", "beta_kl", "beta_neg", "margin")
    for name, values in {"vae": vae, "intro": intro, "soft_intro": soft_intro}.items():
        settings = load_config(f"toy/{data}_{name}")
        assert settings.data.distribution == data
        objective = settings.objective.model_dump()
        assert {key: objective[key] for key in keys if key in objective} == dict(zip(keys, values, strict=False))
        assert (objective["name"], objective["scale"], settings.objective.warmup_images) == (
            (name, 0.5, 0 if name == "vae" else 2000 * 512)
        )
        steps = list(schedule(settings).steps(0))
        assert len(steps) == 30_000 and {step.batch for step in steps} == {512}
        rates = [steps[k].lr_encoder for k in (0, 9_999, 10_000, 14_999, 15_000, 29_999)]
        assert rates == pytest.approx([2e-4, 2e-4, 2e-5, 2e-5, 2e-6, 2e-6])
        assert [step.lr_decoder for step in steps[::5000]] == [step.lr_encoder for step in steps[::5000]]
        model = settings.model
        assert (model.latent, model.hidden_layers, model.hidden_units) == (2, 3, 256)


@pytest.mark.parametrize(
    ("name", "samples", "per_resolution", "rate"),
    [("official/ffhq256", 60_000, 16, 0.002), ("official/celebahq256", 29_000, 30, 0.0015)],
)
def test_the_authors_values(name: str, samples: int, per_resolution: int, rate: float) -> None:
    settings = load_config(name)
    plan = schedule(settings, samples)
    assert plan.total == 300 * samples
    assert [phase.start / samples for phase in plan.phases] == [k * per_resolution for k in range(7)]
    assert [phase.blend_images / samples for phase in plan.phases] == [0] + [per_resolution / 2] * 6
    assert [phase.batch for phase in plan.phases] == [512, 256, 128, 64, 32, 32, 32]
    assert [phase.lr_encoder for phase in plan.phases] == [0.0015] * 6 + [rate]
    assert [phase.lr_decoder for phase in plan.phases] == [0.0015] * 6 + [rate]
    objective = settings.objective
    assert objective.name == "soft_intro"
    weights = [objective.weights(r, settings.model.dimensions) for r in settings.model.resolutions]
    assert [w.beta_neg for w in weights] == [2048, 2048, 2048, 1024, 512, 512, 512]
    assert {w.scale for w in weights} == {5e-6}
    assert {w.stop_gradient for w in weights} == {"reencoded"}
    assert settings.model.variant == "official"
    assert (settings.optimizer.beta1, settings.optimizer.beta2) == (0.0, 0.99)
    assert settings.schedule.reset_optimizer and objective.warmup == samples


@pytest.mark.parametrize(
    ("name", "epochs", "stop_gradient", "variant", "track"),
    [
        ("cifar10", 220, "none", "paper", "real"),
        ("cifar10_conditional", 220, "none", "paper", "real"),
        ("official/cifar10", 250, "reencoded", "official", "all"),
    ],
)
def test_cifar10(name: str, epochs: int, stop_gradient: str, variant: str, track: str) -> None:
    """Appendix 9.2.2, and the authors' command; their squared errors are of images in [0, 1]."""
    settings = load_config(name)
    plan = schedule(settings, 50_000)
    assert plan.total == epochs * 50_000
    assert [(p.resolution, p.batch, p.lr_encoder, p.lr_decoder) for p in plan.phases] == [(32, 32, 2e-4, 2e-4)]
    objective, model = settings.objective, settings.model
    weights: Any = objective.weights(32, model.dimensions)
    assert (4 * weights.beta_rec, weights.beta_kl, weights.beta_neg) == (1, 1, 256)
    assert weights.scale == pytest.approx(1 / 3072) and weights.gamma_r == 1e-8
    assert (weights.stop_gradient, model.variant, model.norm, model.track) == (stop_gradient, variant, "batch", track)
    assert (model.widths, model.latent, model.conditional) == ([64, 128, 256], 128, "conditional" in name)
    assert (settings.optimizer.beta1, settings.optimizer.beta2) == (0.9, 0.999)
    for processes in (1, 2, 4, 8, 16, 32):
        plan.check_world_size(processes)


@pytest.mark.parametrize(
    ("name", "samples", "prepared", "channels", "reconstruction", "beta_rec", "beta_kl"),
    [
        ("cars3d", 163 * 96, "--resolution 64", 3, "vgg", 0.5, 1),
        ("kth", 60_000, "--resolution 64 --channels 1 --test 10%", 1, "mse", 1 / 4, 0.5),
    ],
)
def test_image_translation(
    name: str, samples: int, prepared: str, channels: int, reconstruction: str, beta_rec: float, beta_kl: float
) -> None:
    """Appendix 9.3, whose second "beta_kl of the class" is beta_neg; its squared errors are of images in [0, 1], and it
    does not count KTH's."""
    settings = load_config(name)
    assert f" data/{name} {prepared}\n" in (CONFIGS / f"{name}.yaml").read_text()
    plan = schedule(settings, samples)
    assert plan.total == 400 * samples
    assert [(p.resolution, p.batch, p.lr_encoder, p.lr_decoder) for p in plan.phases] == [(64, 64, 1e-4, 1e-4)]
    model, optimizer = settings.model, settings.optimizer
    assert (model.groups, model.channels) == ({"class": 256, "content": 128}, channels)
    encoder, decoder = model.shapes()
    parts = {part: getattr(encoder, f"{part}_encoder") for part in model.groups} | {"decoder": decoder}
    weights = {part: [one for one in network.parameters() if one.dim() > 1] for part, network in parts.items()}
    maps = {part: [len(one) for one in own if one.dim() == 4] for part, own in weights.items()}
    assert maps["class"] == maps["content"] == [64, 128, 256, 256] and len(maps["decoder"]) == 6
    connected = {part: sum(one.dim() == 2 for one in own) for part, own in weights.items()}
    assert connected == {"class": 3, "content": 3, "decoder": 3 + 4}  # AdaIN of four layers
    assert settings.objective.reconstruction == reconstruction
    terms: Any = settings.objective.weights(64, model.dimensions)
    assert (terms.beta_rec, terms.beta_kl) == (beta_rec, {"class": beta_kl, "content": beta_kl})
    assert (terms.beta_neg, terms.gamma_r) == ({"class": 1024, "content": 2048}, 1e-8)
    assert terms.scale == pytest.approx(1 / (channels * 64 * 64))
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps) == (0.9, 0.999, 1e-8)


def test_celebahq_at_1024_px_is_table_6() -> None:
    settings = load_config("celebahq1024_residual")
    model = settings.model
    assert (model.widths, model.latent, model.resolution) == ([16, 32, 64, 128, 256, 512, 512, 512], 512, 1024)
    schedule(settings, 29_000).check_world_size(8)


def test_lsun() -> None:
    settings = load_config("lsun_bedroom128")
    assert [phase.images for phase in schedule(settings).phases] == [1_800_000] * 6
    # FFHQ's networks without their largest block.
    assert [settings.model.width(r) for r in (4, 32, 64, 128)] == [512, 512, 256, 128]
