"""The exponential moving average of the generator, with a half-life in thousands of real images."""

import copy

import torch
from torch import Tensor, nn

RAMP_UP = 0.05  # the half-life is at most this share of the images seen, so that early averages forget the start (1912.04958)


class Average:
    """`network` is a copy of `source`, in evaluation mode and without gradients, that `update` moves towards it.

    Parameters and floating-point buffers are averaged alike, so that batch-norm statistics belong to the averaged weights; integer
    buffers are copied. A half-life of None copies everything: no averaging.
    """

    def __init__(self, source: nn.Module, *, halflife_kimg: float | None) -> None:
        self.network = copy.deepcopy(source).requires_grad_(False).eval()
        self.halflife_kimg = halflife_kimg
        pairs: list[tuple[Tensor, Tensor]] = list(zip(self.network.parameters(), source.parameters(), strict=True))
        pairs += zip(self.network.buffers(), source.buffers(), strict=True)
        self._ours = [ours for ours, _ in pairs if ours.is_floating_point()]
        self._theirs = [theirs for _, theirs in pairs if theirs.is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    def share(self, *, images: int, images_seen: int) -> float:
        """How far to move towards the source, `images` real images after the last update and `images_seen` after the start."""
        halflife = 0.0 if self.halflife_kimg is None else min(self.halflife_kimg * 1000.0, images_seen * RAMP_UP)
        return 1.0 - 0.5 ** (images / halflife) if halflife > 0.0 else 1.0

    @torch.no_grad()
    def update(self, *, images: int, images_seen: int) -> None:
        """Move by `share`."""
        torch._foreach_lerp_(self._ours, self._theirs, self.share(images=images, images_seen=images_seen))
        for ours, theirs in self._counters:
            ours.copy_(theirs)
