import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from sivae_dist.config.names import config_path
from sivae_dist.config.opening import prepare_run, settings_of
from sivae_dist.config.run_settings import RunSettings, differences, load_config, override, validate
from sivae_dist.config.yaml_reading import parse
from sivae_dist.run.directory import RunDirectory
from sivae_dist.settings import parse_images
from sivae_dist.step.schedule import Schedule

CONFIGS = Path(__file__).resolve().parents[3] / "configs"

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
    return validate(parse(MINE, "mine.yaml"), "mine.yaml", overrides)


def problem(*overrides: str) -> str:
    with pytest.raises(ValueError) as caught:
        mine(*overrides)
    return str(caught.value)


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
    plan = Schedule(settings.schedule, settings.model.resolutions, 60_000, settings.objective.warmup_images)
    assert [phase.batch for phase in plan.phases] == [512, 256, 128, 64, 32, 32, 8]
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


def test_who_is_to_blame(tmp_path: Path) -> None:
    """An override for what it changes, the file for what was wrong in it before."""
    file = tmp_path / "mine.yaml"
    file.write_text(MINE.replace("latent: 32", "latnt: 32"))
    with pytest.raises(ValueError) as caught:
        load_config(file, ["model.width=3", "data.threads=0", "seed=4"])
    assert str(caught.value).splitlines() == [
        "data.threads=0: must be at least 1, not 0",
        f"{file}: unknown key model.latnt; did you mean model.latent?",
        "model.width=3: unknown key model.width; did you mean model.base_width, model.max_width or "
        "model.decoder_width?",
    ]
    file.write_text(MINE)
    assert load_config(file, ["seed=4"]) == mine("seed=4")


def test_of_the_same_key_the_last_override_counts() -> None:
    assert mine("seed=4", "seed=5").seed == 5
    assert mine("objective.beta_kl=3", "objective={name: vae}").objective.beta_kl == 1


def test_override_inside_one_value() -> None:
    message = problem("schedule.batch.32=8")
    assert message.startswith("schedule.batch.32:") and "batch is 32" in message


def test_override_that_is_no_yaml() -> None:
    assert "model.latent" in problem("model.latent=[1")


