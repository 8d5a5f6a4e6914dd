import pytest
import torch
from torch.nn import functional

from gan_core.networks import _convolutions as fast


def written_out(name, features, weight, bias):
    if name == "convolve_doubled":
        return functional.conv2d(functional.interpolate(features, scale_factor=2.0), weight, bias, 1, 1)
    if name == "convolve_and_halve":
        return functional.avg_pool2d(functional.conv2d(features, weight, bias, 1, 1), 2)
    if name == "spread":
        return functional.conv_transpose2d(features[:, :, None, None], weight, bias)
    return functional.conv_transpose2d(features, weight, bias, 2, 1)


CASES = {
    "convolve_doubled": ((2, 3, 5, 4), (6, 3, 3, 3)),
    "convolve_and_halve": ((2, 3, 6, 4), (6, 3, 3, 3)),
    "spread": ((5, 7), (7, 6, 4, 3)),
    "double_to_few": ((2, 5, 3, 4), (5, 6, 4, 4)),
}


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_of_both_orders_are_those_of_the_convolution_written_out(name, with_bias):
    torch.manual_seed(0)
    features, weight = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in CASES[name])
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True) if with_bias else None
    found = []
    for function in (getattr(fast, name), lambda *given: written_out(name, *given)):
        result = function(features, weight, bias)
        leaves = [features, weight] + ([bias] if with_bias else [])
        first = torch.autograd.grad((result**3).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum((gradient**2).sum() for gradient in first), [features, weight])
        found.append([result, *first, *second])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
