"""gan_core's networks in PyTorch's own layers, one call after another as the papers draw them, with the same weights and numbers.

gan_core joins or rewrites some of them (gan_core/networks/_convolutions.py); users of other trainers write them like this.
"""

from torch.nn import functional

from gan_core.networks import dcgan, sngan


def write_out():
    """Have the networks of this process compute so."""
    dcgan.spread = lambda vectors, weight, bias: functional.conv_transpose2d(vectors[:, :, None, None], weight, bias)
    dcgan.double_to_few = lambda features, weight, bias: functional.conv_transpose2d(features, weight, bias, 2, 1)
    sngan.convolve_doubled = lambda features, weight, bias: functional.conv2d(sngan._doubled(features), weight, bias, 1, 1)
    sngan.convolve_and_halve = lambda features, weight, bias: functional.avg_pool2d(functional.conv2d(features, weight, bias, 1, 1), 2)
    sngan._scaled = lambda norm, features, gain, bias: norm(features) * gain[:, None, None] + bias[:, None, None]
