import math

import pytest
import torch

from gan_core.divergences import DIVERGENCES
from gan_core.losses import LOSSES
from gan_core.theory import bounds, dirac, game, saturation, stability
from gan_core.theory.check import Check
from gan_core.theory.densities import PAIRS, Pair, gaussian, jensen_shannon, kullback_leibler_of_generator, quadrature
from gan_core.theory.optimal import expected_loss, logits_at, new_discriminator, train_to_optimum, value

COARSE = 4097


def chi_squared(mean_a, deviation_a, mean_b, deviation_b):
    """The integral of a^2 / b, less 1, of two Gaussians: Nielsen and Nock 2013 (1309.3029), with exponential families worked out."""
    precision = 2 / deviation_a**2 - 1 / deviation_b**2
    centre = (2 * mean_a / deviation_a**2 - mean_b / deviation_b**2) / precision
    exponent = centre**2 * precision / 2 - mean_a**2 / deviation_a**2 + mean_b**2 / (2 * deviation_b**2)
    return deviation_b / deviation_a**2 / math.sqrt(precision) * math.exp(exponent) - 1


def kl(mean_a, deviation_a, mean_b, deviation_b):
    return math.log(deviation_b / deviation_a) + (deviation_a**2 + (mean_a - mean_b) ** 2) / (2 * deviation_b**2) - 0.5


def squared_hellinger(mean_a, deviation_a, mean_b, deviation_b):
    """Without the factor 1/2 that some books have."""
    total = deviation_a**2 + deviation_b**2
    return 2 - 2 * math.sqrt(2 * deviation_a * deviation_b / total) * math.exp(-((mean_a - mean_b) ** 2) / (4 * total))


def total_variation(mean_a, deviation_a, mean_b, deviation_b):
    """From the two points where the densities are equal."""
    quadratic = 1 / (2 * deviation_b**2) - 1 / (2 * deviation_a**2)
    linear = mean_a / deviation_a**2 - mean_b / deviation_b**2
    constant = mean_b**2 / (2 * deviation_b**2) - mean_a**2 / (2 * deviation_a**2) + math.log(deviation_b / deviation_a)
    root = math.sqrt(linear**2 - 4 * quadratic * constant)
    ends = sorted([(-linear - root) / (2 * quadratic), (-linear + root) / (2 * quadratic)])

    def mass_between(mean, deviation):
        return (math.erf((ends[1] - mean) / deviation / math.sqrt(2)) - math.erf((ends[0] - mean) / deviation / math.sqrt(2))) / 2

    return abs(mass_between(mean_a, deviation_a) - mass_between(mean_b, deviation_b))


P, Q = (0.0, 1.0), (0.7, 1.3)
CLOSED = {
    "kl": kl(*P, *Q),
    "reverse_kl": kl(*Q, *P),
    "pearson": chi_squared(*P, *Q),
    "neyman": chi_squared(*Q, *P),
    "squared_hellinger": squared_hellinger(*P, *Q),
    "jeffreys": kl(*P, *Q) + kl(*Q, *P),
    "total_variation": total_variation(*P, *Q),
}


@pytest.mark.parametrize("name", CLOSED)
def test_quadrature_finds_the_closed_form_of_two_gaussians(name):
    accuracy = 1e-6 if name == "total_variation" else 1e-12
    assert bounds.divergence(name, quadrature(PAIRS["gaussians"])) == pytest.approx(CLOSED[name], rel=accuracy)


def test_neyman_needs_the_tail_beyond_ten():
    assert CLOSED["neyman"] == pytest.approx(5.711835010391744, rel=1e-12)
    cut = PAIRS["gaussians"]._replace(lower=-9.0, upper=9.0)
    assert bounds.divergence("neyman", quadrature(cut)) == pytest.approx(5.527904, abs=1e-6)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_no_divergence_changes_on_a_wider_interval(pair, name):
    chosen = PAIRS[pair]
    wider = chosen._replace(lower=1.1 * chosen.lower, upper=1.1 * chosen.upper)
    accuracy = 3e-6 if name == "total_variation" else 1e-10
    assert bounds.divergence(name, quadrature(wider)) == pytest.approx(bounds.divergence(name, quadrature(chosen)), abs=accuracy)


