"""Peak rates of GPUs' arithmetic, by the names that their driver gives them."""

from sivae_dist.process.numerics import Precision

_TERA = 1e12

_H100 = "NVIDIA H100 Tensor Core GPU datasheet, halved to dense"
_H200 = "NVIDIA H200 Tensor Core GPU datasheet, halved to dense"

PEAKS: dict[str, tuple[dict[Precision, float], str]] = {
    "H200 NVL": ({"fp32": 60, "tf32": 417.5, "bf16": 835.5}, _H200),
    "H200": ({"fp32": 67, "tf32": 494.5, "bf16": 989.5}, _H200),
    "H100 PCIe": ({"fp32": 51, "tf32": 378, "bf16": 756}, _H100),
    "H100 NVL": ({"fp32": 60, "tf32": 417.5, "bf16": 835.5}, _H100),
    "H100 80GB HBM3": ({"fp32": 67, "tf32": 494.5, "bf16": 989.5}, _H100),
    "A100": ({"fp32": 19.5, "tf32": 156, "bf16": 312}, "NVIDIA A100 Tensor Core GPU datasheet"),
    "RTX 4090": ({"fp32": 82.6, "tf32": 82.6, "bf16": 165.2}, "NVIDIA Ada GPU architecture, sums in fp32"),
}
"""TFLOP/s without sparsity, and the source, by a part of the name; the first that fits counts."""


def peak(name: str, precision: Precision) -> tuple[float, str] | None:
    """FLOP/s of a GPU with this name, 2 for a product and its sum, and the source; None where it is unknown."""
    for part, (rates, source) in PEAKS.items():
        if part in name:
            return (rates[precision] * _TERA, source) if precision in rates else None
    return None
