"""Spectral normalisation of a discriminator (Miyato et al. 2018, 1802.05957)."""

from torch import nn
from torch.nn.utils import parametrizations

LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)


def spectrally_normalised(network: nn.Module) -> nn.Module:
    """`network`, with the weight of every linear, convolutional and embedding layer divided by its largest singular value.

    A layer that starts at zero is given weights from N(0, 0.02^2) first: its norm would be 0, and a normalised layer has no scale to start
    small with.

    One power iteration at each forward pass in training, from 15 at the start (1802.05957, algorithm 1); the iterates are buffers.

    Raises:
        ValueError: a layer has weights of its own kind, which would stay as they are.
    """
    for name, module in network.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim > 1 and not isinstance(module, LAYERS):
            raise ValueError(
                f"regularizers.spectral_norm: the discriminator's layer {name} is a {type(module).__name__}, which it cannot normalise; "
                f"set it to false"
            )
    for module in list(network.modules()):
        if isinstance(module, LAYERS):
            if not module.weight.any():
                nn.init.normal_(module.weight, 0.0, 0.02)
            parametrizations.spectral_norm(module)
    return network
