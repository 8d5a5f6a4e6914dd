"""Every loss of LOSSES against its paper: values at any precision, gradients where the discriminator is sure, and what it estimates."""

import itertools
import math

import mpmath as mp
import pytest
import torch

from gan_core.divergences import DIVERGENCES
from gan_core.losses import LOSSES
from gan_core.two_sample import witness
from tests.gan_core.exact import EXACT, PAIRS, omega, squared_mmd

LOG_2 = math.log(2.0)
each_loss = pytest.mark.parametrize("name", LOSSES)


def probability(logit):
    return 1 / (1 + mp.exp(-logit))


# As the papers write them, with D = sigmoid(logit) in probabilities, for mpmath numbers: (real, fake, mean real, mean fake).
def cross_entropy(r, f, mr, mf):
    return -mp.log(probability(r)) - mp.log(1 - probability(f))


PUBLISHED = {
    "minimax": (cross_entropy, lambda r, f, mr, mf: mp.log(1 - probability(f)), None),
    "non_saturating": (cross_entropy, lambda r, f, mr, mf: -mp.log(probability(f)), None),
    "least_squares": (lambda r, f, mr, mf: (r - 1) ** 2 / 2 + f**2 / 2, lambda r, f, mr, mf: (f - 1) ** 2 / 2, None),
    "hinge": (lambda r, f, mr, mf: -min(0, -1 + r) - min(0, -1 - f), lambda r, f, mr, mf: -f, None),
    "wasserstein": (lambda r, f, mr, mf: f - r, lambda r, f, mr, mf: -f, None),
    "relativistic": (
        lambda r, f, mr, mf: -mp.log(probability(r - f)),
        lambda r, f, mr, mf: -mp.log(probability(f - r)),
        None,
    ),
    "relativistic_average": (
        lambda r, f, mr, mf: -mp.log(probability(r - mf)) - mp.log(1 - probability(f - mr)),
        lambda r, f, mr, mf: -mp.log(probability(f - mr)) - mp.log(1 - probability(r - mf)),
        None,
    ),
    "mmd": (lambda r, f, mr, mf: f - r, lambda r, f, mr, mf: r - f, None),
    **{
        f"f_{name}": (
            lambda r, f, mr, mf, e=exact: -e.activation(r) + e.conjugate(e.activation(f)),
            lambda r, f, mr, mf, e=exact: -e.conjugate(e.activation(f)),
            lambda r, f, mr, mf, e=exact: -e.activation(f),
        )
        for name, exact in EXACT.items()
    },
}


def sides(name):
    """The functions of a loss, each with its published form; the alternative generator's is None for both where there is none."""
    loss = LOSSES[name]
    assert (loss.alternative_generator is None) == (PUBLISHED[name][2] is None)
    pairs = zip((loss.discriminator, loss.generator, loss.alternative_generator), PUBLISHED[name])
    return [(function, published) for function, published in pairs if function is not None]


def published_values(published, real, fake, digits):
    with mp.workdps(digits):
        real, fake = [mp.mpf(value) for value in real.tolist()], [mp.mpf(value) for value in fake.tolist()]
        mean_real, mean_fake = sum(real) / len(real), sum(fake) / len(fake)
        return [published(r, f, mean_real, mean_fake) for r, f in zip(real, fake)]


@each_loss
def test_a_loss_equals_its_published_form(name):
    grid = torch.linspace(-6.3, 6, 9, dtype=torch.float64)
    real, fake = (side.flatten() for side in torch.meshgrid(grid, grid, indexing="ij"))
    for function, published in sides(name):
        wanted = torch.tensor([float(value) for value in published_values(published, real, fake, 40)], dtype=torch.float64)
        torch.testing.assert_close(function(real, fake), wanted, rtol=1e-14, atol=4e-15)


@each_loss
def test_a_loss_gives_one_value_a_sample_and_right_gradients(name):
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(5, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2))
    for function, _ in sides(name):
        assert function(real, fake).shape == (5,)
        assert torch.autograd.gradcheck(function, (real, fake))


