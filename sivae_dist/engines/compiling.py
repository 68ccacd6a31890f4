"""torch.compile of objectives (engine.compile): one graph each, whose code stays on disk for later starts.

What is compiled does not depend on weights, images, the blend factor, nor on the number of processes: the graph lies
inside of DDP, which exchanges the gradients after it.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_OPTIONS: dict[str, Any] = {
    # Element-wise operations between two convolutions are one kernel, however many they are. With torch's own limits
    # (30, 4 and 8) maps are written in between, some of them in fp32, and a step reads and writes half as much again.
    "realize_opcount_threshold": 200,
    "realize_reads_threshold": 16,
    "realize_acc_reads_threshold": 32,
}


def compile_objective(objective: nn.Module) -> None:
    """Makes the objective compile itself when it is first called. `reported` has its errors."""
    _configure()
    objective.compile(dynamic=False, fullgraph=True, options=_OPTIONS)


def compile_without_running(objective: nn.Module) -> None:
    """The same, but its calls compute nothing: the code is put on disk, where `compile_objective` will find it.

    What they return has shapes and types, and no values.
    """

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        from torch._inductor.compile_fx import compile_fx

        outputs = graph.graph.output_node().args[0]
        found = [output.meta["example_value"] for output in outputs]  # type: ignore[union-attr]
        shapes = [(tuple(one.shape), one.stride(), one.dtype, one.device) for one in found]
        compile_fx(graph, inputs, config_patches=_OPTIONS)
        return lambda *_: [torch.empty_strided(*shape[:2], dtype=shape[2], device=shape[3]) for shape in shapes]

    _configure()
    objective.compile(backend=backend, dynamic=False, fullgraph=True)


def _configure() -> None:
    import torch._dynamo
    import torch._functorch.config

    torch._dynamo.reset()  # the last segment's code is of no more use, and its count would reach a limit
    torch._dynamo.config.optimize_ddp = False  # or DDP would divide the graph among its buckets
    # Of the backward too, so that one call finds all that is not on disk.
    torch._functorch.config.force_non_lazy_backward_lowering = True
    torch._functorch.config.autograd_cache_allow_custom_autograd_functions = True  # ours are traced to operations


@contextmanager
def reported() -> Iterator[None]:
    """ValueError in one sentence for what the compiler cannot do."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        raise ValueError(
            f"engine.compile=true is not possible, as torch cannot compile this objective to one graph: "
            f"{_sentence(error)}"
        ) from error


def why_not(device: torch.device) -> str:
    """What keeps torch from compiling for the device, for a person; empty when nothing does. Compiles a small sum."""
    # What is on disk already would need no compiler.
    if device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        return "there is no C++ compiler (g++, or what CXX names)"
    if device.type != "cpu" and not any(map(shutil.which, [os.environ.get("CC", "gcc"), "clang", "gcc"])):
        return "there is no C compiler (gcc or clang), which Triton needs"
    import torch._dynamo
    from torch._dynamo.exc import TorchDynamoException

    torch._dynamo.reset()
    one = torch.ones(8, device=device)
    try:
        total = torch.compile(lambda x: x.cos() + 1, dynamic=False, fullgraph=True)(one)
    except (TorchDynamoException, RuntimeError, OSError) as error:
        return _sentence(error)
    finally:
        torch._dynamo.reset()
    return "" if torch.allclose(total, one.cos() + 1) else "the compiled code computes something else"


def _sentence(error: BaseException) -> str:
    """The first line of an error, and which kind it is."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
