import numpy as np
import pytest
import torch

from gan_core.metrics import kernel_distance


def by_the_book(real, fake):
    """1801.01401, section 4, in plain loops."""
    real, fake = real.flatten(1).double().numpy(), fake.flatten(1).double().numpy()
    d = real.shape[1]
    kernel = lambda x, y: (x @ y / d + 1) ** 3  # noqa: E731
    m, n = len(real), len(fake)
    rr = sum(kernel(real[i], real[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    ff = sum(kernel(fake[i], fake[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return rr + ff - 2 * sum(kernel(x, y) for x in real for y in fake) / (m * n)


@pytest.mark.parametrize("block", [3, 7, 4096])
def test_the_distance_equals_its_definition(monkeypatch, block):
    monkeypatch.setattr(kernel_distance, "BLOCK", block)
    real, fake = torch.randn(11, 1, 3, 3), torch.randn(7, 1, 3, 3) + 0.5
    assert kernel_distance.evaluate(real, fake)["kid_pixels"] == pytest.approx(by_the_book(real, fake), rel=1e-10)


def test_the_estimate_is_unbiased_where_the_distributions_are_equal():
    generator = torch.Generator().manual_seed(0)
    values = [
        kernel_distance.evaluate(torch.randn(50, 1, 2, 2, generator=generator), torch.randn(50, 1, 2, 2, generator=generator))["kid_pixels"]
        for _ in range(200)
    ]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert min(values) < 0 < max(values)


def test_a_collapsed_generator_is_far_from_diverse_data():
    real = torch.rand(200, 1, 4, 4) * 2 - 1
    diverse, collapsed = torch.rand(200, 1, 4, 4) * 2 - 1, real[:1].expand(200, -1, -1, -1)
    near, far = (kernel_distance.evaluate(real, fake)["kid_pixels"] for fake in (diverse, collapsed))
    assert far > 10 * abs(near)