@pytest.mark.parametrize("pair", PAIRS)
def test_every_density_has_mass_one_and_jsd_is_half_its_f_divergence(pair):
    where = quadrature(PAIRS[pair], COARSE)
    ones = torch.ones_like(where.points)
    assert [where.mean_p(ones).item(), where.mean_q(ones).item()] == pytest.approx([1.0, 1.0], abs=1e-12)
    assert 2.0 * jensen_shannon(where).item() == pytest.approx(bounds.divergence("jensen_shannon", where), abs=1e-12)
    assert kullback_leibler_of_generator(where).item() == pytest.approx(bounds.divergence("reverse_kl", where), abs=1e-12)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_bound_is_the_divergence_at_the_optimal_output_and_at_the_optimal_logit(pair, name):
    """Fenchel's equality, through f* and through the loss that is trained with; 1606.00709, eq. 5."""
    where = quadrature(PAIRS[pair], COARSE)
    exact = bounds.divergence(name, where)
    assert bounds.largest_bound(name, where) == pytest.approx(exact, abs=1e-12)
    logits = DIVERGENCES[name].optimal_logit(where.log_ratio.exp())
    assert bounds.read(f"f_{name}", logits, where) == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("pair", PAIRS)
def test_the_value_of_the_game_is_that_of_theorem_one(pair):
    where = quadrature(PAIRS[pair], COARSE)
    assert value(where.log_ratio, where).item() == pytest.approx(-math.log(4.0) + 2.0 * jensen_shannon(where).item(), abs=1e-12)
    assert value(torch.zeros_like(where.points), where).item() == pytest.approx(-math.log(4.0), abs=1e-12)
    assert bounds.read("non_saturating", where.log_ratio, where) == pytest.approx(jensen_shannon(where).item(), abs=1e-12)


def test_the_expected_loss_weights_each_side_by_its_own_density():
    where = quadrature(PAIRS["mixture"], COARSE)
    logits = where.points.sin()
    apart = where.mean_p((logits - 1.0).square() / 2.0) + where.mean_q(logits.square() / 2.0)
    assert expected_loss(LOSSES["least_squares"].discriminator, logits, where).item() == pytest.approx(apart.item(), abs=1e-12)


def test_a_discriminator_trained_on_equal_densities_ends_at_one_half():
    equal = Pair("", gaussian(0.0, 1.0), gaussian(0.0, 1.0), -9.0, 9.0)
    where, discriminator = quadrature(equal, 257), new_discriminator()
    train_to_optimum(discriminator, LOSSES["non_saturating"].discriminator, where, iterations=60)
    with torch.no_grad():
        logits = logits_at(discriminator, where.points)
    assert 0.0 <= -math.log(4.0) - value(logits, where).item() < 1e-5
    assert (logits.sigmoid() - 0.5)[where.region].abs().max() < 0.01


@pytest.mark.parametrize(("loss", "missed"), [("f_kl", 1e-3), ("f_jeffreys", 0.03), ("non_saturating", 1e-3)])
def test_a_trained_discriminator_stays_below_the_divergence_and_comes_near(loss, missed):
    reached = bounds.compare("gaussians", loss, iterations=60)
    assert 0.0 < reached.missed_share < missed
    assert all(check.passes for check in bounds.checks([reached]))
    too_much = reached._replace(trained=reached.divergence + 1e-6)
    assert [check.passes for check in bounds.checks([too_much])] == [True, False]


def test_the_game_on_gaussians_starts_off_towards_the_data_with_an_optimal_discriminator_that_is_known():
    played = game.play((0, 10), iterations=100)
    start, later = played.looks
    assert (start.mean, start.deviation) == (game.START_MEAN, game.START_DEVIATION)
    assert later.mean > start.mean + 0.05
    assert later.best_value > start.best_value - 0.1
    assert played.path.shape == (11, 2)
    found = {check.name: check for check in game.checks(played)}
    assert {name for name, check in found.items() if not check.passes} == {"game/mean", "game/deviation"}
    assert found["game/0/value"].theory == pytest.approx(-0.4013665, abs=1e-6)