@each_loss
def test_float32_losses_are_finite_and_right_wherever_their_values_are_floats(name):
    """Logits of a thousand included: a value is infinite only where the published form is beyond float32 itself."""
    extremes = torch.tensor([-1000.0, -80.0, 2.0, 1000.0])
    real, fake = (side.flatten() for side in torch.meshgrid(extremes, extremes, indexing="ij"))
    limits = torch.finfo(torch.float32)
    for function, published in sides(name):
        found = function(real, fake).tolist()
        assert function(real, fake).dtype == torch.float32
        for value, wanted, r, f in zip(found, published_values(published, real, fake, 480), real.tolist(), fake.tolist()):
            if abs(wanted) <= limits.max:
                assert value == pytest.approx(float(wanted), rel=1e-5, abs=1e-6), (r, f)
            else:
                assert not math.isfinite(value), (r, f)


def generator_gradient(function, logit, real_logit):
    fake = torch.tensor([logit], dtype=torch.float64, requires_grad=True)
    function(torch.full_like(fake, real_logit, requires_grad=False), fake).sum().backward()
    return fake.grad.item()


# With D certain of a fake at logit v: the gradient of what the generator minimises, exact objective and alternative, to leading order.
VANISHES, STAYS, GROWS = "vanishes", "stays", "grows"
WHEN_CERTAIN = {
    "minimax": ((VANISHES, lambda v: -math.exp(v)), None),
    "non_saturating": ((STAYS, lambda v: -1.0), None),
    "least_squares": ((GROWS, lambda v: v - 1.0), None),
    "hinge": ((STAYS, lambda v: -1.0), None),
    "wasserstein": ((STAYS, lambda v: -1.0), None),
    "relativistic": ((STAYS, lambda v: -1.0), None),
    "relativistic_average": ((STAYS, lambda v: -2.0), None),  # both terms pull
    "mmd": ((STAYS, lambda v: -1.0), None),
    "f_kl": ((VANISHES, lambda v: -math.exp(v - 1.0)), (STAYS, lambda v: -1.0)),
    "f_reverse_kl": ((STAYS, lambda v: -1.0), (GROWS, lambda v: -math.exp(-v))),
    "f_pearson": ((GROWS, lambda v: -v / 2.0 - 1.0), (STAYS, lambda v: -1.0)),  # exact: it turns round at -2 and grows the wrong way
    "f_neyman": ((GROWS, lambda v: -math.exp(-v / 2.0)), (GROWS, lambda v: -math.exp(-v))),
    "f_squared_hellinger": ((VANISHES, lambda v: -math.exp(v)), (GROWS, lambda v: -math.exp(-v))),
    "f_jensen_shannon": ((VANISHES, lambda v: -math.exp(v)), (STAYS, lambda v: -1.0)),
    "f_gan": ((VANISHES, lambda v: -math.exp(v)), (STAYS, lambda v: -1.0)),
    "f_jeffreys": ((VANISHES, lambda v: -1.0 / float(omega(1.0 - v))), (STAYS, lambda v: -1.0)),  # slowly: as 1/v
    "f_total_variation": ((VANISHES, lambda v: -2.0 * math.exp(2.0 * v)), (VANISHES, lambda v: -2.0 * math.exp(2.0 * v))),
}


@each_loss
def test_the_generators_gradient_where_the_discriminator_is_certain(name):
    loss = LOSSES[name]
    for function, expected in zip((loss.generator, loss.alternative_generator), WHEN_CERTAIN[name]):
        assert (function is None) == (expected is None)
        if expected is None:
            continue
        kind, slope = expected
        real_logit = 30.0 if loss.generator_reads_real else math.nan
        at_30, at_60 = (generator_gradient(function, v, real_logit) for v in (-30.0, -60.0))
        assert at_30 == pytest.approx(slope(-30.0), rel=1e-12, abs=0.0)
        assert at_60 == pytest.approx(slope(-60.0), rel=1e-12, abs=0.0)
        if kind == STAYS:
            assert at_60 == pytest.approx(at_30, rel=1e-9, abs=0.0)
            assert -2.0 <= at_60 <= -1.0
        else:
            ratio = at_60 / at_30
            assert 0.0 <= ratio < 0.5 if kind == VANISHES else ratio > 1.9
            assert abs(at_30) < 0.04 if kind == VANISHES else abs(at_30) > 10.0


