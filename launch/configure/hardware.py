"""The hardware for a run: this machine, or GPUs given by name."""

import os
import re
from dataclasses import dataclass

_BANDWIDTH = {
    "B200": 8.0, "H200": 4.8, "GH200": 4.0, "H100": 3.35, "A100-80GB": 2.0, "A100": 1.55, "A800": 2.0,
    "L40S": 0.86, "L40": 0.86, "A40": 0.70, "A6000": 0.77, "A5000": 0.77, "A10G": 0.6, "A10": 0.6, "L4": 0.30,
    "T4": 0.32, "5090": 1.79, "5080": 0.96, "4090": 1.01, "4080": 0.72, "4070": 0.5, "3090": 0.94, "3080": 0.76,
    "3070": 0.45, "3060": 0.36, "2080TI": 0.62, "2080": 0.45,
}  # fmt: skip
"""Memory bandwidth in TB/s by model, from the vendors' data sheets; it bounds the speed of these networks."""

_MEMORY = {
    "B200": 180, "H200": 141, "GH200": 96, "H100": 80, "A100": 40, "A800": 80, "L40S": 48, "L40": 48, "A40": 48,
    "A6000": 48, "A5000": 24, "A10G": 24, "A10": 24, "L4": 24, "T4": 16, "5090": 32, "5080": 16, "4090": 24, "4080": 16,
    "4070": 12, "3090": 24, "3080": 10, "3070": 8, "3060": 12, "2080TI": 11, "2080": 8,
}  # fmt: skip
"""Default memory in GB by model."""

_BY_MEMORY = ((80, 2.0), (40, 1.55), (24, 0.77), (16, 0.45), (0, 0.36))
"""Bandwidth in TB/s of a GPU known only by its memory: (minimum GB, TB/s of a slower model of that size)."""

_FLOP_PER_BYTE = 1.58e12 / 38.5e9
"""Operations per byte of a step at 256 px (traced)."""
_SHARE_OF_PEAK = 0.4
"""Assumed share of the peak bandwidth; not measured."""


@dataclass(frozen=True)
class Hardware:
    """Identical devices, with one process per device."""

    name: str
    kind: str
    """cpu or cuda."""
    processes: int
    memory: int
    """Bytes per GPU, or of all processes together on the CPU."""
    speed: float | None = None
    """Expected floating-point operations per second per GPU; None for this machine, which is measured."""

    @property
    def here(self) -> bool:
        return self.speed is None


def parse(text: str) -> Hardware:
    """Parses `auto`, `cpu`, `A100`, `1xA100-40GB`, `8x80GB`. ValueError otherwise, and when `auto` cannot use a GPU."""
    if text in ("auto", "cpu"):
        return this_machine(text)
    match = re.fullmatch(r"(?:(\d{1,5})\s*[xX*]\s*)?([A-Za-z0-9 -]*?)[- ]?(?:(\d{1,4})\s*GB?)?", text.strip(), re.I)
    if match is None or int(match[1] or 1) < 1 or not (match[2] or match[3]):
        raise ValueError(f"--hardware {text!r} is not auto, cpu, or GPUs like A100, 1xA100-40GB or 8x80GB")
    name = re.sub(r"^(NVIDIA|TESLA|GEFORCE|RTX|QUADRO)[- ]*|[- ]|(PCIE|SXM\d?)$", "", match[2].upper())
    name = re.sub(r"^(RTX|NVIDIA)", "", name)
    if name and name not in _BANDWIDTH:
        known = ", ".join(key for key in _BANDWIDTH if "-" not in key)
        raise ValueError(f"--hardware {text!r}: {match[2]} is unknown; known are {known}; or write 1x24GB")
    size = int(match[3]) if match[3] else _MEMORY[name]
    bandwidth = _BANDWIDTH.get(f"{name}-{size}GB") or _BANDWIDTH.get(name)
    if bandwidth is None:
        bandwidth = next(speed for least, speed in _BY_MEMORY if size >= least)
    count = int(match[1] or 1)
    label = f"{count} x {name or 'GPU'} {size} GB"
    return Hardware(label, "cuda", count, size * 10**9, bandwidth * 1e12 * _FLOP_PER_BYTE * _SHARE_OF_PEAK)


def this_machine(text: str) -> Hardware:
    """`auto`: this machine's GPUs if it has any, or else its CPU."""
    from sivae_dist.process.devices import usable_gpus

    count = 0 if text == "cpu" else usable_gpus("auto")
    if count:
        import torch

        properties = [torch.cuda.get_device_properties(index) for index in range(count)]
        memory = min(each.total_memory for each in properties)
        return Hardware(f"{count} x {properties[0].name}", "cuda", count, memory)
    from launch.doctor.machine import cores, memory_limit

    # One thread per process; a power of two, so that batches divide evenly.
    processes = 1 << (max(1, int(cores())).bit_length() - 1)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    processes = min(processes, 8)
    return Hardware(f"this CPU, {processes} process{'es' * (processes > 1)}", "cpu", processes, memory_limit() or pages)
