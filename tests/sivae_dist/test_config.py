import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from sivae_dist.config import RunSettings, config_path, differences, load_config, override, validate
from sivae_dist.run import RunDirectory
from sivae_dist.schedule import Schedule
from sivae_dist.settings import parse_images

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
EXPERIMENTS = [path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "clusters"]
NAMES = sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in EXPERIMENTS)
STYLE = ["celebahq256", "ffhq256", "lsun_bedroom128", "official/celebahq256", "official/ffhq256"]


def schedule(settings: RunSettings, samples: int = 60_000) -> Schedule:
    return Schedule(settings.schedule, settings.model.resolutions, samples, settings.objective.warmup)


MINE = """
data: {path: data/mine}
model: {resolution: 32, latent: 32, base_width: 16, max_width: 64}
objective: {name: soft_intro, beta_neg: {4: 4, 8: 16, 16: 64, 32: 256}, warmup: 2k}
schedule:
  images: {4: 2k, 8: 2k, 16: 2k, 32: 2k}
  batch: 32
"""


def mine(*overrides: str) -> RunSettings:
    """Small settings of these tests' own."""
    values = yaml.safe_load(MINE)
    override(values, list(overrides))
    return validate(values, "mine.yaml")


def problem(*overrides: str) -> str:
    with pytest.raises(ValueError) as caught:
        mine(*overrides)
    return str(caught.value)


# What comes with the package.


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
    assert settings.objective.warmup < plan.total
    head = (CONFIGS / f"{name}.yaml").read_text().split("data:")[0]
    assert f"sivae train {name} --data" in head, "a configuration begins with its own command"
    assert all(line.startswith("#") for line in head.splitlines())


@pytest.mark.parametrize("name", STYLE)
def test_style_configurations_fit_eight_processes(name: str) -> None:
    settings = load_config(name)
    for processes in (1, 2, 4, 8, 16, 32):
        schedule(settings).check_world_size(processes)
    assert settings.engine.precision == "fp32"
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


def test_lsun() -> None:
    settings = load_config("lsun_bedroom128")
    assert [phase.images for phase in schedule(settings).phases] == [1_800_000] * 6
    # FFHQ's networks without their largest block.
    assert [settings.model.width(r) for r in (4, 32, 64, 128)] == [512, 512, 256, 128]


def test_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "tiny.yaml", "configs/tiny.yaml", CONFIGS / "tiny.yaml"):
        assert config_path(name) == CONFIGS / "tiny.yaml"
    assert config_path("official/ffhq256") == CONFIGS / "official" / "ffhq256.yaml"
    shutil.copy(CONFIGS / "demo.yaml", tmp_path / "mine.yaml")
    assert config_path("mine.yaml") == Path("mine.yaml")
    with pytest.raises(ValueError, match="no configuration nowhere"):
        config_path("nowhere")


# Overrides.


def test_overrides() -> None:
    settings = load_config(
        "ffhq256",
        ["schedule.batch.256=8", "seed=7", "optimizer.clip=1.5", "objective.beta_neg={4: 1, 8: 1, 16: 1, 32: 1, 64: 1, "
         "128: 1, 256: 3}", "ema.half_life=2k", "data.path=elsewhere", "data.flip=false"],
    )  # fmt: skip
    assert [phase.batch for phase in schedule(settings).phases] == [512, 256, 128, 64, 32, 32, 8]
    assert (settings.seed, settings.optimizer.clip, settings.ema.half_life) == (7, 1.5, 2000)
    assert settings.objective.weights(256, 1).beta_neg == 3  # type: ignore[union-attr]
    assert settings.data.path == "elsewhere" and not settings.data.flip
    assert load_config("ffhq256", ["optimizer.clip=null"]).optimizer.clip is None


def test_overrides_make_groups() -> None:
    values: dict[str, Any] = {}
    override(values, ["a.b.16=x", "a.b.8=2.5", "c="])
    assert values == {"a": {"b": {16: "x", 8: 2.5}}, "c": None}