def test_the_paths_of_the_generator_are_those_of_an_affine_map():
    z = game.quantiles(64)
    assert [z.mean().item(), z.square().mean().item()] == pytest.approx([0.0, 1.0], abs=1e-12)
    made = game.AffineGenerator(-1.5, -1.2)(z)
    assert made.shape == (64, 1, 1, 1)
    assert [made.mean().item(), made.std(correction=0).item()] == pytest.approx([-1.5, 1.2], abs=1e-12)


@pytest.mark.parametrize("loss", saturation.EXACT_AND_ALTERNATIVE)
def test_the_exact_slope_is_the_ratio_of_densities_times_the_alternative_one(loss):
    ratios = torch.tensor([1e-3, 0.2, 1.0, 7.0], dtype=torch.float64)
    torch.testing.assert_close(saturation.exact_over_alternative(loss, ratios), ratios, rtol=1e-10, atol=0.0)


def test_a_sure_discriminator_leaves_the_minimax_generator_the_gradient_of_two_jsd():
    result = saturation.confident((0, 40), iterations=100)
    assert result.norms[1, 0] < 0.4 * result.norms[0, 0]
    assert result.norms[1, 1] > 5.0 * result.norms[0, 1]
    assert all(check.passes for check in saturation.checks(result))
    assert result.limits["minimax"].norm().item() == pytest.approx(0.00142746, rel=1e-4)
    assert result.limits["non_saturating"].norm().item() == pytest.approx(13.888556, rel=1e-4)


def path(shrinking):
    """From (1, 1) around the origin, each step `shrinking` times as far away as the one before."""
    steps = torch.arange(400, dtype=torch.float64)
    return (shrinking**steps)[:, None] * torch.stack([torch.cos(steps / 10), torch.sin(steps / 10)], 1)


def test_the_verdicts_on_the_dirac_gan_are_held_to_the_slopes_and_to_the_simulation():
    """At a logit of 0 the slopes are 1/2 for minimax, and 1/e and 1 for KL with the alternative objective."""
    centre = dirac.Verdict("minimax", "exact", "none", (0.5j, -0.5j), True, False, path(1.0))
    damped = dirac.Verdict("minimax", "exact", "r1", (-0.5 + 0j, -0.5 + 0j), True, True, path(0.95))
    root = complex(0.25 - math.exp(-1)) ** 0.5
    spiral = dirac.Verdict("f_kl", "alternative", "r1", (-0.5 + root, -0.5 - root), True, True, path(0.95))
    names = ["dirac/none/agreeing", "dirac/none/eigenvalues", "dirac/r1/agreeing", "dirac/r1/eigenvalues"]
    assert [(check.name, check.passes) for check in stability.checks([centre, damped, spiral])] == [(name, True) for name in names]
    assert [check.passes for check in stability.checks([centre, damped._replace(trajectory=path(1.0)), spiral])] == [
        True,
        True,
        False,
        True,
    ]
    assert [check.passes for check in stability.checks([centre, damped, spiral._replace(eigenvalues=(0.1j, -0.1j))])] == [
        True,
        True,
        True,
        False,
    ]


def test_a_check_is_two_sided_and_a_nan_fails_it():
    check = Check("a/b", "claim", theory=1.0, measured=1.25, low=-0.5, high=0.25)
    assert check.passes
    assert check.difference == 0.25
    assert not check._replace(measured=1.2500001).passes
    assert not check._replace(measured=0.4999).passes
    assert not check._replace(measured=math.nan).passes


def test_a_check_that_is_known_to_depart_from_theory_does_not_count_as_holding():
    check = Check("a/b", "claim", theory=1.0, measured=0.6, low=-0.5, high=-0.1)
    assert check.verdict == "holds"
    assert check._replace(departs="a reason").verdict == "differs as known"
    assert check._replace(departs="a reason", measured=1.0).verdict == "FAILS"
    assert check._replace(measured=1.0).verdict == "FAILS"
