"""What each loss says of the distance of two distributions, against quadrature and closed forms."""

import math

import mpmath as mp
import pytest
import torch

from gan_core.divergences import DIVERGENCES
from gan_core.losses import LOSSES
from gan_core.two_sample import witness
from tests.gan_core.exact import EXACT, PAIRS, squared_mmd
from tests.gan_core.test_losses import PUBLISHED, WHEN_CERTAIN

LOG_2 = math.log(2.0)


def expected_loss(name, densities, logits):
    """The discriminator's, over real from p and fakes from q; for losses that are a term of each."""
    function, zero = LOSSES[name].discriminator, torch.zeros_like(logits)
    whole = densities.over_p(function(logits, zero)) + densities.over_q(function(zero, logits))
    return whole - function(zero[:1], zero[:1]).item()


def jensen_shannon(densities):
    middle = ((densities.log_p.exp() + densities.log_q.exp()) / 2.0).log()
    return (densities.over_p(densities.log_p - middle) + densities.over_q(densities.log_q - middle)) / 2.0


def total_variation(densities):
    return densities.integral((densities.log_p.exp() - densities.log_q.exp()).abs()) / 2.0


def triangular(densities):
    p, q = densities.log_p.exp(), densities.log_q.exp()
    return densities.integral((p - q).square() / (p + q))


# The divergence that a loss estimates, and the logits that reach it. Losses that compare pairs or means, or whose logits are bound
# by something outside, have tests of their own below.
REACHED = {
    "minimax": ("jensen_shannon_divergence", jensen_shannon, lambda u: u.log()),
    "non_saturating": ("jensen_shannon_divergence", jensen_shannon, lambda u: u.log()),
    "least_squares": ("triangular_discrimination", triangular, lambda u: u / (1.0 + u)),
    "hinge": ("total_variation", total_variation, lambda u: (u - 1.0).sign()),
    **{f"f_{name}": (name, lambda densities, d=d: densities.over_q(d.f(densities.u)), d.optimal_logit) for name, d in DIVERGENCES.items()},
}
COMPARED_OR_BOUND = {"wasserstein", "relativistic", "relativistic_average", "mmd"}


def test_every_loss_has_its_published_form_its_limits_and_its_divergence():
    assert LOSSES.keys() == PUBLISHED.keys() == WHEN_CERTAIN.keys() == REACHED.keys() | COMPARED_OR_BOUND


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", REACHED)
def test_the_bound_is_the_named_divergence_at_the_optimal_logits_and_less_at_others(name, pair):
    densities, bound = PAIRS[pair], LOSSES[name].bound
    of, divergence, optimal = REACHED[name]
    assert bound.of == of
    wanted, best = divergence(densities), optimal(densities.u)

    def read(logits):
        return bound.offset - bound.scale * expected_loss(name, densities, logits)

    assert read(best) == pytest.approx(wanted, rel=1e-8)
    near = best.clamp(-1.5, 1.5)
    for other in (near * 0.7, near + 0.4, near - 0.4, near + 0.4 * (3.0 * densities.x).sin(), torch.zeros_like(near)):
        assert -math.inf < read(other) < wanted - 1e-3


@pytest.mark.parametrize("pair", PAIRS)
def test_the_value_of_the_game_at_the_best_discriminator_is_minus_log_four_plus_twice_the_jensen_shannon_divergence(pair):
    """1406.2661, theorem 1."""
    densities = PAIRS[pair]
    value = -expected_loss("minimax", densities, densities.u.log())
    assert value == pytest.approx(-math.log(4.0) + 2.0 * jensen_shannon(densities), rel=1e-10)


@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name].threshold is not None])
def test_the_threshold_is_the_best_logit_where_the_densities_are_equal(name):
    one = torch.ones(1, dtype=torch.float64)
    assert REACHED[name][2](one).item() == LOSSES[name].threshold
    if name.startswith("f_") and name != "f_total_variation":
        exact = EXACT[name.removeprefix("f_")]
        with mp.workdps(30):
            assert float(exact.activation(LOSSES[name].threshold)) == pytest.approx(float(mp.diff(exact.f, 1)), abs=1e-12)


