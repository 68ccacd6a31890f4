"""The form in which layers are computed: equal in exact arithmetic, not in rounding, and different in speed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Form = Literal["plain", "fused", "native"]
"""`plain`: one operation after the other, as written in the paper; what torch.compile fuses by itself.
`fused`: autograd functions of torch's operations, which save and move less.
`native`: the same functions with element-wise parts compiled by the machine's C++ compiler, on CPUs."""

_form: Form = "fused"


def current() -> Form:
    """The form that this process uses."""
    return _form


def use(form: Form) -> None:
    """Chooses the form of all later passes of this process."""
    global _form
    _form = form


@contextmanager
def using(form: Form) -> Iterator[None]:
    """Chooses it for the passes in here."""
    before = current()
    use(form)
    try:
        yield
    finally:
        use(before)
