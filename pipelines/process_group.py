"""PyTorch's process group over the ranks of a run, as Ray Train's own backend makes it, but asked for by a controller without PyTorch.

ray.train.torch.TorchConfig is unpickled in the controller, which would import PyTorch for it before it starts any worker. Imports are
inside, as in rank.py.
"""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import ray
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig


class _Backend(Backend):
    """What the controller does: the address of rank 0 is told to all, and all join."""

    share_cuda_visible_devices = True  # ranks of one node reach each other's GPUs

    def on_start(self, worker_group: Any, backend_config: "ProcessGroup") -> None:
        address, port = worker_group.execute_single(0, get_address_and_port)
        size = len(worker_group)
        ray.get([worker_group.execute_single_async(rank, _join, backend_config, address, port, rank, size) for rank in range(size)])

    def on_shutdown(self, worker_group: Any, backend_config: "ProcessGroup") -> None:
        leaving = worker_group.execute_async(_leave, destroy_process_group=len(worker_group) > 1)
        ray.wait(leaving, num_returns=len(leaving), timeout=backend_config.leave_seconds)


@dataclass
class ProcessGroup(BackendConfig):
    """`backend` is PyTorch's, gloo or nccl; a collective that takes longer than `timeout_s` fails."""

    backend: str
    timeout_s: int
    leave_seconds: float = 30.0

    @property
    def backend_cls(self) -> type[_Backend]:
        return _Backend

    @property
    def train_func_context(self) -> type[AbstractContextManager[None]]:
        """What the training function runs in, in the workers: with their device chosen."""
        from ray.train.torch.config import TorchConfigContextManager

        context: type[AbstractContextManager[None]] = TorchConfigContextManager
        return context


def _join(asked: ProcessGroup, address: str, port: int, rank: int, size: int) -> None:
    from ray.train.torch import config

    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address, str(port)
    config._set_torch_distributed_env_vars()
    config._setup_torch_process_group(asked.backend, rank, size, "env://", asked.timeout_s)


def _leave(*, destroy_process_group: bool) -> None:
    from ray.train.torch import config

    config._shutdown_torch(destroy_process_group)