@pytest.mark.parametrize("assignment", ["seed", "=3", "seed:3"])
def test_assignments_that_are_none(assignment: str) -> None:
    assert "not of the form key=value" in problem(assignment)


def test_an_override_is_part_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MINE)
    with pytest.raises(ValueError, match=r"mine\.yaml: unknown key model\.latnt; did you mean latent\?$"):
        load_config(tmp_path / "mine.yaml", ["model.latnt=3"])
    assert load_config(tmp_path / "mine.yaml", ["seed=4"]) == mine("seed=4")


def test_override_inside_one_value() -> None:
    message = problem("schedule.batch.32=8")
    assert message.startswith("schedule.batch.32:") and "batch is 32" in message


def test_override_that_is_no_yaml() -> None:
    assert "model.latent" in problem("model.latent=[1")


# Errors.


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("model.latnt=3", "unknown key model.latnt; did you mean latent?"),
        ("objective.beta_ngg=3", "unknown key objective.beta_ngg; did you mean beta_neg?"),
        ("shedule.batch=3", "unknown key shedule; did you mean schedule?"),
        ("monitoring.xyzzy=3", "unknown key monitoring.xyzzy"),
        ("model.latent=many", "model.latent: Input should be a valid integer"),
        ("model.latent=0", "model.latent: Input should be greater than or equal to 1"),
        ("model.resolution=48", "model.resolution: resolution 48 is not a power of two from 4 to 1024"),
        ("data.threads=0", "data.threads: Input should be greater than or equal to 1"),
        ("engine.precision=fp16", "engine.precision: Input should be"),
        ("objective.warmup=soon", "objective.warmup: 'soon' is not a number of images; write 5000, 600k or 1.8M"),
        ("schedule.images.8=soon", "schedule.images.8: 'soon' is not a number of images; write 5000, 600k or 1.8M"),
        ("schedule.epochs=3", "schedule: give either schedule.images or schedule.epochs"),
        ("objective.name=gan", "objective: Input tag 'gan'"),
        ("objective.reconstruction=bce", "objective.reconstruction=bce needs images inside [-1, 1]: set model.output="),
        ("objective.beta_neg={4: 1, 8: 1, 32: 1}", "objective.beta_neg has no value for 16 px; it has [4, 8, 32]"),
    ],
)  # fmt: skip
def test_errors_name_the_key(assignment: str, expected: str) -> None:
    lines = problem(assignment).splitlines()
    assert all(line.startswith("mine.yaml: ") for line in lines)
    assert any(line.startswith(f"mine.yaml: {expected}") for line in lines)


def test_bce_with_tanh() -> None:
    assert mine("objective.reconstruction=bce", "model.output=tanh").model.output == "tanh"


def test_the_plain_vae() -> None:
    assert mine("objective={name: vae}").objective.name == "vae"
    message = problem("objective={name: vae, beta_kl: {4: 1}}")
    assert message == "mine.yaml: objective.beta_kl has no value for 8 px; it has [4]"


