"""One network of many members: images of all members form one batch, and only layers with weights know whose they are.

A batch is [members * batch, ...], member by member. Modules that treat each sample by itself, and the forward passes of our own networks,
run as they are; a layer with weights is replaced by one that holds every member's.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gan_core.networks import dcgan, mlp

# What may stand around layers: a sample's output depends on this sample alone, and nothing is drawn.
PER_SAMPLE: tuple[type[nn.Module], ...] = (
    mlp.Generator,
    mlp.Discriminator,
    mlp.Maxout,
    dcgan.Generator,
    dcgan.Discriminator,
    nn.Sequential,
    nn.Flatten,
    nn.Identity,
    nn.ReLU,
    nn.LeakyReLU,
    nn.Tanh,
)


class Linear(nn.Module):
    """A linear layer of each member; `weight` [members, out, in], `bias` [members, out]."""

    weight: Float[Tensor, "members out in"]
    bias: Float[Tensor, "members out"]

    def forward(self, inputs: Float[Tensor, "samples in"]) -> Float[Tensor, "samples out"]:
        members, _, width = self.weight.shape
        return torch.baddbmm(self.bias.unsqueeze(1), inputs.reshape(members, -1, width), self.weight.mT).flatten(0, 1)


class Embedding(nn.Module):
    """A vector for each class of each member; `weight` [members, classes, width]."""

    weight: Float[Tensor, "members classes width"]

    def forward(self, labels: Int64[Tensor, " samples"]) -> Float[Tensor, "samples width"]:
        members, classes, _ = self.weight.shape
        firsts = torch.arange(0, members * classes, classes, device=labels.device)
        return nn.functional.embedding((labels.view(members, -1) + firsts.unsqueeze(1)).flatten(), self.weight.flatten(0, 1))


class BatchNorm(nn.Module):
    """Batch norm over each member's samples; all tensors are [members, channels], `num_batches_tracked` [members]."""

    weight: Float[Tensor, "members channels"]
    bias: Float[Tensor, "members channels"]
    running_mean: Float[Tensor, "members channels"]
    running_var: Float[Tensor, "members channels"]
    num_batches_tracked: Int64[Tensor, " members"]

    def __init__(self, plain: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        self.eps, self.momentum = plain.eps, plain.momentum

    def forward(self, inputs: Float[Tensor, "samples channels ..."]) -> Float[Tensor, "samples channels ..."]:
        members = len(self.weight)
        grouped = grouped_channels(inputs, members)
        self.num_batches_tracked.add_(1)
        assert self.momentum is not None
        normed = nn.functional.batch_norm(
            grouped,
            self.running_mean.view(-1),
            self.running_var.view(-1),
            self.weight.reshape(-1),
            self.bias.reshape(-1),
            training=True,
            momentum=self.momentum,
            eps=self.eps,
        )
        return as_samples(normed, members)


def grouped_channels(inputs: Float[Tensor, "samples channels ..."], members: int) -> Float[Tensor, "batch groups ..."]:
    """[members * batch, channels, ...] as [batch, members * channels, ...]."""
    grouped: Tensor = inputs.unflatten(0, (members, -1)).transpose(0, 1).flatten(1, 2)
    return grouped


def as_samples(grouped: Float[Tensor, "batch groups ..."], members: int) -> Float[Tensor, "samples channels ..."]:
    """The inverse of `grouped_channels`."""
    samples: Tensor = grouped.unflatten(1, (members, -1)).transpose(0, 1).flatten(0, 1)
    return samples


STACKED: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.Linear: lambda _: Linear(),
    nn.Embedding: lambda _: Embedding(),
    nn.BatchNorm1d: BatchNorm,
    nn.BatchNorm2d: BatchNorm,
}


def why_not_stacked(network: nn.Module) -> str | None:
    """Which of its modules is in the way of training it stacked; None where none is."""
    for name, module in network.named_modules():
        if type(module) not in PER_SAMPLE and type(module) not in STACKED:
            return f"its layer {name or type(network).__name__} is a {type(module).__name__}, of which there is no batched form"
        if isinstance(module, nn.Linear) and module.bias is None:
            return f"its layer {name} is a Linear without bias, of which there is no batched form"
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and not (module.affine and module.track_running_stats and module.momentum):
            return f"its layer {name} is a batch norm without weights, statistics or momentum, of which there is no batched form"
    return None


class Stacked:
    """The structure of one network without its tensors: `bind` gives it those of the members that it is to run for."""

    def __init__(self, network: nn.Module) -> None:
        self.network = _replaced(copy.deepcopy(network))
        self._parameters = _places(self.network, [name for name, _ in network.named_parameters()])
        self._buffers = _places(self.network, [name for name, _ in network.named_buffers()])

    def bind(self, parameters: Sequence[Tensor], buffers: Sequence[Tensor]) -> nn.Module:
        """The network of the members whose `parameters` and `buffers` these are: [members, ...], in the plain network's order."""
        for (attributes, name), tensor in zip(self._parameters, parameters, strict=True):
            attributes[name] = tensor
        for (attributes, name), tensor in zip(self._buffers, buffers, strict=True):
            attributes[name] = tensor
        return self.network


def _places(network: nn.Module, names: Sequence[str]) -> list[tuple[dict[str, object], str]]:
    """Where each tensor goes: as a plain attribute, past nn.Module's own lists, which take 1 us for each."""
    split = [name.rpartition(".") for name in names]
    return [(vars(network.get_submodule(owner)), name) for owner, _, name in split]


def _replaced(network: nn.Module) -> nn.Module:
    for name, module in network.named_children():
        form = STACKED.get(type(module))
        setattr(network, name, form(module) if form else _replaced(module))
    return network