@pytest.mark.parametrize(
    ("name", "slope"),
    [
        ("minimax", lambda v: -1.0 / (1.0 + math.exp(-v))),
        ("f_kl", lambda v: -math.exp(v - 1.0)),
        ("f_gan", lambda v: -1.0 / (1.0 + math.exp(-v))),
        ("f_jensen_shannon", lambda v: -1.0 / (1.0 + math.exp(-v))),
        ("f_squared_hellinger", lambda v: -math.exp(v)),
        ("f_total_variation", lambda v: -0.5 / math.cosh(v) ** 2),
    ],
)
def test_a_vanishing_gradient_keeps_its_digits_in_float32(name, slope):
    """PyTorch's own gradients of expm1 and tanh are 0 there; Adam sees the difference, since it divides by the size."""
    fake = torch.tensor([-10.0, -20.0, -35.0], requires_grad=True)
    LOSSES[name].generator(torch.full((3,), torch.nan), fake).sum().backward()
    assert fake.grad.tolist() == pytest.approx([slope(-10.0), slope(-20.0), slope(-35.0)], rel=1e-5, abs=0.0)


def test_the_minimax_generator_saturates_and_the_non_saturating_one_does_not():
    """1406.2661, section 3: with D sure of a fake at logit v, the gradients are -sigmoid(v) and -sigmoid(-v)."""
    minimax, non_saturating = LOSSES["minimax"].generator, LOSSES["non_saturating"].generator
    assert generator_gradient(minimax, -20.0, math.nan) == pytest.approx(-2.0611536181902037e-09, rel=1e-12, abs=0.0)
    assert generator_gradient(non_saturating, -20.0, math.nan) == pytest.approx(-0.9999999979388464, rel=1e-12)
    assert generator_gradient(minimax, 0.0, math.nan) == generator_gradient(non_saturating, 0.0, math.nan) == -0.5


def test_exponential_gradients_are_where_the_module_says():
    """Of the discriminator's loss: (loss, side, sign of the logit) with a gradient above a million at a logit of 60."""
    found = set()
    for name, side, logit in itertools.product(LOSSES, (0, 1), (-60.0, 60.0)):
        logits = [torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        with torch.no_grad():
            logits[side].fill_(logit)
        LOSSES[name].discriminator(*logits).sum().backward()
        if logits[side].grad.abs().item() > 1e6:
            found.add((name, ("real", "fake")[side], logit > 0.0))
    assert found == {
        ("f_kl", "fake", True),
        ("f_squared_hellinger", "fake", True),
        ("f_jeffreys", "fake", True),
        ("f_reverse_kl", "real", False),
        ("f_neyman", "real", False),
        ("f_neyman", "fake", False),
        ("f_squared_hellinger", "real", False),
    }


@each_loss
def test_a_loss_says_what_its_generator_reads(name):
    loss = LOSSES[name]
    logits = torch.linspace(-1, 2, 4, dtype=torch.float64)
    for generator in (loss.generator, loss.alternative_generator):
        if generator is not None:
            without_real = generator(torch.full_like(logits, torch.nan), logits)
            assert without_real.isnan().all() if loss.generator_reads_real else without_real.isfinite().all()


@each_loss
def test_a_loss_says_whether_a_samples_value_depends_on_the_others(name):
    loss = LOSSES[name]
    real, fake = torch.linspace(-1, 2, 4, dtype=torch.float64), torch.linspace(1, -2, 4, dtype=torch.float64)
    for function, _ in sides(name):
        for side in range(2):
            others = [real.clone(), fake.clone()]
            others[side][1:] += 0.7
            moved = (function(*others)[0] - function(real, fake)[0]).abs().item()
            assert moved > 1e-3 if loss.across_batch else moved == 0.0


def test_the_relativistic_average_takes_the_means_of_the_batch():
    real, fake = torch.tensor([1.0, 3.0], dtype=torch.float64), torch.tensor([-2.0, 1.0], dtype=torch.float64)
    softplus = lambda x: math.log1p(math.exp(x))  # noqa: E731
    found = LOSSES["relativistic_average"].discriminator(real, fake).tolist()
    assert found == pytest.approx([softplus(-1.5) + softplus(-4.0), softplus(-3.5) + softplus(-1.0)], rel=1e-14)


def test_at_equilibrium_the_value_is_minus_log_four():
    """1406.2661, theorem 1: D = 1/2 everywhere gives V = -log 4, and our discriminator minimises -V."""
    zero = torch.zeros(1, dtype=torch.float64)
    assert LOSSES["minimax"].discriminator(zero, zero).item() == pytest.approx(1.3862943611198906, rel=1e-14)


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
