"""Numbers as users write them in resource requests."""

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

GPU_TYPE = r"[\w.+-]*[A-Za-z][\w.+-]*"


def gpu_count(text: str | int) -> int:
    """Number of GPUs in a request: `4`, `a100:4`, `a100:2,v100:2`. ValueError for anything else."""
    parts = str(text).split(",")
    found = [re.fullmatch(rf"\s*(?:{GPU_TYPE}:)?(\d+)\s*", part, re.ASCII) for part in parts]
    if not all(found):
        raise ValueError(f"{str(text)!r} is not a number of GPUs: write 4, or TYPE:NUMBER (a100:4)")
    return sum(int(match[1]) for match in found if match)


def _check_gpus(value: str | int) -> str | int:
    count = gpu_count(value)
    return count if str(value).strip().isdecimal() else str(value).strip()


def _parse_count(value: object) -> object:
    """A positive integer, also as text or as SLURM writes a range with equal bounds (`2-2`)."""
    if value is None or (isinstance(value, int) and value > 0):
        return value
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", str(value).strip(), re.ASCII)
    if match is None or not int(match[1]) or (match[2] or match[1]) != match[1]:
        raise ValueError(f"{value!r} is not a positive integer")
    return int(match[1])


Count = Annotated[int, BeforeValidator(_parse_count)]
Text = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]
Gpus = Annotated[Text | int, AfterValidator(_check_gpus)]
"""`4`, or with the type, `a100:4`."""
