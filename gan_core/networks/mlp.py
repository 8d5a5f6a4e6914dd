"""Fully connected generator and discriminator, the family of the 2014 paper (1406.2661, section 5).

For images of any size and for 2-D points (channels 2, resolution 1). The paper's discriminator is two maxout layers of 240
units with 5 pieces each and dropout: `hidden_width: 240, hidden_layers: 2, maxout_pieces: 5, dropout: 0.5`.
"""

from typing import Annotated, Literal

from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from gan_core.networks._projection import class_vectors, projected

Positive = Annotated[int, Field(gt=0)]
Depth = Annotated[int, Field(gt=0, le=1000)]  # more are a mistake, or meant to use up the memory of who builds them


class Generator(nn.Module):
    """ReLU layers from z, with a learned class embedding added to z where there are classes."""

    def __init__(
        self, shape: tuple[int, int, int], z_dim: int, num_classes: int, widths: list[int], output: nn.Module, *, batch_norm: bool
    ) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(num_classes, z_dim) if num_classes else None
        layers: list[nn.Module] = []
        for width_in, width_out in zip([z_dim, *widths], widths, strict=False):
            layers += [nn.Linear(width_in, width_out), *([nn.BatchNorm1d(width_out)] if batch_norm else []), nn.ReLU()]
        pixels = shape[0] * shape[1] * shape[2]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], pixels), output)

    def forward(
        self, z: Float[Tensor, "batch z_dim"], labels: Int64[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        if self.embedding is not None:
            z = z + self.embedding(labels)
        out: Tensor = self.layers(z)
        return out.view(-1, *self.shape)


class Discriminator(nn.Module):
    """Maxout or leaky ReLU layers; classes enter by projection (1802.05637, eq. 3)."""

    faster_together = True

    def __init__(self, num_classes: int, hidden: list[nn.Module], hidden_width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), *hidden)
        self.logit = nn.Linear(hidden_width, 1)
        self.embedding = class_vectors(num_classes, hidden_width)

    def forward(
        self, images: Float[Tensor, "batch channels height width"], labels: Int64[Tensor, " batch"] | None = None
    ) -> Float[Tensor, " batch"]:
        features = self.features(images)
        logits: Tensor = self.logit(features).squeeze(1)
        return projected(logits, features, self.embedding, labels)


class Maxout(nn.Module):
    """The largest of `pieces` linear maps (Goodfellow et al. 2013, 1302.4389, eq. 2)."""

    def __init__(self, width_in: int, width_out: int, pieces: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width_in, width_out * pieces)
        self.pieces = pieces

    def forward(self, inputs: Float[Tensor, "batch width_in"]) -> Float[Tensor, "batch width_out"]:
        pieces: Tensor = self.linear(inputs)
        largest: Tensor = pieces.unflatten(1, (self.pieces, -1)).amax(1)
        return largest


def generator(
    *,
    resolution: int,
    channels: int,
    z_dim: int,
    num_classes: int,
    hidden_width: Positive = 256,
    hidden_layers: Depth = 2,
    output: Literal["tanh", "linear"] = "tanh",
    norm: Literal["batch", "none"] = "none",
) -> Generator:
    """Z [batch, z_dim] to images [batch, channels, resolution, resolution]; `tanh` bounds them to [-1, 1]."""
    outputs: dict[str, nn.Module] = {"tanh": nn.Tanh(), "linear": nn.Identity()}
    shape, widths = (channels, resolution, resolution), [hidden_width] * hidden_layers
    return Generator(shape, z_dim, num_classes, widths, outputs[output], batch_norm=norm == "batch")


def discriminator(
    *,
    resolution: int,
    channels: int,
    num_classes: int,
    hidden_width: Positive = 256,
    hidden_layers: Depth = 2,
    maxout_pieces: Annotated[int, Field(gt=1)] | None = None,
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0,
) -> Discriminator:
    """Images to logits [batch]. Hidden units are leaky ReLU (slope 0.2), or maxout where `maxout_pieces` is given."""
    pixels = channels * resolution * resolution
    hidden: list[nn.Module] = []
    for width_in in [pixels] + [hidden_width] * (hidden_layers - 1):
        if maxout_pieces is None:
            hidden += [nn.Linear(width_in, hidden_width), nn.LeakyReLU(0.2)]
        else:
            hidden += [Maxout(width_in, hidden_width, maxout_pieces)]
        if dropout:
            hidden += [nn.Dropout(dropout)]
    return Discriminator(num_classes, hidden, hidden_width)
