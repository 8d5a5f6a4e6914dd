"""Adam (1412.6980) for many members, each with a learning rate, betas, eps and bounds of its own; and the average of their generators."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gan_core.datatypes import to_device
from gan_core.ema import Average
from gan_core.game import Player
from gan_core.population.players import Rows, StackedPlayer, Vectors, disconnect, point, stacked_buffers


class Settings(NamedTuple):
    """A member's Adam; `clip_norm` bounds the norm of its whole gradient, `clip_weight` each weight after each step."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    clip_norm: float | None
    clip_weight: float | None


class StackedAdam:
    """The optimizers of a player's members, in one; with `at_once`, as on a GPU, all of them in a few kernels."""

    def __init__(self, player: StackedPlayer) -> None:
        self._player = player
        self._settings = [_settings(each) for each in player.players]
        tables = (player.weights.table, player.gradients, *(moments.table for moments in player.moments), player.steps)
        self._rows = list(zip(*(table.unbind() for table in tables), strict=True))
        weights = player.weights.table
        self._columns = [weights.new_tensor([getattr(own, name) for own in self._settings]) for name in ("lr", "beta1", "beta2", "eps")]
        self.at_once = weights.is_cuda

    def step(self, rows: Rows) -> Float[Tensor, " rows"]:
        """Clip, step; returns the norm of each member's gradient before clipping."""
        norms: Tensor = torch.linalg.vector_norm(self._player.gradients[rows.pick], dim=1)
        for place, number in enumerate(rows.numbers):
            if (bound := self._settings[number].clip_norm) is not None:
                self._rows[number][1].mul_((bound / (norms[place] + 1e-6)).clamp(max=1.0))  # as torch.nn.utils.clip_grad_norm_
        (self._step_at_once if self.at_once else self._step_by_rows)(rows)
        for number in rows.numbers:
            if (bound := self._settings[number].clip_weight) is not None:
                self._rows[number][0].clamp_(-bound, bound)
        return norms

    def _step_by_rows(self, rows: Rows) -> None:
        """PyTorch's fused step for each member: on a CPU a row fits its cache, and the whole table does not."""
        for number in rows.numbers:
            own, (weights, gradient, average, square, step) = self._settings[number], self._rows[number]
            step.add_(1.0)
            torch._fused_adam_(
                [weights],
                [gradient],
                [average],
                [square],
                [],
                [step],
                lr=own.lr,
                beta1=own.beta1,
                beta2=own.beta2,
                weight_decay=0.0,
                eps=own.eps,
                amsgrad=False,
                maximize=False,
            )

    def _step_at_once(self, rows: Rows) -> None:
        """The whole table in a few kernels: on a GPU a launch for each member would take longer than they do."""
        player, pick = self._player, rows.pick
        lr, beta1, beta2, eps = (column[pick].unsqueeze(1) for column in self._columns)
        steps = player.steps[pick] + 1.0
        player.steps[pick] = steps
        bias1, bias2 = (1.0 - beta.pow(steps.to(beta.dtype).unsqueeze(1)) for beta in (beta1, beta2))
        gradients = player.gradients[pick]
        averages, squares = (moments.table[pick] for moments in player.moments)
        averages.lerp_(gradients, 1.0 - beta1)
        squares.mul_(beta2).addcmul_(gradients, gradients * (1.0 - beta2))
        moved = player.weights.table[pick].sub_(lr / bias1 * averages / (squares.sqrt() / bias2.sqrt() + eps))
        if isinstance(pick, Tensor):
            for table, copy in zip((*player.moments, player.weights), (averages, squares, moved), strict=True):
                table.table.index_copy_(0, pick, copy)


class StackedAverage:
    """The exponential moving averages of the members' generators, each with a half-life of its own."""

    def __init__(self, averages: Sequence[Average], source: StackedPlayer) -> None:
        self.averages, self._source = list(averages), source
        networks = [average.network for average in averages]
        self._weights = Vectors([network.parameters() for network in networks])
        self._buffers = stacked_buffers(networks)
        for number, network in enumerate(networks):
            point(network.parameters(), self._weights.row(number))
            point(network.buffers(), [buffer[number] for buffer in self._buffers])

    def release(self, number: int) -> None:
        """Give the member tensors of its own."""
        network = self.averages[number].network
        disconnect([*network.parameters(), *network.buffers()])

    def update(self, shares: Sequence[float]) -> None:
        """Move each average by its share of the way to its source; 0 leaves it where it is."""
        table = self._weights.table
        share = to_device(torch.tensor(shares, dtype=table.dtype), table.device)
        table.lerp_(self._source.weights.table, share.unsqueeze(1))
        for ours, theirs in zip(self._buffers, self._source.buffers, strict=True):
            per_member = share.view(-1, *[1] * (ours.dim() - 1))
            ours.copy_(ours.lerp(theirs, per_member) if ours.is_floating_point() else torch.where(per_member > 0.0, theirs, ours))


def _settings(player: Player) -> Settings:
    group = player.optimizer.param_groups[0]
    beta1, beta2 = group["betas"]
    return Settings(group["lr"], beta1, beta2, group["eps"], player.clip_norm, player.clip_weight)
