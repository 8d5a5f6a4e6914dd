"""Whole steps recorded once as CUDA graphs and replayed: a GPU that waits for hundreds of small launches then waits for one.

A record holds the launches and not the decisions before them, and reads and writes the same memory each time: inputs are copied to where
they were at the recording. So there is one for each set of lazy penalties that can be due together.
"""

import warnings
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from gan_core import distributed, micro_batch
from gan_core.datatypes import Batch
from gan_core.game import Stats

WARM_UP, WARM_UP_OF_RANKS = 3, 11  # steps before a recording: libraries choose and allocate; NCCL takes longer

Draws = Float[Tensor, "decisions draws"] | None
Step = Callable[[Batch | None, Batch, Draws, int], Stats]


@runtime_checkable
class Recorder(Protocol):
    """What records: CudaRecorder, and in tests a tape on the CPU."""

    def warm_up(self, function: Callable[[], Tensor]) -> Tensor:
        """Run `function` as it will be recorded."""

    def record(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], Any]]:
        """Record `function`, which is not to run; returns where its result will be, and what runs it."""


class CudaRecorder:
    """CUDA graphs, with one pool of memory for all of them: no two run at once, and nothing is left in it between them."""

    def __init__(self, device: torch.device) -> None:
        self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def warm_up(self, function: Callable[[], Tensor]) -> Tensor:
        """On the stream of the recording."""
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            result = function()
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
        return result

    def record(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], Any]]:
        """As a CUDA graph."""
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as one that fetches images, may ask CUDA for memory meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            result = function()
        return result, graph.replay


class _Record(NamedTuple):
    inputs: list[Tensor]
    values: Tensor
    replay: Callable[[], Any]


class RecordedStep:
    """A player's step that is recorded after some steps as written, for each `kind` of step by itself.

    What cannot be recorded goes on as written, on all ranks, with a warning; `failure` says why.
    """

    def __init__(self, step: Step, kind: Callable[[int], Hashable], recorder: Recorder, device: torch.device) -> None:
        self._step, self._kind, self._recorder, self._device = step, kind, recorder, device
        self._warm_up = WARM_UP if distributed.world_size() == 1 else WARM_UP_OF_RANKS
        self._taken: dict[Hashable, int] = {}
        self._records: dict[Hashable, _Record] = {}
        self._keys: dict[Hashable, tuple[str, ...]] = {}
        self.failure = ""

    def __call__(self, real: Batch | None, latents: Batch, draws: Draws, step: int) -> Stats:
        """Take the step."""
        if self.failure:
            return self._step(real, latents, draws, step)
        kind, given = self._kind(step), _tensors(real, latents, draws)
        if self._taken.get(kind, 0) < self._warm_up:
            self._taken[kind] = self._taken.get(kind, 0) + 1
            return self._named(kind, self._recorder.warm_up(lambda: self._stacked(kind, real, latents, draws, step)))
        if kind not in self._records and not self._record(kind, real, latents, draws, step):
            return self._step(real, latents, draws, step)
        record = self._records[kind]
        torch._foreach_copy_(record.inputs, given)
        record.replay()
        return self._named(kind, record.values.clone())  # the next replay writes there

    def _record(self, kind: Hashable, real: Batch | None, latents: Batch, draws: Draws, step: int) -> bool:
        still = [tensor.clone() for tensor in _tensors(real, latents, draws)]
        places = iter(still)
        real = None if real is None else Batch(next(places), None if real.labels is None else next(places))
        latents = Batch(next(places), None if latents.labels is None else next(places))
        draws = None if draws is None else next(places)
        why = ""
        try:
            values, replay = self._recorder.record(lambda: self._stacked(kind, real, latents, draws, step))
        except RuntimeError as error:
            if micro_batch.is_out_of_memory(error):
                raise
            why = str(error).partition("\n")[0]
        if distributed.any_rank(bool(why), self._device):
            self.failure = why or "it failed on another rank"
            warnings.warn(f"speed.cuda_graphs: steps are not recorded: {self.failure}", stacklevel=2)
            self._records.clear()
            return False
        self._records[kind] = _Record(still, values, replay)
        return True

    def _stacked(self, kind: Hashable, real: Batch | None, latents: Batch, draws: Draws, step: int) -> Tensor:
        stats = self._step(real, latents, draws, step)
        self._keys[kind] = tuple(stats)
        return torch.stack(list(stats.values()))

    def _named(self, kind: Hashable, values: Tensor) -> Stats:
        return dict(zip(self._keys[kind], values.unbind(), strict=True))


def _tensors(real: Batch | None, latents: Batch, draws: Draws) -> list[Tensor]:
    given = [*(() if real is None else real), *latents, draws]
    return [tensor for tensor in given if tensor is not None]
