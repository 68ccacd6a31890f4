"""Models for others: what is written, and what is refused when it comes back."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import sivae_dist
from sivae_dist import load_pretrained
from sivae_dist.checkpoint.initial import initial_tensors
from sivae_dist.checkpoint.settings import InitSettings
from sivae_dist.models import Stage
from sivae_dist.run import atomic
from sivae_dist.use import export as module
from sivae_dist.use.export import ExportConfig, export, model_card
from sivae_dist.use.loading import load_run
from sivae_dist.use.pretrained import Pretrained
from tests.checkpoints import contents
from tests.command import ENVIRONMENT
from tests.helpers import assert_same, begin, tiny_settings, train


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With checkpoints of 16 images at 4 px, of 24 in transition to 8 px, and of 48."""
    path = tmp_path_factory.mktemp("runs") / "run"
    train(begin(path, tiny_settings(data, "checkpoint.every=8", "checkpoint.keep_every=8")))
    return path


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "model"
    export(run, out)
    return out


def tensors_of(model: Pretrained) -> dict[str, torch.Tensor]:
    networks = {"encoder": model.encoder, "decoder": model.decoder}
    return {f"{name}.{key}": t for name, network in networks.items() for key, t in network.state_dict().items()}


def assert_equal(got: Pretrained, want: Pretrained) -> None:
    """The same in every bit, and in what comes out."""
    assert_same(tensors_of(got), tensors_of(want))
    assert (got.settings, got.stage, got.images) == (want.settings, want.stage, want.images)
    assert (got.live, got.data, got.dtype) == (want.live, want.data, want.dtype)
    assert not any(network.training for network in (got.encoder, got.decoder))
    samples = got.sample(3, seed=1)
    assert torch.equal(samples, want.sample(3, seed=1))
    for ours, theirs in zip(got.encode(samples), want.encode(samples), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("checkpoint", ["latest", 16, 24])
def test_what_is_loaded_is_what_the_run_had(run: Path, tmp_path: Path, checkpoint: str | int, live: bool) -> None:
    config = export(run, tmp_path / "model", checkpoint=checkpoint, live=live)
    want = load_run(run, checkpoint=checkpoint, live=live)
    assert_equal(load_pretrained(tmp_path / "model"), want)
    assert_equal(load_pretrained(str(run), checkpoint=checkpoint, live=live, device="cpu"), want)
    assert config == ExportConfig.model_validate_json((tmp_path / "model" / "config.json").read_text())
    assert (config.blend is None) == (checkpoint != 24)


def test_fp64_stays_fp64(data: Path, tmp_path: Path) -> None:
    train(begin(tmp_path / "run", tiny_settings(data, "engine.precision=fp64")))
    export(tmp_path / "run", tmp_path / "model")
    model = load_pretrained(tmp_path / "model")
    assert model.dtype == torch.float64
    assert_equal(model, load_run(tmp_path / "run"))


def test_the_files(run: Path, exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    with module.safe_open(exported / "model.safetensors", framework="pt") as file:
        about = file.metadata()
    model = load_run(run)
    assert model.data is not None
    assert about == {
        "format": "pt", "library": "sivae", "resolution": "8", "images": "48", "weights": "ema", "data": model.data,
    }  # fmt: skip
    config = json.loads((exported / "config.json").read_text())
    assert config["model"] == model.settings.model_dump(mode="json")
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert config["metrics"] == {name: value for name, value in last.items() if name != "images"}


def test_the_same_run_makes_the_same_files(run: Path, exported: Path, tmp_path: Path) -> None:
    """In any process, under any name, readable by whom the umask says. The order of metadata once was by chance."""
    before = os.umask(0o027)
    try:
        for name in "abcd":
            export(run, tmp_path / name)
    finally:
        os.umask(before)
    for file in exported.iterdir():
        for name in "abcd":
            assert (tmp_path / name / file.name).read_bytes() == file.read_bytes()
            assert (tmp_path / name / file.name).stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o750


def test_a_run_starts_from_an_export(run: Path, exported: Path) -> None:
    found = initial_tensors(InitSettings(weights=exported / "model.safetensors"))
    assert found is not None
    for name, tensor in tensors_of(load_run(run)).items():
        assert torch.equal(found[0][name], tensor)


# The model card.


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_the_card_says_what_it_is(run: Path, exported: Path) -> None:
    front, text = card_of(exported)
    assert front["license"] == "unknown"
    assert front["library_name"] == "sivae"
    assert {"soft-introvae", "vae"} <= set(front["tags"])
    model = load_run(run)
    decoder = sum(parameter.numel() for parameter in model.decoder.parameters())
    for words in (f"`{model.data}`", "none was stated", "| 48 |", "8x8 px", f"decoder {decoder:,}", "(EMA)"):
        assert words in text, words
    assert "Nothing was evaluated" in text
    assert "| kl/real |" in text and "schedule/" not in text
    assert text.split()[2:4] == ["A", "Soft-IntroVAE"]


@pytest.mark.parametrize(("objective", "tag"), [("vae", "vae"), ("intro", "introvae"), ("soft_intro", "soft-introvae")])
def test_the_card_names_the_objective(exported: Path, objective: str, tag: str) -> None:
    config = ExportConfig.model_validate_json((exported / "config.json").read_text())
    card = model_card("m", config.model_copy(update={"objective": objective}), [], "mit")
    assert yaml.safe_load(card.split("---\n")[1])["tags"][0] == tag


def test_the_card_names_the_licence_and_the_stage(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "model", checkpoint=24, live=True, license="CC-BY-4.0")
    front, text = card_of(tmp_path / "model")
    assert front["license"] == "cc-by-4.0"
    assert "| licence | cc-by-4.0 |" in text
    assert "not averaged" in text
    assert "blended in to 0." in text
    export(run, tmp_path / "small", checkpoint=16)
    assert "4x4 px, on the way to 8x8" in card_of(tmp_path / "small")[1]
    for license in ("", "my licence", "mit\nlibrary_name: other"):
        with pytest.raises(ValueError, match="is not a licence identifier"):
            export(run, tmp_path / "none", license=license)
    assert not (tmp_path / "none").exists()


def test_the_card_has_the_values_of_these_weights(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    common = {"images": 48, "weights": "ema", "samples": 50_000}
    rows = [
        common | {"metric": "fid", "value": 99.5},
        common | {"metric": "fid", "value": 18.63},
        common | {"metric": "psnr", "value": 21.5},
        common | {"metric": "fid", "value": 7.25, "images": 24},
        common | {"metric": "fid", "value": 8.25, "weights": "live"},
    ]
    (tmp_path / "run" / "evaluation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    export(tmp_path / "run", tmp_path / "model")
    text = card_of(tmp_path / "model")[1]
    assert "| fid | 18.63 | weights ema; samples 50000 |" in text
    assert "| psnr | 21.5 |" in text
    assert not any(other in text for other in ("99.5", "7.25", "8.25", "Nothing was evaluated"))


def test_the_code_on_the_card_runs(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(exported)
    code = re.search(r"```python\n(.*?)```", card_of(exported)[1], re.S)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)
    assert names["images"].shape == (16, 3, 8, 8)
    assert names["mu"].shape == (16, 8)


# Whole or not at all.


def test_nothing_is_written_over(run: Path, exported: Path, tmp_path: Path) -> None:
    before = contents(exported)
    for out in (exported, tmp_path):
        with pytest.raises(ValueError, match=f"{out} exists already"):
            export(run, out)
    assert contents(exported) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", ["write_tensors", "sync"])
def test_an_interrupted_export_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, error: BaseException
) -> None:
    def interrupted(*arguments: Any, **_: Any) -> None:
        if at == "write_tensors":
            arguments[0].write_bytes(b"half of it")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(atomic if at == "sync" else module, at, interrupted)
        with pytest.raises(type(error)):
            export(run, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_export_left_is_in_nobodys_way(run: Path, tmp_path: Path) -> None:
    partial = tmp_path / ".model.partial"
    partial.mkdir()
    (partial / "junk").write_text("half of it")
    export(run, tmp_path / "model")
    assert {path.name for path in tmp_path.rglob("*")} == {"model", "model.safetensors", "config.json", "README.md"}


# Exports are anybody's.


def _rename(tensors: dict[str, torch.Tensor]) -> None:
    tensors["decoder.evil\n"] = tensors["decoder.mapping.layers.0.bias"].clone()


def _drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["encoder.mapping.layers.0.bias"]


def _cut(tensors: dict[str, torch.Tensor]) -> None:
    tensors["decoder.to_rgb.8.bias"] = tensors["decoder.to_rgb.8.bias"][:2].clone()


def _halve(tensors: dict[str, torch.Tensor]) -> None:
    tensors["decoder.to_rgb.8.bias"] = tensors["decoder.to_rgb.8.bias"].half()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_rename, r"model.safetensors has a tensor 'decoder.evil\\n', which the model does not"),
        (_drop, "model.safetensors has no tensor encoder.mapping.layers.0.bias"),
        (_cut, r"model.safetensors: decoder.to_rgb.8.bias is \[2\] there and \[3\] in the model"),
        (_halve, "model.safetensors: decoder.to_rgb.8.bias is F16 there and float32 in config.json"),
    ],
)
def test_tensors_that_do_not_fit(
    exported: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    out = tmp_path / "model"
    shutil.copytree(exported, out)
    tensors = load_file(out / "model.safetensors")
    change(tensors)
    save_file(tensors, out / "model.safetensors")
    refused(out, message)


def refused(out: Path, message: str) -> None:
    """In one line that begins with the file's name."""
    with pytest.raises(ValueError, match=message) as error:
        load_pretrained(out)
    assert str(error.value).startswith(f"{out}/")
    assert len(str(error.value).splitlines()) == 1


def _pickled(path: Path) -> None:
    torch.save({"decoder.to_rgb.8.bias": torch.zeros(3)}, path)


def _shorter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_pickled, "model.safetensors is damaged"),
        (_shorter, "model.safetensors is damaged"),
        (lambda path: path.write_bytes(b""), "model.safetensors is damaged"),
        (lambda path: path.write_bytes(b"\xff" * 64), "model.safetensors is damaged"),
        (Path.unlink, "model.safetensors is missing"),
    ],
)
def test_files_that_hold_no_tensors(exported: Path, tmp_path: Path, spoil: Callable[[Path], Any], message: str) -> None:
    out = tmp_path / "model"
    shutil.copytree(exported, out)
    spoil(out / "model.safetensors")
    refused(out, message)


