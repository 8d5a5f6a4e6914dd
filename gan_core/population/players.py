"""One player of many members: weights, moments and statistics in stacks, of which each member's own tensors are views."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_core.game import Player
from gan_core.population.modules import Stacked

ALIGNED = 16  # elements: each parameter begins at a multiple of 64 bytes, as matrix products like it
MOMENTS = ("exp_avg", "exp_avg_sq")


class Rows(NamedTuple):
    """Some of the members: `numbers` in rising order, and what picks them out of a stack: a slice, which gives views, or the numbers."""

    numbers: tuple[int, ...]
    pick: slice | Tensor

    @classmethod
    def of(cls, numbers: Sequence[int], device: torch.device) -> "Rows":
        """`numbers` must be in rising order."""
        first, last = numbers[0], numbers[-1]
        together = last - first + 1 == len(numbers)
        return cls(tuple(numbers), slice(first, last + 1) if together else torch.tensor(numbers, device=device))


class Vectors:
    """A stack of lists of tensors of equal shapes: [members, elements], the tensors one after another."""

    def __init__(self, members: Sequence[Iterable[Tensor]]) -> None:
        lists = [list(tensors) for tensors in members]
        self.shapes = [tensor.shape for tensor in lists[0]]
        self._widths = [-(-shape.numel() // ALIGNED) * ALIGNED for shape in self.shapes]
        self.table = lists[0][0].new_zeros(len(lists), sum(self._widths))
        for row, tensors in enumerate(lists):
            torch._foreach_copy_([view[0] for view in self.views(self.table[row : row + 1])], [tensor.detach() for tensor in tensors])

    def views(self, table: Float[Tensor, "rows elements"]) -> list[Tensor]:
        """Each tensor of such a table, [rows, ...]."""
        parts = table.split(self._widths, dim=1)
        return [
            part[:, : shape.numel()].unflatten(1, shape) if shape else part[:, 0] for part, shape in zip(parts, self.shapes, strict=True)
        ]

    def row(self, number: int) -> list[Tensor]:
        """The tensors of one member, as views."""
        return [view[0] for view in self.views(self.table[number : number + 1])]


class StackedPlayer:
    """`players` of one architecture, whose tensors become views of stacks; `release` gives one of them tensors of its own again."""

    def __init__(self, players: Sequence[Player]) -> None:
        self.players = list(players)
        self.structure = Stacked(players[0].network)
        self.weights = Vectors([player.parameters for player in players])
        self.moments = [Vectors([_moments(player, name) for player in players]) for name in MOMENTS]
        self.steps = torch.stack([_steps(player) for player in players])
        self.gradients = torch.zeros_like(self.weights.table)
        self.buffers = stacked_buffers([player.network for player in players])
        for number, player in enumerate(players):
            point(player.parameters, self.weights.row(number))
            point(player.network.buffers(), [buffer[number] for buffer in self.buffers])
            _set_moments(player, [self.steps[number]] * len(player.parameters), *(moments.row(number) for moments in self.moments))
        self._leaves: dict[tuple[int, ...], list[Tensor]] = {}

    def release(self, number: int) -> None:
        """Give the member tensors of its own."""
        player = self.players[number]
        disconnect([*player.parameters, *player.network.buffers()])
        moments = ([view.clone() for view in stack.row(number)] for stack in self.moments)
        _set_moments(player, [self.steps[number].clone() for _ in player.parameters], *moments)

    def holds(self, number: int) -> bool:
        """Whether the member's optimizer still has the moments that are here: loading a state gives it others."""
        state = self.players[number].optimizer.state.get(self.players[number].parameters[0])
        if not state:
            return False
        moment: Tensor = state[MOMENTS[0]]
        return moment.data_ptr() == self.moments[0].table[number].data_ptr()

    def leaves(self, rows: Rows) -> list[Tensor]:
        """Parameters of these members as leaves of a graph: views where they lie together, otherwise copies."""
        if isinstance(rows.pick, Tensor):
            return [view.detach().requires_grad_() for view in self.weights.views(self.weights.table[rows.pick])]
        if rows.numbers not in self._leaves:
            views = self.weights.views(self.weights.table[rows.pick])
            self._leaves[rows.numbers] = [view.detach().requires_grad_() for view in views]
        return self._leaves[rows.numbers]

    def network(self, rows: Rows, parameters: Sequence[Tensor]) -> "Network":
        """The network of these members with these `parameters`."""
        return Network(self, rows, parameters)

    def frozen(self, rows: Rows) -> "Network":
        """The network of these members, whose parameters take no gradients."""
        return Network(self, rows, [leaf.detach() for leaf in self.leaves(rows)])

    def set_gradients(self, rows: Rows, gradients: Sequence[Tensor | None]) -> None:
        """Make these, of the members' `leaves`, the members' gradients; None is zero."""
        if isinstance(rows.pick, slice):
            self._fill(self.gradients[rows.pick], gradients)
        else:
            self.gradients.index_copy_(0, rows.pick, self._fill(torch.zeros_like(self.gradients[rows.pick]), gradients))

    def add_gradients(self, rows: Rows, gradients: Sequence[Tensor | None]) -> None:
        """Add these to the members' gradients."""
        table = self._fill(self.gradients.new_zeros(len(rows.numbers), self.gradients.shape[1]), gradients)
        if isinstance(rows.pick, slice):
            self.gradients[rows.pick].add_(table)
        else:
            self.gradients.index_add_(0, rows.pick, table)

    def _fill(self, table: Tensor, gradients: Sequence[Tensor | None]) -> Tensor:
        views = self.weights.views(table)
        for view, gradient in zip(views, gradients, strict=True):
            if gradient is None:
                view.zero_()
        there = [(view, gradient) for view, gradient in zip(views, gradients, strict=True) if gradient is not None]
        torch._foreach_copy_([view for view, _ in there], [gradient for _, gradient in there])
        return table


