"""Ways between latents begin and end where they should, and stay where latents are."""

import math

import pytest
import torch

from gan_core.interpolation import spherical, straight, way

Z = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))


def test_the_great_circle_of_perpendicular_vectors_is_sine_and_cosine():
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    for share in (0.0, 0.25, 0.5, 1.0):
        angle = share * math.pi / 2
        assert torch.allclose(spherical(a, b, share), 2 * torch.tensor([math.cos(angle), math.sin(angle)]), atol=1e-6)


def test_the_sphere_keeps_the_length_that_the_straight_way_loses():
    a, b = (vector / vector.norm() * 8 for vector in Z[:2])
    assert float(spherical(a, b, 0.5).norm()) == pytest.approx(8.0, rel=1e-5)
    assert 4.5 < float(straight(a, b, 0.5).norm()) < 6.7  # 8 / sqrt(2) for perpendicular ones


@pytest.mark.parametrize("other", [Z[0], 2 * Z[0], -Z[0]])
def test_vectors_of_one_line_are_joined_straight(other):
    assert torch.allclose(spherical(Z[0], other, 0.25), 0.75 * Z[0] + 0.25 * other)


@pytest.mark.parametrize("between", [spherical, straight])
def test_an_open_way_passes_all_points_and_a_closed_one_returns(between):
    open_way = way(Z[:3], 9, between, closed=False)
    assert len(open_way) == 9
    for frame, point in ((0, 0), (4, 1), (8, 2)):
        assert torch.allclose(open_way[frame], Z[point], atol=1e-5)
    closed = way(Z[:3], 9, between, closed=True)
    for frame, point in ((0, 0), (3, 1), (6, 2)):
        assert torch.allclose(closed[frame], Z[point], atol=1e-5)
    assert torch.allclose(closed[8], between(Z[2], Z[0], 2 / 3), atol=1e-5)


def test_steps_are_equal():
    steps = way(Z[:2], 11, straight, closed=False).diff(dim=0).norm(dim=1)
    assert torch.allclose(steps, steps[:1].expand(10), rtol=1e-4)
