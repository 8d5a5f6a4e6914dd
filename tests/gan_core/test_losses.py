"""Every loss of LOSSES against its paper: values at any precision, gradients where the discriminator is sure, and what it estimates."""

import itertools
import math

import mpmath as mp
import pytest
import torch

from gan_core.losses import LOSSES
from tests.gan_core.exact import EXACT, omega

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
