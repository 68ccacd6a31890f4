"""Requests for GPUs in SLURM's notation: `4`, `a100:4`, and generic resources, `gpu:a100:4,nvme:100G`."""

import re

from launch.clusters.counts import GPU_TYPE


def gres_count(gres: str | None) -> int:
    """Number of GPUs among generic resources. ValueError if it cannot be parsed."""
    return sum(_number(part) for part in _parts(gres) if _is_gpu(part))


def without_gpus(gres: str | None) -> str | None:
    """The other generic resources; None when there are none."""
    return ",".join(part for part in _parts(gres) if not _is_gpu(part)) or None


def with_gpus(gres: str, request: str | int) -> str:
    """The generic resources with their GPUs replaced by `request`, of the same type unless it names one."""
    gpus = [re.sub(r"^(?:gres[:/])?gpu[:=]?", "", part) for part in _parts(gres) if _is_gpu(part)]
    kinds = {match[1] for one in gpus if (match := re.fullmatch(rf"({GPU_TYPE})(?::\d+)?", one))}
    kind = f"{kinds.pop()}:" if len(kinds) == 1 and str(request).isdecimal() else ""
    wanted = [f"gpu:{kind}{part}" for part in str(request).split(",")]
    return ",".join([*wanted, *filter(None, [without_gpus(gres)])])


def _parts(gres: str | None) -> list[str]:
    return [part.strip() for part in (gres or "").split(",") if part.strip()]


def _is_gpu(part: str) -> bool:
    return re.match(r"(?:gres[:/])?gpu(?:[:=]|$)", part) is not None


def _number(part: str) -> int:
    match = re.fullmatch(rf"(?:gres[:/])?gpu(?:[:=]({GPU_TYPE}))?(?:[:=](\d+))?", part, re.ASCII)
    if match is None:
        raise ValueError(f"gres: {part!r} is not a request for GPUs: write gpu:4 or gpu:TYPE:NUMBER (gpu:a100:4)")
    return int(match[2] or 1)
