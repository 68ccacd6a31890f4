"""What compiled objectives cost (engine.compile), from the compiler's own list of kernels.

The compiler plans for a CPU and is stopped before it writes code: no C++ compiler is needed, and nothing is computed.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode, _pop_mode_temporarily

from sivae_dist.train.tracing import Tracker, tensors


@contextmanager
def kernels_counted(tracker: Tracker, *objectives: nn.Module) -> Iterator[None]:
    """Inside of the tracker, a call of a compiled objective counts as its kernels, in here and later.

    A kernel reads all that it is given and writes all that others are given, whatever it keeps to itself; a part of a
    buffer counts as the whole. Convolutions and matrix products are kernels as well. Peaks inside of a graph are the
    compiler's own estimates.
    """
    import torch._functorch.config
    import torch._inductor.config
    from torch._inductor.graph import GraphLowering

    for objective in objectives:
        objective._compiled_call_impl = _outside(tracker, objective._compiled_call_impl)
    to_module = GraphLowering.compile_to_module
    planned: Any = lambda graph: _planned(graph, tracker)  # noqa: E731
    GraphLowering.compile_to_module = planned  # type: ignore[method-assign]
    try:
        with (
            torch._inductor.config.patch(fx_graph_cache=False),
            torch._functorch.config.patch(enable_autograd_cache=False),
        ):
            yield
    finally:
        GraphLowering.compile_to_module = to_module  # type: ignore[method-assign]


def _outside(tracker: Tracker, compiled: Callable[..., Any] | None) -> Callable[..., Any]:
    """A compiled call that the tracker does not see, for torch compiles nothing under one."""
    assert compiled is not None

    def call(*inputs: Any) -> Any:
        with _unseen_by(tracker):
            return compiled(*inputs)

    return call


@contextmanager
def _unseen_by(tracker: Tracker) -> Iterator[None]:
    if _get_current_dispatch_mode() is not tracker:
        yield
        return
    with _pop_mode_temporarily():
        yield


def _planned(graph: Any, tracker: Tracker) -> SimpleNamespace:
    """In the place of the module with a graph's code: what counts it, and returns tensors without values."""
    from torch._inductor.memory import prepare_planning_info
    from torch.utils._ordered_set import OrderedSet

    graph.init_wrapper_code()
    graph._update_scheduler()
    scheduler = graph.scheduler
    traffic = [node.get_read_write_buffers_sizes() for node in scheduler.nodes]
    peak, freed = prepare_planning_info(
        scheduler.nodes,
        scheduler.name_to_buf,
        scheduler.name_to_fused_node,
        OrderedSet(graph.graph_inputs),
        OrderedSet(graph.get_output_names()),
    )
    given = sum(buffer.mpi_buffer.size_free for buffer in freed.values())
    run = torch.fx.Interpreter(graph.module).run
    graph.cache_key, graph.cache_path, graph.cache_linemap = "", os.devnull, []

    def call(arguments: list[Any]) -> Any:
        with _unseen_by(tracker), Tracker() as inside:
            outputs = run(*arguments)
        tracker.flops += inside.flops
        tracker.operations += sum(size > 0 for size in traffic)
        tracker.traffic += sum(traffic)
        tracker.peak = max(tracker.peak, tracker.bytes - given + peak)
        known = {tensor.untyped_storage()._cdata for tensor in tensors(arguments)}
        for tensor in tensors(outputs):
            if tensor.untyped_storage()._cdata not in known:
                tracker.add(tensor.untyped_storage())
        arguments.clear()
        return outputs

    return SimpleNamespace(call=call)
