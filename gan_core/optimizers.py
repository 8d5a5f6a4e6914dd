"""PyTorch's Adam without the import of torch._dynamo, which takes as long as PyTorch's own.

The methods of torch.optim are wrapped for torch.compile: at their first call they import its front end, and with it sympy and Triton, to
mark where a graph has to break. Nothing here is traced by it, and every worker, trial and task would pay.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_step = inspect.unwrap(torch.optim.Adam.step)
SPECIAL = ("amsgrad", "decoupled_weight_decay", "differentiable")  # options of PyTorch's that change what is computed, or how
OF_SCALERS = ("grad_scale", "found_inf")  # what torch.amp.GradScaler leaves for a fused step


class Adam(torch.optim.Adam):
    """torch.optim.Adam, computing by the same kernels.

    A fused step whose parameters all have a gradient and moments is the one call that PyTorch's comes to; any other is PyTorch's own.
    What lies before it there, grouping by device, hooks and a mark for profilers, takes 6 % of a round of a small network. On a CPU the
    numbers of steps are places of one vector, so that one addition counts all.
    """

    _counters: tuple[Tensor, tuple[Tensor, ...]] | None = None  # the vector, and its places as the states hold them

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step, of PyTorch's meaning; without its hooks."""
        group = self.param_groups[0]
        parameters = group["params"]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        states = [self.state[parameter] for parameter in parameters if parameter in self.state]
        whole = len(gradients) == len(states) == len(parameters) and len(self.param_groups) == 1
        special = any(group.get(name) for name in SPECIAL) or any(hasattr(self, name) for name in OF_SCALERS)
        if closure is not None or not whole or not group["fused"] or special:
            return _step(self, closure)
        beta1, beta2 = group["betas"]
        steps = self._count(states)
        torch._fused_adam_(
            parameters,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            steps,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
        )
        return None

    def _count(self, states: list[dict[str, Tensor]]) -> list[Tensor]:
        """Add a step to each state; returns their numbers of steps."""
        steps = [state["step"] for state in states]
        if steps[0].device.type != "cpu":
            torch._foreach_add_(steps, 1)
            return steps
        if self._counters is None or any(step is not place for step, place in zip(steps, self._counters[1], strict=True)):
            vector = torch.stack(steps)  # the first step, or somebody has loaded others
            self._counters = vector, vector.unbind()
            for state, place in zip(states, self._counters[1], strict=True):
                state["step"] = place
        vector, places = self._counters
        vector.add_(1)
        return list(places)


def _unwrapped() -> dict[str, Callable[..., Any]]:
    """Those methods of torch.optim.Optimizer that are wrapped so, as they are below that."""
    return {name: inspect.unwrap(method) for name, method in vars(torch.optim.Optimizer).items() if _imports_dynamo(method)}


def _imports_dynamo(method: Any) -> bool:
    return inspect.isfunction(method) and method.__globals__["__name__"] == "torch._compile"


vars(Adam.step)["hooked"] = True  # or torch.optim.Optimizer wraps it in hooks and marks
for _name, _method in _unwrapped().items():
    setattr(Adam, _name, _method)
