import pytest
import torch

from gan_core.two_sample import SCALES, kernel, witness, witness_at
from tests.gan_core.exact import squared_mmd


def draws(*shapes, seed=0):
    source = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, dtype=torch.float64, generator=source) for shape in shapes]


def test_the_kernel_is_the_published_mixture_on_the_mean_square():
    """1801.01401, eq. 7: the sum of (1 + d/(2 a))^-a over a in 0.2, 0.5, 1, 2, 5."""
    assert SCALES == (0.2, 0.5, 1.0, 2.0, 5.0)
    left, right = torch.tensor([[0.0, 0.0]], dtype=torch.float64), torch.tensor([[2.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    at_two = 6.0**-0.2 + 3.0**-0.5 + 2.0**-1.0 + 1.5**-2.0 + 1.2**-5.0  # a mean square of 2
    assert kernel(left, right).tolist() == [pytest.approx([at_two, 5.0], rel=1e-14)]


def test_the_kernel_is_symmetric_positive_semidefinite_and_in_its_range():
    points = torch.cat([part * scale for part, scale in zip(draws((12, 4), (12, 4), (6, 4)), (0.1, 1.0, 30.0))])
    values = kernel(points, points)
    assert ((values > 0.0) & (values <= 5.0)).all()
    torch.testing.assert_close(values, values.T, rtol=1e-13, atol=0)
    torch.testing.assert_close(values.diagonal(), torch.full((30,), 5.0, dtype=torch.float64), rtol=1e-10, atol=0)
    assert torch.linalg.eigvalsh(values).min() > -1e-10
    assert values.min() < 2.0


def test_the_kernel_does_not_depend_on_how_often_features_are_repeated():
    left, right = draws((5, 3), (4, 3))
    torch.testing.assert_close(kernel(left.repeat(1, 7), right.repeat(1, 7)), kernel(left, right), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("count", "width"), [(2, 1), (5, 3), (9, 16)])
def test_the_witness_means_differ_by_the_unbiased_mmd(count, width):
    real, fake = draws((count, width), (count, width), seed=count)
    fake = 1.5 * fake + 0.4
    real_side, fake_side = witness(real, fake)
    assert real_side.shape == fake_side.shape == (count,)
    assert (real_side.mean() - fake_side.mean()).item() == pytest.approx(squared_mmd(real, fake), rel=1e-11, abs=1e-13)


def test_the_estimate_is_unbiased_where_the_distributions_are_equal_and_large_where_they_are_not():
    equal, apart = [], []
    for seed in range(100):
        real, fake = draws((20, 3), (20, 3), seed=seed)
        for values, others in ((equal, fake), (apart, fake + 1.0)):
            real_side, fake_side = witness(real, others)
            values.append((real_side.mean() - fake_side.mean()).item())
    equal, apart = torch.tensor(equal), torch.tensor(apart)
    error = equal.std().item() / 10.0
    assert abs(equal.mean().item()) < 3.0 * error  # the biased estimate would lie (5 - E k) / 10 above
    assert 0.05 < equal.std() < 0.2
    assert equal.min() < 0.0 < equal.max()
    assert apart.mean() > 20.0 * error
    assert apart.min() > 0.0


def test_the_witness_leaves_each_sample_out_of_its_own_mean_and_elsewhere_none():
    """At a real x_i of n, witness_at counts k(x_i, x_i) = 5 among n; `witness` takes the mean of the n - 1 others."""
    real, fake = draws((6, 3), (6, 3))
    real_side, fake_side = witness(real, fake)
    to_fake, to_real = kernel(real, fake).mean(1), kernel(fake, real).mean(1)
    torch.testing.assert_close(witness_at(real, real, fake), (5.0 * (real_side + to_fake) + 5.0) / 6.0 - to_fake, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(witness_at(fake, real, fake), to_real - (5.0 * (to_real - fake_side) + 5.0) / 6.0, rtol=1e-10, atol=1e-12)


def test_the_witness_at_a_new_point_is_the_limit_of_adding_it_to_neither_side():
    real, fake, points = draws((4, 3), (4, 3), (5, 3))
    wanted = [
        sum(kernel(point[None], x[None]).item() for x in real) / 4 - sum(kernel(point[None], y[None]).item() for y in fake) / 4
        for point in points
    ]
    assert witness_at(points, real, fake).tolist() == pytest.approx(wanted, rel=1e-12, abs=1e-13)
    left, right = torch.full((1, 3), -2.0, dtype=torch.float64), torch.full((1, 3), 2.0, dtype=torch.float64)
    assert witness_at(left, real - 2.0, fake + 2.0).item() > 1.0  # large where real samples are near
    assert witness_at(right, real - 2.0, fake + 2.0).item() < -1.0


def test_the_witness_passes_right_gradients_to_both_sides():
    real, fake = (side.requires_grad_() for side in draws((3, 2), (3, 2)))
    assert torch.autograd.gradcheck(lambda r, f: torch.stack(witness(r, f)), (real, fake))
    assert torch.autograd.gradcheck(witness_at, (real.detach() + 0.3, real, fake))
