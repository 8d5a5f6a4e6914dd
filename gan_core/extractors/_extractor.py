"""What every extractor is: a fixed function from images to features, with a name and a hash that say which."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

AT_ONCE = 256  # images in one forward pass
TOLERANCE = 1 / 255  # half a grey level: what lies outside [-1, 1] by less is rounding


class Features(NamedTuple):
    """What one forward pass gives: features [batch, d], and class probabilities [batch, classes] where the network has classes."""

    features: Float[Tensor, "batch dimensions"]
    probabilities: Float[Tensor, "batch classes"] | None


@dataclass(frozen=True)
class Extractor:
    """A fixed network that judges images [batch, *image_shape] in [-1, 1].

    `weights_hash` is the sha256 of its definition and weights, `resize` the filter that brings images to its input size (`none` where there
    is none), `dtype` the precision it computes in, `num_classes` 0 where it has no probabilities. `facts` are what a report should show
    beside its scores. `network` takes checked images of that precision on `device`. `bounded` is False for points of the plane, which may
    lie anywhere.
    """

    name: str
    weights_hash: str
    dimensions: int
    num_classes: int
    resize: str
    dtype: str
    image_shape: tuple[int, int, int]
    device: torch.device
    network: Callable[[Tensor], Features]
    facts: dict[str, Any] = field(default_factory=dict)
    bounded: bool = True

    def __call__(self, images: Float[Tensor, "batch channels height width"]) -> Features:
        """Features, and probabilities if there are any, of all `images`, on this extractor's device; without gradients.

        An image's features do not depend on those it is batched with, up to rounding.

        Raises:
            ValueError: no images, images of another shape, NaN, or values outside [-1, 1].
        """
        _require_usable(self, images)
        with torch.no_grad(), exact(self.device):
            parts = [self.network(part.to(self.device, torch.float32)) for part in images.split(AT_ONCE)]
        classes = [part.probabilities for part in parts if part.probabilities is not None]
        return Features(torch.cat([part.features for part in parts]), torch.cat(classes) if classes else None)

    def features(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dimensions"]:
        """The features alone; errors as above."""
        return self(images).features

    def probabilities(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """The class probabilities alone.

        Raises:
            ValueError: as above, and where the extractor has no classes.
        """
        if not self.num_classes:
            raise ValueError(f"extractor {self.name} gives no class probabilities; lenet and inception do")
        found = self(images).probabilities
        assert found is not None
        return found


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Computing in float32 as written: no autocast, no TF32, no choice of algorithm by speed, whatever the caller trains with."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    cudnn = torch.backends.cudnn
    try:
        with (
            torch.autocast(device.type, enabled=False),
            cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def hash_of(definition: str, weights: Mapping[str, Tensor]) -> str:
    """The sha256, in hex, of a definition in words and of the bytes of all tensors, in the order of their names."""
    digest = sha256(definition.encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def on_cpu(build: Callable[[], nn.Module]) -> nn.Module:
    """The module that `build` makes, in float32, its weights not yet set: nothing is drawn from the caller's random state."""
    with torch.inference_mode(False):  # a caller's inference mode would make weights that cannot be trained
        with torch.device("meta"):
            network = build()
        return network.to(torch.float32).to_empty(device="cpu")


@torch.no_grad()
def fill(network: nn.Module, source: torch.Generator) -> None:
    """Set weights to He's uniform distribution, of variance 2 / fan-in (1502.01852, section 2.2), and biases to zero.

    Uniform numbers, because they take no library's logarithm: their bits are the same on every machine.
    """
    for name, weight in network.named_parameters():
        if name.endswith("bias"):
            weight.zero_()
        else:
            bound = (6.0 / weight[0].numel()) ** 0.5
            weight.copy_(torch.rand(weight.shape, generator=source).mul_(2.0).sub_(1.0).mul_(bound))


def require_colours(name: str, channels: int) -> None:
    """Raise ValueError unless images are grey or RGB."""
    if channels not in (1, 3):
        raise ValueError(f"extractor {name} takes images of 1 or 3 channels, and the data set has {channels}; use pixels or random_conv")


def _require_usable(extractor: Extractor, images: Tensor) -> None:
    name, shape = extractor.name, tuple(images.shape[1:])
    if shape != extractor.image_shape:
        raise ValueError(
            f"extractor {name} was built for images of shape {extractor.image_shape} (channels, height, width), given {shape}; "
            f"give such images, or build it for a data set of these"
        )
    if not len(images):
        raise ValueError(f"extractor {name}: no images; give at least one")
    low, high = (float(value) for value in images.detach().aminmax())
    if not extractor.bounded and math.isfinite(low) and math.isfinite(high):
        return
    if not (low >= -1.0 - TOLERANCE and high <= 1.0 + TOLERANCE):  # false for NaN too
        raise ValueError(
            f"extractor {name}: images must lie in [-1, 1], given values from {low:.4g} to {high:.4g}; "
            f"for images in [0, 1] give images * 2 - 1, and NaN means that a network has diverged"
        )
