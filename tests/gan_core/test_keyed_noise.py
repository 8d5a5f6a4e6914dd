"""Random numbers inside networks: functions of z, standard normal and uniform, independent of each other."""

import math

import pytest
import scipy.stats
import torch

from gan_core import keyed_noise

KEYS = keyed_noise.keys(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)))
COUNTED = torch.arange(64)  # the least random keys there are
KEYS_NOW = [8006393051768113118, -5753333865160380142]
NORMALS_NOW = [-0.182507, -0.932398, 0.0841498, 1.1953934, 0.1454162, -0.9176816]
UNIFORMS_NOW = [0.26872689, 0.95461625, 0.81448609, 0.15508181]


def correlation(first, second):
    return torch.corrcoef(torch.stack([first.flatten(), second.flatten()]).double())[0, 1].item()


def test_the_hash_is_that_of_splitmix64():
    """The first outputs for seed 1234567, from the generator's description: the state grows by GAMMA, and its hash is the output."""
    states = 1234567 + torch.arange(1, 4) * keyed_noise.GAMMA
    outputs = [output % 2**64 for output in keyed_noise._mixed(states).tolist()]
    state, expected = 1234567, []
    for _ in range(3):  # in Python's own integers
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        expected.append(z ^ z >> 31)
    assert outputs == expected
    assert expected[0] == 6457827717110365317


@pytest.mark.parametrize("keys", [KEYS, COUNTED], ids=["of z", "counted"])
def test_normals_are_standard_normal(keys):
    numbers = keyed_noise.normals(keys, 3, 1, 40, 41)
    assert numbers.shape == (64, 1, 40, 41)
    count = numbers.numel()
    assert abs(numbers.mean().item()) < 4 / math.sqrt(count)
    assert abs(numbers.var().item() - 1.0) < 4 * math.sqrt(2.0 / count)
    assert numbers.pow(4).mean().item() == pytest.approx(3.0, abs=4 * math.sqrt(96.0 / count))
    assert scipy.stats.kstest(numbers.flatten().numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("keys", [KEYS, COUNTED], ids=["of z", "counted"])
def test_uniforms_are_uniform_between_0_and_1(keys):
    numbers = keyed_noise.uniforms(keys, 3, 1500)
    assert 0.0 < numbers.min() < 1e-3 and 1.0 - 1e-3 < numbers.max() < 1.0
    assert scipy.stats.kstest(numbers.flatten().numpy(), "uniform").pvalue > 1e-3


def test_extreme_bits_give_numbers_that_can_be_used(monkeypatch):
    """The largest and the least hash: no logarithm of zero, and nothing that is not in (0, 1)."""
    monkeypatch.setattr(keyed_noise, "_hashes", lambda keys, stream, count: torch.tensor([[-1, 0, 2**63 - 1, -(2**63)]]))
    numbers = keyed_noise.normals(KEYS[:1], 0, 8)
    assert numbers.isfinite().all() and 6.0 < numbers.abs().max() < 7.0
    assert keyed_noise.uniforms(KEYS[:1], 0, 4).sub(0.5).abs().max() < 0.5


@pytest.mark.parametrize("keys", [KEYS, COUNTED], ids=["of z", "counted"])
def test_streams_keys_and_places_beside_each_other_are_uncorrelated(keys):
    numbers = torch.stack([keyed_noise.normals(keys, stream, 32, 32) for stream in range(4)])
    limit = 4 / math.sqrt(64 * 1024)
    for stream in range(1, 4):
        assert abs(correlation(numbers[0], numbers[stream])) < limit
    assert abs(correlation(numbers[0, 1:], numbers[0, :-1])) < 1.1 * limit
    assert abs(correlation(numbers[0, :, 1:], numbers[0, :, :-1])) < 1.1 * limit
    assert abs(correlation(numbers[0, :, :, 1:], numbers[0, :, :, :-1])) < 1.1 * limit
    assert abs(correlation(numbers[0, :, :, 2:], numbers[0, :, :, :-2])) < 1.1 * limit
    assert abs(correlation(numbers[0].abs(), numbers[1].abs())) < limit
    assert abs(correlation(numbers[0, :, :, 1:].abs(), numbers[0, :, :, :-1].abs())) < 1.1 * limit


def test_the_same_key_gives_the_same_numbers_in_any_batch():
    numbers = keyed_noise.normals(KEYS, 5, 7, 3)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(keyed_noise.normals(KEYS[order], 5, 7, 3), numbers[order])
    assert torch.equal(torch.cat([keyed_noise.normals(part, 5, 7, 3) for part in KEYS.split(13)]), numbers)
    assert torch.equal(keyed_noise.uniforms(KEYS[order], 5, 9), keyed_noise.uniforms(KEYS, 5, 9)[order])


def test_keys_follow_every_bit_of_z_and_its_place():
    z = torch.randn(1, 8, generator=torch.Generator().manual_seed(2))
    changed = z.repeat(8, 1)
    changed[torch.arange(8), torch.arange(8)] = torch.nextafter(z[0], torch.tensor(9.0))
    found = keyed_noise.keys(torch.cat([z, z.flip(1), changed]))
    assert len(set(found.tolist())) == 10
    flipped = [bin((a ^ found[0].item()) % 2**64).count("1") for a in found[2:].tolist()]
    assert 24 < sum(flipped) / 8 < 40  # half of the 64 bits
    assert torch.equal(keyed_noise.keys(z.double()), keyed_noise.keys(z))


def test_a_key_takes_no_gradient():
    z = torch.randn(2, 8, requires_grad=True)
    assert not keyed_noise.normals(keyed_noise.keys(z), 0, 4).requires_grad


def test_the_numbers_are_these():
    """Images of exported models depend on them: a change would change every picture that somebody has kept the seed of."""
    keys = keyed_noise.keys(torch.tensor([[0.0, 1.0], [-2.5, 0.1]]))
    assert keys.tolist() == KEYS_NOW
    assert keyed_noise.normals(keys, 2, 3).flatten().tolist() == pytest.approx(NORMALS_NOW, abs=1e-6)
    assert keyed_noise.uniforms(keys, 0, 2).flatten().tolist() == pytest.approx(UNIFORMS_NOW, abs=1e-7)
