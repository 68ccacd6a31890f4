"""Peak rates of GPUs' arithmetic, by the names that their driver gives them."""

from sivae_dist.process.numerics import Precision

_HOPPER: dict[Precision, float] = {"fp32": 67, "tf32": 494.7, "bf16": 989.4}
_HOPPER_NVL: dict[Precision, float] = {"fp32": 60, "tf32": 417.5, "bf16": 835.5}
_H100 = "NVIDIA H100 Tensor Core GPU data sheet"
_H200 = "NVIDIA H200 Tensor Core GPU data sheet"

PEAKS: dict[str, tuple[dict[Precision, float], str]] = {
    "H200 NVL": (_HOPPER_NVL, _H200),
    "H200": (_HOPPER, _H200),
    "H100 PCIe": ({"fp32": 51, "tf32": 378, "bf16": 756}, _H100),
    "H100 NVL": (_HOPPER_NVL, _H100),
    "H100 80GB HBM3": (_HOPPER, _H100),
    "A100": ({"fp32": 19.5, "tf32": 156, "bf16": 312}, "NVIDIA A100 Tensor Core GPU data sheet"),
    "RTX 4090": ({"fp32": 82.6, "tf32": 82.6, "bf16": 165.2}, "NVIDIA Ada GPU architecture white paper, sums in fp32"),
}
"""TFLOP/s without sparsity, and the source, by a part of the name; the first that fits counts."""


def peak(name: str, precision: Precision) -> tuple[float, str] | None:
    """FLOP/s of a GPU with this name, 2 for a product and its sum, and the source; None where it is unknown."""
    for part, (rates, source) in PEAKS.items():
        if part in name:
            return (rates[precision] * 1e12, source) if precision in rates else None
    return None
