"""GPUs by name, from their vendor's data sheets. How much of it training reaches is assumed: nothing was measured."""

from launch.forecast.machine import Machine, Rate, Stream
from launch.forecast.peaks import PEAKS
from sivae_dist.process.numerics import Precision
from sivae_dist.train.work import Kind

_REACHED: dict[Precision, float] = {"fp32": 0.7, "tf32": 0.5, "bf16": 0.5}
"""Assumed share of the peak that convolutions and products reach."""
_BANDWIDTH_REACHED = 0.8
"""Assumed share of the bandwidth of memory, and of the links between GPUs."""
_KERNEL_SECONDS = 4e-6
"""Assumed time of the shortest kernel."""
_OPERATION_SECONDS = 12e-6
"""Assumed time in which the host issues an operation, forward and backward, without torch.compile and CUDA graphs."""
_SUM_SECONDS = 30e-6
"""Assumed time of the smallest sum over several GPUs."""
_PROCESS_BYTES = 1_000_000_000
"""Assumed, of the CUDA context, NCCL and workspaces (train/memory.py)."""

_ARITHMETIC: tuple[Kind, ...] = (
    "convolution", "convolution, input", "convolution, weight", "strided", "strided, input", "strided, weight",
    "product",
)  # fmt: skip

_ASSUMED = (
    f"assumed, not measured: {_REACHED['fp32']:.0%} of the peak in fp32, {_REACHED['bf16']:.0%} in tf32 and bf16, "
    f"{_BANDWIDTH_REACHED:.0%} of the bandwidths, {_KERNEL_SECONDS * 1e6:g} us for the shortest kernel, "
    f"{_OPERATION_SECONDS * 1e6:g} us of the host for an operation, "
    f"{_SUM_SECONDS * 1e6:g} us for the smallest sum over GPUs"
)


def _gpu(
    name: str,
    sheet: str,
    *,
    peaks: str,
    bandwidth: float,
    gigabytes: int,
    within: float,
    between: float,
    watts: float,
    nodes: str,
) -> Machine:
    """`peaks`: its entry in peaks.py. `bandwidth`: of memory in TB/s. `within`: GB/s of a GPU to others of its node in
    one direction; `between`: of a node's network in one direction."""
    rates = [
        Rate(
            kind=kind, precision=precision, channels=1, positions=1, flops_per_second=peak * _REACHED[precision] * 1e12
        )
        for precision, peak in PEAKS[peaks][0].items()
        for kind in _ARITHMETIC
    ]
    reached = bandwidth * _BANDWIDTH_REACHED * 1e12
    streams = [
        Stream(kind="elementwise", precision=precision, bytes=size, seconds=size / reached)
        for precision in ("fp32", "bf16")
        for size in (round(_KERNEL_SECONDS * reached), 1 << 40)
    ]
    return Machine(
        name=name,
        device="cuda",
        measured=False,
        source=[sheet, nodes, _ASSUMED],
        rates=rates,
        streams=streams,
        operation_seconds=_OPERATION_SECONDS,
        memory=gigabytes * 10**9,
        process_bytes=_PROCESS_BYTES,
        per_node=8,
        within_node=within * _BANDWIDTH_REACHED * 1e9,
        between_nodes=min(within, between) * _BANDWIDTH_REACHED * 1e9,
        sum_seconds=_SUM_SECONDS,
        watts=watts,
    )


GPUS = {
    "h100": _gpu(
        "H100 SXM",
        "NVIDIA H100 Tensor Core GPU data sheet: 67 TFLOP/s fp32, 494.7 tf32 and 989.4 bf16 without sparsity, 80 GB, "
        "3.35 TB/s, NVLink 900 GB/s in both directions, 700 W",
        peaks="H100 80GB HBM3",
        bandwidth=3.35,
        gigabytes=80,
        within=450,
        between=400,
        watts=700,
        nodes="nodes of 8 with 8 x 400 Gb/s, as NVIDIA DGX H100",
    ),
    "h200": _gpu(
        "H200 SXM",
        "NVIDIA H200 Tensor Core GPU data sheet: arithmetic as H100, 141 GB, 4.8 TB/s, NVLink 900 GB/s in both "
        "directions, 700 W",
        peaks="H200",
        bandwidth=4.8,
        gigabytes=141,
        within=450,
        between=400,
        watts=700,
        nodes="nodes of 8 with 8 x 400 Gb/s, as NVIDIA DGX H200",
    ),
    "a100": _gpu(
        "A100 SXM 80 GB",
        "NVIDIA A100 Tensor Core GPU data sheet: 19.5 TFLOP/s fp32, 156 tf32 and 312 bf16 without sparsity, 80 GB, "
        "2.039 TB/s, NVLink 600 GB/s in both directions, 400 W",
        peaks="A100",
        bandwidth=2.039,
        gigabytes=80,
        within=300,
        between=200,
        watts=400,
        nodes="nodes of 8 with 8 x 200 Gb/s, as NVIDIA DGX A100 80 GB",
    ),
    "4090": _gpu(
        "GeForce RTX 4090",
        "NVIDIA Ada GPU architecture white paper: 82.6 TFLOP/s fp32, 82.6 tf32 and 165.2 bf16 (sums in fp32) without "
        "sparsity, 24 GB, 1.008 TB/s, PCIe 4.0 x16 (32 GB/s in one direction), 450 W",
        peaks="RTX 4090",
        bandwidth=1.008,
        gigabytes=24,
        within=32,
        between=12.5,
        watts=450,
        nodes="assumed: nodes of 8 without peer-to-peer copies worth more than PCIe, with 100 Gb/s",
    ),
}
"""By the name on the command line."""


def of_card(name: str) -> Machine | None:
    """The GPU that its driver gives this name; None if it is not tabled."""
    cards = {"H100 80GB HBM3": "h100", "H200": "h200", "A100-SXM4-80GB": "a100", "RTX 4090": "4090"}
    known = next((gpu for part, gpu in cards.items() if name.endswith(part)), None)
    return None if known is None else GPUS[known]
