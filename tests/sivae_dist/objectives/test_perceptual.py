"""Perceptual distances and sums in runs: shared, frozen, outside of checkpoints, their weights the same on a resume."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sivae_dist.checkpoint import CheckpointFolder
from sivae_dist.config.opening import prepare_run
from sivae_dist.models.base import Network
from sivae_dist.models.layers import forms
from sivae_dist.objectives import VaeSettings
from sivae_dist.objectives.distances import make_distance
from sivae_dist.perceptual.weights import VggFiles
from sivae_dist.published import checksum
from sivae_dist.run.directory import RunDirectory
from sivae_dist.train.memory import estimate
from tests.helpers import assert_same, begin, gathered, on_processes, open_run, random_set, tiny_settings, train
from tests.sivae_dist.objectives.rendering import style
from tests.sivae_dist.perceptual.files import keep_in, write

SHORT = ("schedule.images={4: 2, 8: 6}", "schedule.batch=2")
RANDOM = "objective.reconstruction=vgg-random"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    return keep_in(monkeypatch, tmp_path / "kept")


def network(dtype: torch.dtype = torch.float32) -> Network:
    found = Network()
    found.weight = nn.Parameter(torch.zeros(1, dtype=dtype))
    return found


def images(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    a, b = torch.rand(2, 3, 3, 32, 32, dtype=dtype, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return a, b


def test_a_sum_of_distances() -> None:
    where, (a, b) = network(torch.float64), images(torch.float64)
    parts = {"mse": 0.25, "vgg-random": 3.0, "l1": 1.0}
    made = make_distance(parts, VggFiles(), where, None)
    alone = {name: make_distance(name, VggFiles(), where, None)(a, b) for name in parts}
    expected = 0.25 * (a - b).square().sum((1, 2, 3)) + 3 * alone["vgg-random"] + (a - b).abs().sum((1, 2, 3))
    torch.testing.assert_close(made(a, b), expected, rtol=1e-12, atol=0)


def test_one_is_shared_while_it_is_used_and_follows_the_network() -> None:
    where = network()
    made = make_distance("vgg-random", VggFiles(), where, None)
    assert make_distance("vgg-random", VggFiles(), where, None) is made
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in made.parameters() if p.dim() == 4)
    mixed = make_distance("vgg-random", VggFiles(), where, torch.bfloat16)
    assert mixed is not made and {p.dtype for p in mixed.parameters()} == {torch.bfloat16}
    a, b = images()
    found = mixed(a, b)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, made(a, b), rtol=2e-3, atol=0)
    assert {p.dtype for p in make_distance("vgg-random", VggFiles(), network(torch.float64), None).parameters()} == {
        torch.float64
    }


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("objective.reconstruction={mse: 1, vgg: 0}", "the weight of vgg is 0, not a number greater than 0"),
        ("objective.reconstruction={mse: -0.5}", "the weight of mse is -0.5, not a number greater than 0"),
        ("objective.reconstruction={mse: yes}", "the weight of mse is 'yes', not a number greater than 0"),
        ("objective.reconstruction={mze: 1}", "mze"),
        ("objective.reconstruction={}", "no distance is named"),
        ("objective.reconstruction=3", "vgg-random"),
        ("objective.reconstruction={mse: 1, bce: 1}", "objective.reconstruction=bce needs images inside"),
        ("objective.vgg_sha256=abc", "at least 8 lower-case hexadecimal digits"),
    ],
)
def test_messages(assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^tiny: objective") as error:
        tiny_settings(Path("none"), assignment)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_weights_of_a_sum_are_numbers_whatever_their_form() -> None:
    settings = tiny_settings(Path("none"), "objective.reconstruction={vgg: 1, mse: 0.1}")
    assert settings.objective.reconstruction == {"vgg": 1.0, "mse": 0.1}  # type: ignore[attr-defined]
    assert "vgg: 1.0" in settings.to_yaml()


def test_points_have_no_perceptual_distance() -> None:
    points = ("data={name: points, distribution: 8gaussians}", "model={name: mlp}", "schedule.images=8")
    with pytest.raises(ValueError, match=r"objective\.reconstruction=vgg-random does not compare samples of shape \[2"):
        tiny_settings(Path("none"), *points, "objective={name: vae, reconstruction: vgg-random}")


@pytest.mark.slow
def test_memory_of_its_weights_and_features() -> None:
    """13 convolutions of VGG16 have 14,714,688 weights, which bf16 halves."""
    found = {}
    for precision in ("fp32", "bf16"):
        plain, with_it = (
            estimate(tiny_settings(Path("none"), f"engine.precision={precision}", *more), 8, False, 4, 1, device="cpu")
            for more in ((), (RANDOM,))
        )
        found[precision] = with_it.weights - plain.weights
        assert with_it.activations > plain.activations + 4 * 1_000_000 * 4 / 2
        assert with_it.optimizer == plain.optimizer
    assert found == {"fp32": 14_714_688 * 4, "bf16": 14_714_688 * 2}


def with_weights(source: Path, digest: str) -> tuple[str, ...]:
    return (*SHORT, "objective.reconstruction={vgg: 1, mse: 0.5}", f"objective.vgg_weights={source}",
            f"objective.vgg_sha256={digest}")  # fmt: skip


@pytest.mark.slow
def test_a_run_keeps_its_weights_and_leaves_them_out(tmp_path: Path, cache: Path) -> None:
    data = random_set(tmp_path / "set")
    digest = write(tmp_path / "vgg.pth", scale=0.9)
    settings = tiny_settings(data, *with_weights(tmp_path / "vgg.pth", digest))
    trainer = begin(tmp_path / "run", settings)
    train(trainer, steps=2)
    plain = begin(tmp_path / "plain", tiny_settings(data, *SHORT))
    assert trainer.players.tensors().keys() == plain.players.tensors().keys() | trainer.players.tensors().keys()
    assert not any(512 in tensor.shape for tensor in trainer.players.tensors().values())
    plain.close()
    resumed = train(begin(tmp_path / "run"))
    assert resumed.images == 8
    (saved,) = CheckpointFolder(RunDirectory(tmp_path / "run").checkpoints).readable()
    (kept,) = cache.glob("*.safetensors")
    tensors = load_file(kept)
    from sivae_dist.perceptual.weights import SHAPES

    assert saved.meta.objective == checksum({name: tensors[name] for name in SHAPES})

    # Another path of the same file may be given, another file not.
    elsewhere = tmp_path / "there.safetensors"
    kept.rename(elsewhere)
    (tmp_path / "vgg.pth").unlink()
    prepare_run(RunDirectory(tmp_path / "run"), tiny_settings(data, *with_weights(elsewhere, digest)))
    begin(tmp_path / "run").close()
    other = write(tmp_path / "other.pth", scale=0.8)
    with pytest.raises(ValueError, match=r"objective\.vgg_sha256"):
        prepare_run(RunDirectory(tmp_path / "run"), tiny_settings(data, *with_weights(tmp_path / "other.pth", other)))
    altered = {name: 0.5 * tensors[name] for name in SHAPES}
    save_file(altered, elsewhere, {"source_sha256": digest, "sha256": checksum(altered)})
    with pytest.raises(ValueError, match=r"the weights of objective\.reconstruction are not those"):
        begin(tmp_path / "run")


def test_missing_weights_are_one_line_before_the_networks_are_built(tmp_path: Path) -> None:
    data = random_set(tmp_path / "set")
    missing = tiny_settings(data, "objective.reconstruction=vgg", f"objective.vgg_weights={tmp_path}/x.pth")
    with pytest.raises(ValueError, match=r"^objective\.vgg_weights: there is no file .*/x\.pth$"):
        begin(tmp_path / "run", missing)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [["engine.channels_last=false"], ["engine.name=zero", "engine.stage=3"]])
def test_every_engine_trains_with_it(tmp_path: Path, engine: list[str]) -> None:
    data = random_set(tmp_path / "set")
    on_processes(1, _trained, str(tmp_path), str(data), engine)


def _trained(tmp_path: str, data: str, engine: list[str]) -> None:
    path = open_run(Path(tmp_path) / "run", Path(data), *SHORT, RANDOM, *engine)
    trainer = begin(path)
    before = gathered(trainer)
    train(trainer)
    assert trainer.images == 8
    after = gathered(trainer)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert any(name.startswith("encoder.") for name in moved) and any(name.startswith("decoder.") for name in moved)


@pytest.mark.slow
def test_gradients_in_bf16() -> None:
    """Of both arguments, in fp32 and in nearly the direction of those in fp32."""
    gradients = []
    for amp in (None, torch.bfloat16):
        pair = [x[:1].clone().requires_grad_(True) for x in images()]
        make_distance("vgg-random", VggFiles(), network(), amp)(*pair).sum().backward()
        gradients.append(torch.stack([x.grad for x in pair if x.grad is not None]))
    assert gradients[1].shape == (2, 1, 3, 32, 32) and gradients[1].dtype == torch.float32
    assert torch.cosine_similarity(*(g.flatten(1) for g in gradients)).min() > 0.95


@pytest.mark.slow
def test_one_graph() -> None:
    """torch.compile finds no break, and what it runs is the same."""
    settings = VaeSettings(reconstruction={"vgg-random": 1.0, "mse": 0.1})
    case = style(mixing=False, noise=False)
    encoder, _ = settings.build(case.encoder, case.decoder, case.resolution, case.dimensions)
    torch._dynamo.reset()
    arguments = (case.x, case.cond, case.draws)
    with forms.using("plain"):
        eager = encoder(*arguments)
        compiled = torch.compile(encoder, backend="eager", fullgraph=True, dynamic=False)(*arguments)
    torch.testing.assert_close(compiled[0], eager[0], rtol=1e-10, atol=0)


@pytest.mark.slow
def test_two_processes_find_the_same_weights_and_train(tmp_path: Path) -> None:
    data = random_set(tmp_path / "set")
    digest = write(tmp_path / "vgg.pth", scale=0.9)
    objective = f"name: vae, reconstruction: vgg, vgg_weights: {tmp_path / 'vgg.pth'}, vgg_sha256: '{digest}'"
    path = open_run(
        tmp_path / "run", data, f"objective={{{objective}}}", "schedule.images={4: 2, 8: 2}", "schedule.batch=2"
    )
    first, second = on_processes(2, _weights_of, str(path), str(tmp_path / "kept"))
    assert_same(second, first)


def _weights_of(path: str, cache: str) -> dict[str, Tensor]:
    with pytest.MonkeyPatch.context() as patch:
        keep_in(patch, Path(cache))
        return gathered(train(begin(Path(path))))