def test_missing_keys() -> None:
    values = yaml.safe_load(MINE)
    with pytest.raises(ValueError, match=r"^mine: data\.path is not set$"):
        validate(values | {"data": {"flip": True}}, "mine")
    del values["data"], values["objective"]
    with pytest.raises(ValueError, match=r"^mine: data is not set\nmine: objective is not set$"):
        validate(values, "mine")


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "is not valid YAML"), ("- 1", "holds no settings"), ("", "holds")]
)
def test_files_without_settings(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_config(tmp_path / "bad.yaml")
    assert "bad.yaml" in str(caught.value) and "\n" not in str(caught.value)


# Numbers of images.


@pytest.mark.parametrize(
    ("text", "images"),
    [("5000", 5000), ("600k", 600_000), ("1.8M", 1_800_000), ("1.8m", 1_800_000), ("2e6", 2_000_000), (" 3 k ", 3000),
     ("0.5k", 500), ("1G", 10**9), (2e3, 2000), (7, 7)],
)  # fmt: skip
def test_numbers_of_images(text: object, images: int) -> None:
    value = parse_images(text)
    assert value == images and isinstance(value, int)


@pytest.mark.parametrize("text", ["4.1M", "16.1k", "2.01k"])
def test_numbers_of_images_that_floating_point_misses(text: str) -> None:
    assert isinstance(parse_images(text), int)


@pytest.mark.parametrize("text", ["soon", "1.8X", "-5", "k", "", "1,000", "1e", "1 000", "nan"])
def test_junk_is_no_number_of_images(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a number of images; write 5000, 600k or 1\.8M"):
        parse_images(text)
    assert "ema.half_life" in problem(f"ema.half_life='{text}'")


@pytest.mark.parametrize("text", ["1.5", "0.0001k", "1e999"])
def test_broken_numbers_of_images(text: str) -> None:
    assert "ema.half_life" in problem(f"ema.half_life='{text}'")


# A run's directory.


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "runs" / "one")


def begin(run: RunDirectory, *overrides: str, checkpoint: bool = True) -> RunSettings:
    settings = mine(*overrides)
    assert run.open(settings) == []
    if checkpoint:
        (run.checkpoints / "images-000000002000").mkdir(parents=True)
    return settings


def test_a_fresh_run(run: RunDirectory) -> None:
    with pytest.raises(ValueError, match="is not a run"):
        run.settings()
    settings = begin(run, checkpoint=False)
    assert run.settings() == settings
    assert [path.name for path in run.path.iterdir()] == ["config.yaml"]


def test_the_same_settings_again(run: RunDirectory) -> None:
    settings = begin(run)
    assert run.open(settings) == [] and run.open(run.settings()) == []


def test_harmless_changes_are_noted_and_kept(run: RunDirectory) -> None:
    begin(run)
    changes = ["data.threads=7", "data.path=moved", "checkpoint.every=3k", "monitoring.grid=4", "device=cpu"]
    settings = mine(*changes)
    keys = sorted(change.partition("=")[0] for change in changes)
    assert run.open(settings) == [f"{key} differs from what this run was begun with" for key in keys]
    assert run.settings() == settings and run.open(settings) == []


@pytest.mark.parametrize(
    "change",
    ["seed=3", "model.latent=16", "objective.beta_kl=2",
     "data.flip=false", "optimizer.beta1=0.5", "ema.half_life=1k", "engine.precision=bf16",
     "engine.max_batch_per_rank=4", "objective.beta_neg.4=5"],
)  # fmt: skip
def test_the_past_cannot_be_changed(run: RunDirectory, change: str) -> None:
    before = begin(run)
    with pytest.raises(ValueError, match="begun with other settings") as caught:
        run.open(mine(change, "data.threads=7"))
    assert f"({change.partition('=')[0]})" in str(caught.value)  # and not what may change
    assert str(run.path) in str(caught.value) and "--run-dir" in str(caught.value)
    assert run.settings() == before


def test_one_value_and_a_mapping_differ(run: RunDirectory) -> None:
    begin(run)
    with pytest.raises(ValueError, match=r"schedule\.batch, schedule\.batch\.16, .* was done: the batch at 4 px"):
        run.open(mine("schedule.batch={4: 8, 8: 8, 16: 8, 32: 8}"))


def test_all_may_change_before_the_first_checkpoint(run: RunDirectory) -> None:
    begin(run, checkpoint=False)
    (run.checkpoints / ".tmp-images-000000002000").mkdir(parents=True)  # of a save that was not finished
    settings = mine("seed=3", "model.latent=16")
    assert [note.split()[0] for note in run.open(settings)] == ["model.latent", "seed"]
    assert run.settings() == settings


def test_differences() -> None:
    old = {"a": {"b": 1, "c": float("nan")}, "d": None, "e": [1]}
    assert differences(old, {"a": {"b": 1, "c": float("nan")}, "e": [1]}) == []
    assert differences(old, {"a": {"b": 2, "c": 1.0}, "d": 0, "e": [1]}) == ["a.b", "a.c", "d"]