class Network:
    """A stacked network with the tensors of some members in it, as a function of (images, labels) or (z, labels)."""

    def __init__(self, player: StackedPlayer, rows: Rows, parameters: Sequence[Tensor]) -> None:
        self._player, self._rows, self._parameters = player, rows, parameters

    def __call__(self, inputs: Float[Tensor, "samples ..."], labels: Tensor | None) -> Float[Tensor, "samples ..."]:
        player, pick = self._player, self._rows.pick
        buffers = [buffer[pick] for buffer in player.buffers]
        output: Tensor = player.structure.bind(self._parameters, buffers)(inputs, labels)
        if isinstance(pick, Tensor):
            for buffer, copy in zip(player.buffers, buffers, strict=True):
                buffer.index_copy_(0, pick, copy)
        return output


def stacked_buffers(networks: Sequence[nn.Module]) -> list[Tensor]:
    """Each buffer of all networks, [members, ...]."""
    return [torch.stack(found) for found in zip(*(network.buffers() for network in networks), strict=True)]


def point(tensors: Iterable[Tensor], views: Sequence[Tensor]) -> None:
    """Let `tensors` share the memory of `views`."""
    for tensor, view in zip(tensors, views, strict=True):
        tensor.data = view


def disconnect(tensors: Iterable[Tensor]) -> None:
    """Give each its own memory again."""
    for tensor in tensors:
        tensor.data = tensor.data.clone()


def _moments(player: Player, name: str) -> list[Tensor]:
    state = player.optimizer.state
    return [state[parameter][name] if state.get(parameter) else torch.zeros_like(parameter.detach()) for parameter in player.parameters]


def _steps(player: Player) -> Float[Tensor, ""]:
    """How many steps its optimizer has taken: the same for each parameter, since each has a gradient in each step."""
    first = player.parameters[0]
    state = player.optimizer.state
    return state[first]["step"].clone() if state.get(first) else torch.zeros((), device=first.device)


def _set_moments(player: Player, steps: Sequence[Tensor], averages: Sequence[Tensor], squares: Sequence[Tensor]) -> None:
    for parameter, step, average, square in zip(player.parameters, steps, averages, squares, strict=True):
        player.optimizer.state[parameter] = {"step": step, "exp_avg": average, "exp_avg_sq": square}
