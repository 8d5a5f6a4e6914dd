"""Images of the next step, fetched while the GPU works on this one: gathered and pinned in a thread, copied on a stream of their own.

What a step takes is a function of its number, so that the next one is known; asking for another costs a fetch.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

Host = Shaped[Tensor, "batch channels height width"]


class Ahead:
    """Fetches images for `device`; `places` of a step's images come from who asks, `gather` reads them from where they lie."""

    def __init__(self, gather: Callable[[Int64[Tensor, " batch"]], Host], device: torch.device) -> None:
        self._gather, self._device = gather, device
        self._thread = ThreadPoolExecutor(1, "ahead")
        self._fetched: dict[str, tuple[int, Future[Host]]] = {}
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def images(self, stream: str, step: int, places: Callable[[int], Int64[Tensor, " batch"]]) -> Host:
        """The images at `places(step)`, on the device; those of the step after it are fetched meanwhile."""
        expected, future = self._fetched.get(stream, (None, None))
        if future is None or expected != step:
            future = self._thread.submit(self._host, places(step))
        host = future.result()
        self._fetched[stream] = (step + 1, self._thread.submit(self._host, places(step + 1)))
        return host if self._copies is None else self._copied(host, self._copies)

    def _host(self, places: Int64[Tensor, " batch"]) -> Host:
        images = self._gather(places)
        return images if self._copies is None else images.pin_memory()

    def _copied(self, host: Host, copies: torch.cuda.Stream) -> Host:
        with torch.cuda.stream(copies):
            images = host.to(self._device, non_blocking=True)
        now = torch.cuda.current_stream(self._device)
        now.wait_stream(copies)
        images.record_stream(now)
        return images
