"""Several independent MLP GANs in one pair of networks: many seeds of a small training in the time of a few.

Each group has its own weights, data, latents and batch statistics; nothing passes between groups. Images are [batch, groups * 2, 1, 1],
logits [groups * batch]. The mean over logits divides each group's gradient by the number of groups, which Adam does not see; weights
of penalties, whose value is summed over groups, have to be divided likewise.
"""

import torch
from torch import nn


class GroupedLinear(nn.Module):
    """A linear layer for each group, initialised as nn.Linear: [groups, batch, in] to [groups, batch, out]."""

    def __init__(self, groups, width_in, width_out):
        super().__init__()
        bound = width_in**-0.5
        self.weight = nn.Parameter(torch.empty(groups, width_in, width_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(groups, 1, width_out).uniform_(-bound, bound))

    def forward(self, inputs):
        return torch.baddbmm(self.bias, inputs, self.weight)


class GroupedNorm(nn.Module):
    """Batch norm of each unit of each group."""

    def __init__(self, groups, width):
        super().__init__()
        self.norm = nn.BatchNorm1d(groups * width)

    def forward(self, inputs):
        groups, batch, width = inputs.shape
        flat = inputs.transpose(0, 1).reshape(batch, groups * width)
        return self.norm(flat).view(batch, groups, width).transpose(0, 1)


class GroupedMaxout(nn.Module):
    """The largest of `pieces` linear maps."""

    def __init__(self, groups, width_in, width_out, pieces):
        super().__init__()
        self.linear, self.pieces = GroupedLinear(groups, width_in, width_out * pieces), pieces

    def forward(self, inputs):
        return self.linear(inputs).unflatten(2, (self.pieces, -1)).amax(2)


class Generator(nn.Module):
    """As gan_core.networks.mlp, for points."""

    def __init__(self, groups, *, z_dim, hidden_width, hidden_layers, norm):
        super().__init__()
        self.groups = groups
        layers = []
        for width_in in [z_dim] + [hidden_width] * (hidden_layers - 1):
            layers += [GroupedLinear(groups, width_in, hidden_width)]
            layers += [GroupedNorm(groups, hidden_width)] if norm == "batch" else []
            layers += [nn.ReLU()]
        self.layers = nn.Sequential(*layers, GroupedLinear(groups, hidden_width, 2))

    def forward(self, z, labels=None):
        points = self.layers(z.view(len(z), self.groups, -1).transpose(0, 1))
        return points.transpose(0, 1).reshape(len(z), self.groups * 2, 1, 1)


class Discriminator(nn.Module):
    """As gan_core.networks.mlp, for points, `packing` of them at once."""

    def __init__(self, groups, *, packing, hidden_width, hidden_layers, maxout_pieces):
        super().__init__()
        self.groups, self.packing = groups, packing
        layers = []
        for width_in in [2 * packing] + [hidden_width] * (hidden_layers - 1):
            if maxout_pieces is None:
                layers += [GroupedLinear(groups, width_in, hidden_width), nn.LeakyReLU(0.2)]
            else:
                layers += [GroupedMaxout(groups, width_in, hidden_width, maxout_pieces)]
        self.features = nn.Sequential(*layers)
        self.logit = GroupedLinear(groups, hidden_width, 1)

    def forward(self, images, labels=None):
        points = images.view(len(images), self.packing, self.groups, 2).permute(2, 0, 1, 3).flatten(2)
        return self.logit(self.features(points)).flatten()
