"""Random numbers inside a network as a function of its input: the same z gives the same image in any batch, on any rank.

A counter-based generator (the idea of Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): place i of a stream is
a hash of (key, stream, i), so there is no state to keep or to share. The hash is the finaliser of SplitMix64 (Steele et al. 2014,
"Fast splittable pseudorandom number generators", figure 16). Integers are the same on every device; the normal numbers agree up
to the last bits of log and cos.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def _signed(bits: int) -> int:
    """The int64 with these 64 bits: PyTorch has no arithmetic on unsigned ones."""
    return bits - 2**64 if bits >= 2**63 else bits


GAMMA = _signed(0x9E3779B97F4A7C15)  # the golden ratio's odd number: steps of SplitMix64's counter
FIRST, SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def keys(z: Float[Tensor, "batch z_dim"]) -> Int64[Tensor, " batch"]:
    """A key for each row, from the bits of its numbers as float32: of no use to a gradient."""
    bits = z.detach().float().contiguous().view(torch.int32).to(torch.int64)
    places = torch.arange(1, bits.shape[1] + 1, device=z.device) * GAMMA
    return _mixed(_mixed(bits + _mixed(places)).sum(1))


def uniforms(keys: Int64[Tensor, " batch"], stream: int, count: int) -> Float[Tensor, "batch count"]:
    """`count` float32 numbers for each key, uniform on (0, 1): 23 bits, in the middle of their intervals."""
    return ((_hashes(keys, stream, count) >> 41 & 0x7FFFFF).float() + 0.5) * 2.0**-23


def normals(keys: Int64[Tensor, " batch"], stream: int, *shape: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "batch ..."]:
    """Standard normal numbers of `shape` for each key, by Box and Muller (1958), two from each hash, computed in `dtype`.

    The largest are 6.8 in size.
    """
    count = math.prod(shape)
    hashes = _hashes(keys, stream, (count + 1) // 2)
    radius = (((hashes >> 32 & 0xFFFFFFFF).to(dtype) + 0.5) * 2.0**-32).log().mul(-2.0).sqrt()
    angle = (hashes & 0xFFFFFFFF).to(dtype) * (math.tau * 2.0**-32)
    pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], 2)
    return pairs.flatten(1)[:, :count].reshape(-1, *shape)


def _hashes(keys: Tensor, stream: int, count: int) -> Tensor:
    """[batch, count] int64: SplitMix64's outputs from a start that depends on key and stream."""
    starts = _mixed(keys ^ _mixed(keys.new_full((), stream + 1) * GAMMA))
    return _mixed(starts[:, None] + torch.arange(1, count + 1, device=keys.device) * GAMMA)


def _mixed(bits: Tensor) -> Tensor:
    """Every bit of the result depends on every bit given; one to one. Multiplication wraps modulo 2^64."""
    bits = (bits ^ _shifted(bits, 30)) * FIRST
    bits = (bits ^ _shifted(bits, 27)) * SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, places: int) -> Tensor:
    """To the right with zeros coming in: `>>` alone would repeat the sign."""
    return bits >> places & (1 << 64 - places) - 1
