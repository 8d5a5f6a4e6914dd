"""PyTorch's Adam without the import of torch._dynamo, which takes as long as PyTorch's own.

The methods of torch.optim are wrapped for torch.compile: at their first call they import its front end, and with it sympy and Triton, to
mark where a graph has to break. Nothing here is traced by it, and every worker, trial and task would pay.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch


class Adam(torch.optim.Adam):
    """torch.optim.Adam, computing by the same code."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


def _unwrapped() -> dict[str, Callable[..., Any]]:
    """Those methods of torch.optim.Optimizer that are wrapped so, as they are below that."""
    return {name: inspect.unwrap(method) for name, method in vars(torch.optim.Optimizer).items() if _imports_dynamo(method)}


def _imports_dynamo(method: Any) -> bool:
    return inspect.isfunction(method) and method.__globals__["__name__"] == "torch._compile"


for _name, _method in _unwrapped().items():
    setattr(Adam, _name, _method)