# Errors.


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        # Names: the right one in another group, its parts, its spelling, what others call it.
        ("model.latnt=3", "unknown key model.latnt; did you mean model.latent?"),
        ("objective.beta_ngg=3", "unknown key objective.beta_ngg; did you mean objective.beta_neg?"),
        ("shedule.batch=3", "unknown key shedule; did you mean schedule?"),
        ("optimiser.clip=3", "unknown key optimiser; did you mean optimizer?"),
        ("monitoring.xyzzy=3", "unknown key monitoring.xyzzy"),
        ("batch=16", "unknown key batch; did you mean schedule.batch or evaluation.batch?"),
        ("schedule.lr=1e-3", "unknown key schedule.lr; did you mean schedule.lr_encoder or schedule.lr_decoder?"),
        ("lr=1e-3", "unknown key lr; did you mean schedule.lr_encoder or schedule.lr_decoder?"),
        ("train.lr=3", "unknown key train; did you mean schedule.lr_encoder or schedule.lr_decoder?"),
        ("schedule.beta_kl=3", "unknown key schedule.beta_kl; did you mean objective.beta_kl?"),
        ("schedule.batch-size=8", "unknown key schedule.batch-size; did you mean schedule.batch?"),
        ("learning_rate=3", "unknown key learning_rate; did you mean schedule.lr_encoder or schedule.lr_decoder?"),
        # Values.
        ("model.latent=many", "a whole number is needed, not 'many'"),
        ("model.latent=8.5", "a whole number is needed, not 8.5"),
        ("model.latent=true", "a whole number is needed, not 'true'"),
        ("model.latent=1:30", "a whole number is needed, not '1:30'"),
        ("model.latent=null", "a whole number is needed, not null"),
        ("model.latent=0", "must be at least 1, not 0"),
        ("seed=-1", "must be at least 0, not -1"),
        ("schedule.lr_encoder=-1", "must be at least 0.0, not -1"),
        ("objective.beta_neg={4: 1, 8: -3}", "objective.beta_neg.8: must be at least 0.0, not -3"),
        ("objective.scale=0", "must be greater than 0.0, not 0"),
        ("schedule.lr_encoder=fast", "a number is needed, not 'fast'"),
        ("schedule.lr_encoder=nan", "a finite number is needed, not nan"),
        ("schedule.lr_encoder=.inf", "a finite number is needed, not inf"),
        ("schedule.batch={4: x}", "schedule.batch.4: a whole number is needed, not 'x'"),
        ("schedule.batch={x: 4}", "schedule.batch.x: as a key, a whole number is needed, not 'x'"),
        ("engine.compile=maybe", "true or false is needed, not 'maybe'"),
        ("data.path=[a, b]", "text is needed, not ['a', 'b']"),
        ("model.resolution=48", "resolution 48 is not a power of two from 4 to 1024"),
        ("data.threads=0", "must be at least 1, not 0"),
        ("objective.warmup=soon", "'soon' is not a number of images; write 5000, 600k or 1.8M"),
        ("schedule.images.8=soon", "'soon' is not a number of images; write 5000, 600k or 1.8M"),
        ("schedule.epochs=3", "schedule: give either schedule.images or schedule.epochs"),
        ("schedule=", "a group of settings is needed (key: value), not null"),
        # Choices.
        ("engine.precision=fp17", "'fp17' is not one of: "),
        ("model.variant=Paper", "'Paper' is not one of: paper, official; did you mean paper?"),
        ("objective.name=gan", "'gan' is not one of: soft_intro, intro, vae"),
        ("objective.name=soft-intro", "'soft-intro' is not one of: soft_intro, intro, vae; did you mean soft_intro?"),
        ("objective.name=", "no value is given; choose one of: soft_intro, intro, vae"),
        ("engine={name: zzz}", "engine.name: 'zzz' is not one of: ddp, zero"),
        ("evaluation.metrics=[fid, lpips]", "'lpips' is not one of: fid, kid, psnr, ssim, mse"),
        ("evaluation.metrics=[[fid]]", "['fid'] is not one of: fid, kid, psnr, ssim, mse"),
        ("evaluation.layer=769", "'769' is not one of: 64, 192, 768, 2048; did you mean 768?"),
        ("device=gpu", "'gpu' is not a device; it must be auto, cpu, cuda or cuda:N"),
        # What does not go together.
        ("objective.reconstruction=bce", "objective.reconstruction=bce needs images inside [-1, 1]: set model.output="),
        ("objective.beta_neg={4: 1, 8: 1, 32: 1}", "objective.beta_neg has no value for 16 px; it has [4, 8, 32]"),
    ],
)  # fmt: skip
def test_errors_name_the_override_and_what_to_do(assignment: str, expected: str) -> None:
    message = problem(assignment)
    assert message.startswith(f"{assignment}: {expected}"), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("schedule.batch:8", "write schedule.batch=VALUE, without spaces"),
        ("batch 8", "write schedule.batch=VALUE, without spaces"),
        ("data/mine", "a data set is named by --data"),
        ("objective={name:", "put the whole assignment in quotes, so that the shell does not split it"),
    ],
)
def test_arguments_that_are_no_override_say_what_was_meant(argument: str, hint: str) -> None:
    assert hint in problem(argument)


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("evaluation.layer=768", "768"), ("evaluation.sha256=00012345", "00012345"),
        ("evaluation.sha256=12e45678", "12e45678"), ("data.path=2024", "2024"), ("data.path=1e5", "1e5"),
        ("data.path=010", "010"), ("data.path=2024-01-01", "2024-01-01"), ("data.path=no", "no"),
        ("model.latent=010", 10), ("model.latent=1_000", 1000), ("optimizer.eps=1e-4", 1e-4),
        ("data.flip=no", False), ("data.flip=off", False), ("data.flip=yes", True), ("data.flip=0", False),
        ("evaluation.metrics=psnr,ssim", ("psnr", "ssim")), ("evaluation.metrics=psnr", ("psnr",)),
        ("init.run=2024", Path("2024")), ("checkpoint.every=1e3", 1000),
    ],
)  # fmt: skip
def test_values_mean_what_a_shell_hands_over(assignment: str, value: object, tmp_path: Path) -> None:
    """A shell takes quotes away, and YAML 1.1 would have read some of these otherwise. They survive a run's file."""
    group, _, name = assignment.partition("=")[0].partition(".")
    copy = tmp_path / "config.yaml"
    copy.write_text(mine(assignment).to_yaml())
    for settings in (mine(assignment), load_config(copy)):
        got = getattr(getattr(settings, group), name)
        assert got == value and type(got) is type(value)
        yaml.safe_dump(settings.plain())  # plain types all through


def test_bce_with_tanh() -> None:
    assert mine("objective.reconstruction=bce", "model.output=tanh").model.output == "tanh"


def test_the_plain_vae() -> None:
    assert mine("objective={name: vae}").objective.name == "vae"
    message = problem("objective={name: vae, beta_kl: {4: 1}}")
    assert message == "objective={name: vae, beta_kl: {4: 1}}: objective.beta_kl has no value for 8 px; it has [4]"


