"""Precision and determinism as settings of torch and the environment, which a CPU takes as well as a GPU."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from launch import launcher, work
from sivae_dist.config.opening import settings_of
from sivae_dist.evaluation import evaluator as evaluators
from sivae_dist.evaluation import reference
from sivae_dist.evaluation.extractors import Extractor
from sivae_dist.evaluation.metrics import METRICS, Batch, Metric
from sivae_dist.evaluation.settings import EvaluationSettings
from sivae_dist.process import numerics
from sivae_dist.process.numerics import configure, ieee, set_environment
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.ends import Logs
from sivae_dist.train import checkpoints
from sivae_dist.use.loading import load_run
from tests.helpers import begin, on_processes, random_set, tiny_settings, train

GPU = torch.device("cuda", 0)
_ENVIRONMENT = (
    "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG", "NCCL_ALGO", "NCCL_NVLS_ENABLE",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is set for the whole process is taken back."""
    for name in _ENVIRONMENT:
        monkeypatch.setenv(name, "")  # remembered, even where it is not set
        monkeypatch.delenv(name)
    cudnn = torch.backends.cudnn
    before = numerics_now(), cudnn.deterministic, cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    yield
    cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before[0]
    cudnn.deterministic, cudnn.benchmark = before[1:3]
    torch.use_deterministic_algorithms(before[3])
    torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def numerics_now() -> tuple[bool, bool]:
    """Whether convolutions, and matrix products, may use TF32."""
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


