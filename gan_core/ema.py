"""The exponential moving average of the generator, with a half-life in thousands of real images."""

import copy

import torch
from torch import Tensor, nn

RAMP_UP = 0.05  # the half-life is at most this share of the images seen, so that early averages forget the start (1912.04958)


class Average:
    """`network` is a copy of `source`, in evaluation mode and without gradients, that `update` moves towards it.

    Parameters and floating-point buffers are averaged alike, so that batch-norm statistics belong to the averaged weights; integer
    buffers are copied. A half-life of None is no averaging: everything is copied, when somebody asks for `network`.
    """

    def __init__(self, source: nn.Module, *, halflife_kimg: float | None) -> None:
        self._network = copy.deepcopy(source).requires_grad_(False).eval()
        self._behind = False
        self.halflife_kimg = halflife_kimg
        pairs: list[tuple[Tensor, Tensor]] = list(zip(self._network.parameters(), source.parameters(), strict=True))
        pairs += zip(self._network.buffers(), source.buffers(), strict=True)
        self._ours = [ours for ours, _ in pairs if ours.is_floating_point()]
        self._theirs = [theirs for _, theirs in pairs if theirs.is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @property
    def network(self) -> nn.Module:
        """The average as of the last update."""
        if self._behind:
            self._move(1.0)
        return self._network

    def share(self, *, images: int, images_seen: int) -> float:
        """How far to move towards the source, `images` real images after the last update and `images_seen` after the start."""
        halflife = 0.0 if self.halflife_kimg is None else min(self.halflife_kimg * 1000.0, images_seen * RAMP_UP)
        return 1.0 - 0.5 ** (images / halflife) if halflife > 0.0 else 1.0

    def update(self, *, images: int, images_seen: int) -> None:
        """Move by `share`."""
        if self.halflife_kimg is None:
            self._behind = True
        else:
            self._move(self.share(images=images, images_seen=images_seen))

    @torch.no_grad()
    def _move(self, share: float) -> None:
        self._behind = False
        torch._foreach_lerp_(self._ours, self._theirs, share)
        for ours, theirs in self._counters:
            ours.copy_(theirs)