HUGE = 1 << 62


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "config.json is not valid: version"),
        ({"format": "other"}, "config.json is not valid: format"),
        ({"code": "import os"}, "config.json is not valid: unknown key code"),
        ({"resolution": 16}, "config.json is not valid: resolution 16 is not one of"),
        ({"blend": 2.0}, "config.json is not valid: blend"),
        ({"resolution": 4, "blend": 0.5}, "config.json is not valid: blend is given at 4 px"),
        ({"model": {"name": "style", "latent": 0}}, "config.json is not valid: model.latent"),
        ({"model": {"decoder_mapping": HUGE}}, "too few for the model in config.json"),
        ({"model": {"latent": HUGE}}, "config.json describes a model that is too large"),
        ({"model": {"resolution": 8, "base_width": 1 << 40, "max_width": 1 << 40}}, r"config.json|model.safetensors"),
        ({"model": {"resolution": 1024}}, "model.safetensors has no tensor"),
    ],
)
def test_settings_that_are_not_the_models(exported: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """Refused before memory is taken for what they claim."""
    out = tmp_path / "model"
    shutil.copytree(exported, out)
    config = json.loads((out / "config.json").read_text())
    config |= {key: config[key] | value if isinstance(value, dict) else value for key, value in change.items()}
    if change.get("model", {}).get("resolution") == 1024:
        config["resolution"] = 8
    (out / "config.json").write_text(json.dumps(config))
    refused(out, message)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b" " * (1 << 21)], ids=lambda content: str(content[:4])
)
def test_what_is_no_configuration(exported: Path, tmp_path: Path, content: bytes) -> None:
    out = tmp_path / "model"
    shutil.copytree(exported, out)
    (out / "config.json").write_bytes(content)
    refused(out, "config.json is (not valid|too large for)")


def test_what_is_neither_run_nor_export(exported: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ValueError, match=f"{path} is neither a run nor an exported model"):
            load_pretrained(path)
    with pytest.raises(ValueError, match="which has only one checkpoint and one kind of weights"):
        load_pretrained(exported, checkpoint="best")
    with pytest.raises(ValueError, match="which has only one checkpoint and one kind of weights"):
        load_pretrained(exported, live=True)


def test_the_package_alone_imports_nothing_heavy() -> None:
    check = "import sys, sivae_dist; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'pydantic')))"
    assert subprocess.run([sys.executable, "-c", check], env=ENVIRONMENT, timeout=120, check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'load_pretraind'"):
        sivae_dist.load_pretraind  # type: ignore[attr-defined]  # noqa: B018


def test_a_stage_is_part_of_the_model(exported: Path, run: Path, tmp_path: Path) -> None:
    assert load_pretrained(exported).stage == Stage(8)
    export(run, tmp_path / "model", checkpoint=24)
    stage = load_pretrained(tmp_path / "model").stage
    assert stage.blend is not None
    assert torch.equal(stage.blend, load_run(run, checkpoint=24).stage.blend)  # type: ignore[arg-type]