# Precision.


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("tf32", True), ("bf16", False), ("fp64", False)])
def test_a_precision_means_the_same_in_convolutions_and_products(
    monkeypatch: pytest.MonkeyPatch, precision: numerics.Precision, tf32: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = not tf32, not tf32
    configure(precision, False, GPU)
    assert numerics_now() == (tf32, tf32)


@pytest.mark.parametrize(("capability", "fine"), [((7, 5), False), ((8, 0), True), ((12, 0), True)])
def test_bf16_is_for_gpus_that_have_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], fine: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    if fine:
        configure("bf16", False, GPU)
        return
    with pytest.raises(ValueError, match=r"needs an Ampere GPU .* cuda:0 is Tesla T4: set engine\.precision=fp32"):
        configure("bf16", False, GPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_a_gpu_makes_of_it() -> None:
    """Errors against fp64, relative to the largest value: IEEE about 1e-7, TF32 about 1e-4."""
    torch.manual_seed(0)
    x, w = torch.randn(4, 256, 16, 16, device=GPU), torch.randn(64, 256, 3, 3, device=GPU)
    a, b = torch.randn(512, 512, device=GPU), torch.randn(512, 512, device=GPU)

    def errors() -> list[float]:
        pairs = (
            (torch.nn.functional.conv2d(x, w), torch.nn.functional.conv2d(x.double(), w.double())),
            (a @ b, a.double() @ b.double()),
        )
        return [float((got - want).abs().max() / want.abs().max()) for got, want in pairs]

    configure("fp32", False, GPU)
    assert max(errors()) < 5e-6
    configure("tf32", False, GPU)
    if torch.cuda.get_device_capability(GPU) >= (8, 0):
        assert min(errors()) > 2e-5
    with ieee():
        assert max(errors()) < 5e-6


@pytest.mark.parametrize("before", [(True, False), (False, False), (True, True)])
def test_ieee_ends_where_it_began(before: tuple[bool, bool]) -> None:
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    with pytest.raises(KeyError), ieee():
        assert numerics_now() == (False, False)
        raise KeyError
    assert numerics_now() == before


def test_ieee_where_operations_were_set_one_by_one() -> None:
    """As by a user's own code; torch then refuses to say whether cuDNN may use TF32."""
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    torch.backends.cudnn.rnn.fp32_precision = "tf32"  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError):
        numerics_now()
    with ieee():
        assert numerics_now() == (False, False)
    assert not numerics_now()[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_set(tmp_path_factory.mktemp("data") / "set", test=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    path = tmp_path_factory.mktemp("run") / "run"
    train(begin(path, tiny_settings(data)))
    return path


class Watching(nn.Module):
    """An extractor's network that notes how it would compute."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[bool, bool]] = set()

    def forward(self, images: Tensor) -> tuple[Tensor]:
        self.seen.add(numerics_now())
        return (torch.nn.functional.adaptive_avg_pool2d(images.float(), 4).flatten(1)[:, :8],)


def test_an_evaluation_is_in_ieee_whatever_training_uses(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, seen = Watching(), set()
    metric = METRICS["psnr"]
    add = metric.add

    def watched(self: Metric, batch: Batch) -> Tensor:
        seen.add(numerics_now())
        return add(self, batch)

    monkeypatch.setattr(metric, "add", watched)
    settings = settings_of(RunDirectory(run))
    measuring = EvaluationSettings(metrics=("fid", "psnr"), samples=4)
    configure("tf32", False, GPU)
    with settings.data.open(settings.seed, torch.device("cpu")) as opened:
        evaluator = evaluators.Evaluator(measuring, opened, torch.device("cpu"))
        evaluator._extractor = Extractor("watching", "0", "8", False, network)
        monkeypatch.setattr(reference, "save", lambda folder, key, made: None)
        rows = evaluator.evaluate(load_run(run))
    assert [row["metric"] for row in rows] == ["frechet_distance[watching]", "psnr"]
    assert {(row["precision"], row["device"]) for row in rows} == {("fp32", "cpu")}
    assert network.seen == seen == {(False, False)}
    assert numerics_now() == (True, True)


# Determinism.


def test_deterministic_on_a_gpu() -> None:
    configure("fp32", True, GPU)
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    import torch._inductor.config as inductor

    assert inductor.deterministic
    configure("fp32", False, GPU)
    assert torch.backends.cudnn.benchmark and not torch.backends.cudnn.deterministic
    assert not torch.are_deterministic_algorithms_enabled() and not inductor.deterministic


def test_a_cpu_needs_none_of_it() -> None:
    configure("fp32", True, torch.device("cpu"))
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.deterministic


def test_the_environment_of_a_deterministic_run() -> None:
    set_environment(True)
    assert {name: os.environ.get(name) for name in _ENVIRONMENT} == {
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        "PYTORCH_CUDA_ALLOC_CONF": None,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "NCCL_ALGO": "Ring",
        "NCCL_NVLS_ENABLE": "0",
    }


def _allocator() -> str:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        os.environ.pop(name, None)
    torch.cuda.is_available()  # as a command asks before it starts
    set_environment(False)
    return str(torch._C._accelerator_getAllocatorSettings())


def test_torch_reads_the_environment_late_enough() -> None:
    """After its import, when memory is first asked for."""
    assert on_processes(1, _allocator) == ["expandable_segments:True"]


def test_the_users_own_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:512")
    monkeypatch.setenv("NCCL_ALGO", "Tree")
    set_environment(False)
    assert "PYTORCH_ALLOC_CONF" not in os.environ and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    set_environment(True)
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "max_split_size_mb:512" and os.environ["NCCL_ALGO"] == "Tree"


def test_a_worker_sets_all_of_it_before_it_takes_a_device(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(data, "engine.deterministic=true", "engine.precision=tf32")
    at_that_time: list[str | None] = []

    def pick(name: str) -> torch.device:
        at_that_time.extend(os.environ.get(name) for name in _ENVIRONMENT)
        return GPU

    monkeypatch.setattr(work, "pick_device", pick)
    monkeypatch.setattr(work, "join", lambda device, timeout: None)
    monkeypatch.setattr(work.watchdog, "start", lambda *_: None)
    work._begin(settings, Logs(tmp_path))
    assert at_that_time == ["expandable_segments:True", None, ":4096:8", "Ring", "0"]
    assert torch.are_deterministic_algorithms_enabled() and numerics_now() == (True, True)


@pytest.mark.parametrize(("own", "compilers"), [({}, "4"), ({"TORCHINDUCTOR_COMPILE_THREADS": "2"}, "2")])
def test_processes_share_the_cores_when_they_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: dict[str, str], compilers: str
) -> None:
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "TORCHINDUCTOR_COMPILE_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(launcher, "_start", lambda *_: 0)
    assert launcher.start([], Logs(tmp_path), 2) == 0
    assert (os.environ["OMP_NUM_THREADS"], os.environ["TORCHINDUCTOR_COMPILE_THREADS"]) == ("4", compilers)


# A run that moves.


def _begun_on(hardware: dict[str, object], path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(checkpoints, "hardware", lambda models, device: hardware)
        train(begin(path, tiny_settings(data, "schedule.images={4: 16, 8: 16}")))


def test_a_checkpoint_says_on_what_it_was_made(run: Path) -> None:
    from sivae_dist.checkpoint import CheckpointFolder

    (*_, newest) = CheckpointFolder(run / "checkpoints").readable()
    assert newest.meta.hardware == {"type": "cpu", "models": ["cpu"]} and newest.meta.precision == "fp32"


def test_a_run_that_comes_from_a_gpu(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _begun_on({"type": "cuda", "models": ["NVIDIA A100"]}, tmp_path / "run", data, monkeypatch)
    with pytest.raises(ValueError, match=r"made on NVIDIA A100 and this is a CPU.*drawn differently.*set device=cpu"):
        begin(tmp_path / "run", tiny_settings(data, "schedule.images={4: 16, 8: 16}", "device=auto"))
    capsys.readouterr()
    begin(tmp_path / "run", tiny_settings(data, "schedule.images={4: 16, 8: 16}")).close()
    assert "warning: the checkpoint was made on NVIDIA A100 and this is a CPU" in capsys.readouterr().out


def test_another_model_of_gpu_and_checkpoints_that_do_not_say() -> None:
    from sivae_dist.process.devices import hardware, moved

    here = hardware(["NVIDIA H100", "NVIDIA H100"], GPU)
    assert here == {"type": "cuda", "models": ["NVIDIA H100"]}
    assert moved(None, here) is None and moved(dict(here), here) is None
    note = moved({"type": "cuda", "models": ["NVIDIA A100"]}, here)
    assert note is not None and "same draws, but not bit for bit" in note