def test_missing_keys() -> None:
    values = yaml.safe_load(MINE)
    with pytest.raises(ValueError, match=r"^mine: data\.path is not set$"):
        validate(values | {"data": {"flip": True}}, "mine")
    del values["data"], values["objective"]
    with pytest.raises(ValueError, match=r"^mine: data is not set\nmine: objective is not set$"):
        validate(values, "mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not valid YAML"),
        ("- 1", "holds a list instead of settings"),
        ("seed", "one value instead of settings"),
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("a:\n\tb: 1", "line 2: a tab; write spaces instead"),
        ("a: 1\n---\nb: 1", "is not valid YAML"),
        ("seed: 1\nseed: 2\n", r"seed is given twice, in line 1 \(seed: 1\) and line 2 \(seed: 2\)"),
        (
            "data:\n  path: a\n  flip: true\n  path: b\n",
            r"data\.path is given twice, in line 2 \(  path: a\) and line 4 ",
        ),
        ("a: [{b: 1, b: 2}]", "a.b is given twice; keep one"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_files_without_settings(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_config(tmp_path / "bad.yaml")
    assert "bad.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_files_as_editors_write_them(tmp_path: Path) -> None:
    for content in (
        MINE.encode("utf-8-sig"), MINE.encode("utf-16"), MINE.replace("\n", "\r\n").encode(),
    ):  # fmt: skip
        (tmp_path / "mine.yaml").write_bytes(content)
        assert load_config(tmp_path / "mine.yaml") == mine()
    (tmp_path / "mine.yaml").write_bytes("# fünf\n".encode("latin-1") + MINE.encode())
    with pytest.raises(ValueError, match=r"is not UTF-8 text \(line 1\); save it as UTF-8"):
        load_config(tmp_path / "mine.yaml")


def test_anchors_and_merges_are_not_keys_given_twice(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        MINE.replace("data: {path: data/mine}", "data: &d {path: data/mine}")
        + "ema: &e {half_life: 2k}\nevaluation: {<<: {seed: 1, batch: 5}, seed: 2}\n"
    )
    evaluation = load_config(tmp_path / "mine.yaml").evaluation
    assert (evaluation.seed, evaluation.batch) == (2, 5)


def test_keys_with_dots_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"{MINE}schedule.blend: 0.5\n")
    with pytest.raises(ValueError, match=r"in a file it is written as `schedule: \{blend: \.\.\.\}`"):
        load_config(tmp_path / "mine.yaml")


def test_configurations_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "mine.yml").write_text(MINE)
    for name, message in {
        "tyny": r"there is no configuration tyny; did you mean tiny\? .*neither a file .* nor one .*: "
        "cars3d, cars_drawn, celebahq1024_residual, celebahq256, ",
        "ffhq-256": "did you mean ffhq256",
        "official/ffhq": "did you mean official/ffhq256",
        "mine.yaml": r"did you mean mine\.yml\?",
        "folder": "folder is a directory, not a configuration; name a YAML file",
        ".": r"is a directory, not a configuration; name a YAML file, like mine\.yml",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            load_config(name)
        assert "\n" not in str(caught.value)


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
    settings = mine(*overrides).located()
    assert prepare_run(run, settings) == []
    if checkpoint:
        (run.checkpoints / "images-000000002000").mkdir(parents=True)
    return settings


def test_a_fresh_run(run: RunDirectory) -> None:
    with pytest.raises(ValueError, match="is not a run"):
        settings_of(run)
    settings = begin(run, checkpoint=False)
    assert settings_of(run) == settings
    assert [path.name for path in run.path.iterdir()] == ["config.yaml"]


def test_the_same_settings_again(run: RunDirectory) -> None:
    settings = begin(run)
    assert prepare_run(run, settings) == [] and prepare_run(run, settings_of(run)) == []


def test_harmless_changes_are_noted_and_kept(run: RunDirectory) -> None:
    begin(run)
    changes = ["data.threads=7", "data.path=moved", "checkpoint.every=3k", "monitoring.grid=4", "device=cpu"]
    settings = mine(*changes).located()
    keys = sorted(change.partition("=")[0] for change in changes)
    assert prepare_run(run, settings) == [f"{key} differs from what this run was started with" for key in keys]
    assert settings_of(run) == settings and prepare_run(run, settings) == []


@pytest.mark.parametrize(
    "change",
    ["seed=3", "model.latent=16", "objective.beta_kl=2",
     "data.flip=false", "optimizer.beta1=0.5", "ema.half_life=1k", "engine.precision=bf16",
     "objective.beta_neg.4=5"],
)  # fmt: skip
def test_the_past_cannot_be_changed(run: RunDirectory, change: str) -> None:
    before = begin(run)
    with pytest.raises(ValueError, match="started with other settings") as caught:
        prepare_run(run, mine(change, "data.threads=7"))
    assert f"({change.partition('=')[0]})" in str(caught.value)  # and not what may change
    assert str(run.path) in str(caught.value) and "--run-dir" in str(caught.value)
    assert settings_of(run) == before


def test_one_value_and_a_mapping_differ(run: RunDirectory) -> None:
    begin(run)
    with pytest.raises(ValueError, match=r"schedule\.batch, schedule\.batch\.16, .* was done: the batch at 4 px"):
        prepare_run(run, mine("schedule.batch={4: 8, 8: 8, 16: 8, 32: 8}"))


def test_all_may_change_before_the_first_checkpoint(run: RunDirectory) -> None:
    begin(run, checkpoint=False)
    (run.checkpoints / ".tmp-images-000000002000").mkdir(parents=True)  # of a save that was not finished
    settings = mine("seed=3", "model.latent=16").located()
    assert [note.split()[0] for note in prepare_run(run, settings)] == ["model.latent", "seed"]
    assert settings_of(run) == settings


def test_paths_mean_the_same_in_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run can be resumed from anywhere; one that was recorded with a relative path, from where it was begun."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("SETS", str(tmp_path / "sets"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    run = RunDirectory(tmp_path / "run")
    asked = ["init.run=../other", "evaluation.weights=~/w.pth", "evaluation.cache=c", "data.remote.cache=$SETS/cache"]
    prepare_run(run, mine(*asked))
    monkeypatch.chdir(tmp_path / "there")
    settings = settings_of(run)
    assert settings.data.path == str(tmp_path / "here" / "data" / "mine")
    assert settings.init.run == tmp_path / "other"
    assert settings.evaluation.weights == str(tmp_path / "home" / "w.pth")
    assert settings.evaluation.cache == str(tmp_path / "here" / "c")
    assert settings.data.remote.cache == str(tmp_path / "sets" / "cache")
    (run.checkpoints / "images-000000002000").mkdir(parents=True)
    assert (
        prepare_run(run, mine(*asked, f"evaluation.cache={tmp_path}/here/c", f"data.path={tmp_path}/here/data/mine"))
        == []
    )

    old = RunDirectory(tmp_path / "old")  # as runs were recorded before
    old.path.mkdir()
    old.config.write_text(mine("init.run=../other").to_yaml())
    (old.checkpoints / "images-000000002000").mkdir(parents=True)
    assert prepare_run(old, mine("init.run=../other")) == []
    assert settings_of(old).data.path == str(tmp_path / "there" / "data" / "mine")


def test_places_elsewhere_stay_as_they_are(run: RunDirectory) -> None:
    for path in ("s3://bucket/~/set", "pipe:ssh host cat $HOME/set/{name}"):
        assert mine(f"data.path={path}").located().data.path == path


def test_variables_of_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETS", "/sets")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert mine("data.path=$SETS/faces").data.path == mine("data.path=${SETS}/faces").data.path == "/sets/faces"
    assert problem("data.path=$NOWHERE/faces") == (
        "data.path=$NOWHERE/faces: $NOWHERE of $NOWHERE/faces is not set in the environment"
    )
    assert problem("data.path=''") == "data.path='': it is empty"


def test_directories_that_are_no_place_for_a_run(tmp_path: Path) -> None:
    data, photographs = tmp_path / "data", tmp_path / "photographs"
    for folder in (data, photographs):
        folder.mkdir()
        (folder / "0001.png").touch()
    for place, message in {
        photographs: r"photographs is not empty and not a run: it holds 0001\.png; choose another --run-dir",
        photographs / "0001.png": r"0001\.png is a file, but a run needs a directory",
        photographs / "0001.png" / "run": r"0001\.png is a file, but a run needs a directory",
        data: "is inside the data set",
        data / "runs" / "one": "is inside the data set",
    }.items():
        with pytest.raises(ValueError, match=message):
            prepare_run(RunDirectory(place), mine(f"data.path={data}"))
    assert not (photographs / "config.yaml").exists() and not (data / "runs").exists()
    (tmp_path / "run" / "logs").mkdir(parents=True)
    prepare_run(RunDirectory(tmp_path / "run"), mine(f"data.path={data}"))


def test_differences() -> None:
    old = {"a": {"b": 1, "c": float("nan")}, "d": None, "e": [1]}
    assert differences(old, {"a": {"b": 1, "c": float("nan")}, "e": [1]}) == []
    assert differences(old, {"a": {"b": 2, "c": 1.0}, "d": 0, "e": [1]}) == ["a.b", "a.c", "d"]