def test_losses_without_a_threshold_read_differences_only():
    assert {name for name in LOSSES if LOSSES[name].threshold is None} == COMPARED_OR_BOUND
    real, fake = torch.linspace(-1, 2, 4, dtype=torch.float64), torch.linspace(1, -2, 4, dtype=torch.float64)
    for name in COMPARED_OR_BOUND:
        moved = LOSSES[name].discriminator(real + 5.0, fake + 5.0)
        torch.testing.assert_close(moved, LOSSES[name].discriminator(real, fake), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("pair", PAIRS)
def test_the_wasserstein_bound_is_the_distance_at_the_best_slope_of_one_and_less_at_others(pair):
    """On a line W1 is the integral of |P - Q|, the distribution functions, and the best logits fall where P > Q."""
    densities, bound = PAIRS[pair], LOSSES["wasserstein"].bound
    zero = torch.zeros(1, dtype=torch.float64)
    difference = torch.cat([zero, torch.cumulative_trapezoid(densities.log_p.exp() - densities.log_q.exp(), densities.x)])
    distance = densities.integral(difference.abs())
    assert bound.of == "wasserstein"
    if "wasserstein" in densities.closed:
        assert distance == pytest.approx(densities.closed["wasserstein"], rel=3e-4)

    def read(logits):
        return bound.offset - bound.scale * expected_loss("wasserstein", densities, logits)

    best = torch.cat([zero, torch.cumulative_trapezoid(-difference.sign(), densities.x)])
    assert read(best) == pytest.approx(distance, rel=3e-4)
    for other in (densities.x.sin(), -densities.x.sin(), 0.5 * densities.x, (densities.x - 0.3).abs()):
        assert read(other) < 0.95 * distance


def on_two_points(name, p, q, logit, *, paired):
    """The bound's reading for real at point 0 with probability p and fakes with q, logits (logit, 0), from 10 samples of each."""
    real = torch.tensor([logit] * round(10 * p) + [0.0] * round(10 * (1 - p)), dtype=torch.float64)
    fake = torch.tensor([logit] * round(10 * q) + [0.0] * round(10 * (1 - q)), dtype=torch.float64)
    if paired:  # every real with every fake
        real, fake = (side.flatten() for side in torch.meshgrid(real, fake, indexing="ij"))
    bound = LOSSES[name].bound
    assert bound.of == name
    return bound.offset - bound.scale * LOSSES[name].discriminator(real, fake).mean().item()


@pytest.mark.parametrize(("p", "q"), [(0.8, 0.3), (0.5, 0.1), (0.2, 0.9)])
def test_the_relativistic_bound_on_two_points_is_its_maximum_in_closed_form(p, q):
    """Only pairs at different points count: with probabilities a and b, (a + b) (log 2 - the entropy of a : b), at logit log(a/b)."""
    a, b = p * (1 - q), (1 - p) * q
    entropy = -sum(share / (a + b) * math.log(share / (a + b)) for share in (a, b))
    best = math.log(a / b)
    assert on_two_points("relativistic", p, q, best, paired=True) == pytest.approx((a + b) * (LOG_2 - entropy), rel=1e-12)
    for other in (best + 0.5, best - 0.5, 0.0, -best):
        assert on_two_points("relativistic", p, q, other, paired=True) < (a + b) * (LOG_2 - entropy) - 1e-3


@pytest.mark.parametrize("name", ["relativistic", "relativistic_average"])
def test_a_relativistic_bound_is_zero_for_equal_distributions_and_largest_for_disjoint_ones(name):
    paired, largest = name == "relativistic", LOSSES[name].bound.offset
    assert on_two_points(name, 0.4, 0.4, 0.0, paired=paired) == pytest.approx(0.0, abs=1e-15)
    for logit in (-2.0, -0.1, 0.1, 2.0):
        assert on_two_points(name, 0.4, 0.4, logit, paired=paired) < -1e-4
    assert on_two_points(name, 1.0, 0.0, 50.0, paired=paired) == pytest.approx(largest, rel=1e-14)
    assert largest == pytest.approx(LOG_2 if paired else 2.0 * LOG_2, rel=1e-15)
    between = on_two_points(name, 0.8, 0.3, 1.0, paired=paired)
    assert 0.05 < between < largest


def test_on_the_kernel_witness_the_two_players_of_mmd_have_minus_and_plus_the_unbiased_estimate():
    generator = torch.Generator().manual_seed(0)
    real, fake = (
        torch.randn(7, 3, dtype=torch.float64, generator=generator),
        torch.randn(7, 3, dtype=torch.float64, generator=generator) + 0.5,
    )
    loss, logits, wanted = LOSSES["mmd"], witness(real, fake), squared_mmd(real, fake)
    assert abs(wanted) > 0.01
    assert loss.discriminator(*logits).mean().item() == pytest.approx(-wanted, rel=1e-12)
    assert loss.generator(*logits).mean().item() == pytest.approx(wanted, rel=1e-12)
    assert loss.bound == ("squared_mmd", 0.0, 1.0)
    assert [name for name in LOSSES if LOSSES[name].on_witness] == ["mmd"]
