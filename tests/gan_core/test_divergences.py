"""Every row of DIVERGENCES against its definition, at 50 digits and more, and by quadrature for three pairs of densities."""

import math

import mpmath as mp
import pytest
import torch

from gan_core.divergences import DIVERGENCES, log_omega, softplus
from tests.gan_core.exact import EXACT, PAIRS, omega

U = torch.logspace(-3, 3, 61, dtype=torch.float64)
LOGITS = torch.cat([torch.linspace(-80, 80, 41), torch.linspace(-2.9, 3.1, 21)])
DIGITS = 100  # 1 - e^(-80) leaves 65 of them
each_divergence = pytest.mark.parametrize("name", DIVERGENCES)


def exactly(function, values):
    """mpmath's `function` at each of `values`, as mpmath numbers."""
    with mp.workdps(DIGITS):
        return [function(mp.mpf(value)) for value in values.tolist()]


def as_tensor(numbers):
    return torch.tensor([float(number) for number in numbers], dtype=torch.float64)


def off_by(found, exact, scale):
    """The largest |found - exact| / scale."""
    with mp.workdps(DIGITS):
        return max(float(abs(a - b) / c) for a, b, c in zip(found.tolist(), exact, scale, strict=True))


def test_every_divergence_has_its_exact_row():
    assert DIVERGENCES.keys() == EXACT.keys()


@each_divergence
def test_f_is_its_published_form_and_nothing_where_the_densities_are_equal(name):
    f = DIVERGENCES[name].f
    torch.testing.assert_close(f(U), as_tensor(exactly(EXACT[name].f, U)), rtol=1e-12, atol=1e-12)
    at_one = -math.log(4.0) if name == "gan" else 0.0
    assert f(torch.ones((), dtype=torch.float64)).item() == pytest.approx(at_one, abs=1e-15)


@each_divergence
def test_f_is_convex(name):
    f = DIVERGENCES[name].f
    left, right = torch.meshgrid(U, U, indexing="ij")
    sag = (f(left) + f(right)) / 2.0 - f((left + right) / 2.0)
    assert (sag >= -1e-12 * (f(left).abs() + f(right).abs())).all()
    across = (left < 0.5) & (right > 2.0)
    assert (sag[across] > 0.1).all()  # no straight line, which would be convex too


def supremum(f, t):
    """Of u t - f(u) over u > 0: concave in u, so with a single top in log u, found by thirds."""
    with mp.workdps(30):
        value = lambda log_u: mp.exp(log_u) * t - f(mp.exp(log_u))  # noqa: E731
        low, high = mp.mpf(-60), mp.mpf(60)
        for _ in range(100):
            third = (high - low) / 3
            low, high = (low + third, high) if value(low + third) < value(high - third) else (low, high - third)
        return float(value(low))


@each_divergence
def test_the_conjugate_is_the_supremum_of_its_definition(name):
    exact = EXACT[name]
    points = [t for t in (-7.0, -1.9, -0.9, -0.45, -0.1, 0.05, 0.3, 0.45, 0.66, 0.9, 2.0, 5.0) if exact.inside(t)]
    if name == "pearson":
        points = [t for t in points if t >= -2.0]  # below, the top of the parabola lies at a u < 0
    assert len(points) >= 5
    found = DIVERGENCES[name].conjugate(torch.tensor(points, dtype=torch.float64))
    wanted = torch.tensor([supremum(exact.f, t) for t in points], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-14)


def test_below_their_slope_at_zero_two_published_conjugates_are_above_the_supremum():
    """u t - f(u) is then largest at u = 0, with -f(0); the paper's larger value keeps the bound a bound."""
    t = torch.tensor([-0.6, -2.0, -3.0, -10.0], dtype=torch.float64)
    below = DIVERGENCES["total_variation"].conjugate(t)
    assert torch.equal(below, torch.full_like(t, torch.inf))
    assert supremum(EXACT["total_variation"].f, -0.6) == pytest.approx(-0.5, abs=1e-12)
    assert DIVERGENCES["pearson"].conjugate(t).tolist() == pytest.approx([-0.51, -1.0, -0.75, 15.0], rel=1e-14)
    assert supremum(EXACT["pearson"].f, -10.0) == pytest.approx(-1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "edge", "value_at_edge"),
    [
        ("reverse_kl", 0.0, math.inf),
        ("neyman", 1.0, 2.0),
        ("squared_hellinger", 1.0, math.inf),
        ("jensen_shannon", math.log(2.0), math.inf),
        ("gan", 0.0, math.inf),
        ("total_variation", 0.5, 0.5),
    ],
)
def test_the_conjugate_is_infinite_outside_its_domain(name, edge, value_at_edge):
    t = torch.tensor([edge, edge + 1e-9, edge + 0.5, edge + 50.0], dtype=torch.float64)
    assert DIVERGENCES[name].conjugate(t).tolist() == [value_at_edge, math.inf, math.inf, math.inf]
    assert DIVERGENCES[name].conjugate(t[:1] - 1e-9).isfinite().all()
    with mp.workdps(30):
        assert (edge + 0.5) * mp.mpf(10) ** 12 - EXACT[name].f(mp.mpf(10) ** 12) > 1e9  # the supremum's terms grow without end


@pytest.mark.parametrize("name", ["kl", "pearson", "jeffreys"])
def test_a_conjugate_without_an_edge_is_finite_everywhere(name):
    assert DIVERGENCES[name].conjugate(torch.tensor([-300.0, 0.0, 300.0], dtype=torch.float64)).isfinite().all()


@each_divergence
def test_the_activation_increases_and_lands_in_the_domain(name):
    d = DIVERGENCES[name]
    v = torch.linspace(-15, 15, 301, dtype=torch.float64)
    assert (d.activation(v).diff() > 0.0).all()
    assert d.conjugate(d.activation(v)).isfinite().all()


@each_divergence
def test_the_optimal_t_is_the_slope_of_f(name):
    u = U[U != 1.0] if name == "total_variation" else U
    slope = as_tensor(exactly(lambda x: mp.diff(EXACT[name].f, x), u))
    torch.testing.assert_close(DIVERGENCES[name].optimal(u), slope, rtol=1e-12, atol=1e-12)
    leaf = u.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(DIVERGENCES[name].f(leaf).sum(), leaf)
    torch.testing.assert_close(gradient, slope, rtol=1e-11, atol=1e-11)


@each_divergence
def test_f_and_its_conjugate_meet_at_the_optimal_t(name):
    """Fenchel's equality f(u) + f*(f'(u)) = u f'(u), and the inequality everywhere else."""
    d, t = DIVERGENCES[name], DIVERGENCES[name].optimal(U)
    torch.testing.assert_close(d.f(U) + d.conjugate(t), U * t, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(d.f(U) + d.conjugate_of_activation(d.optimal_logit(U)), U * t, rtol=1e-9, atol=1e-12)
    others = t[None, :].expand(len(U), -1)
    slack = d.f(U)[:, None] + d.conjugate(others) - U[:, None] * others
    assert (slack >= -1e-12 * (U[:, None] * others).abs() - 1e-12).all()


@each_divergence
def test_the_optimal_logit_is_that_of_the_optimal_t(name):
    d = DIVERGENCES[name]
    torch.testing.assert_close(d.activation(d.optimal_logit(U)), d.optimal(U), rtol=1e-12, atol=1e-14)
    one = torch.ones(1, dtype=torch.float64)
    assert d.activation(d.optimal_logit(one)).item() == pytest.approx(d.optimal(one).item(), abs=1e-15)


def test_the_best_logits_of_the_total_variation_are_infinite():
    found = DIVERGENCES["total_variation"].optimal_logit(torch.tensor([0.0, 0.999, 1.0, 1.001, 1e9], dtype=torch.float64))
    assert found.tolist() == [-math.inf, -math.inf, 0.0, math.inf, math.inf]


def test_the_optimal_t_of_the_gan_keeps_its_digits_where_it_vanishes():
    u = torch.tensor([1e-300, 1e-8, 1e8, 1e15], dtype=torch.float64)
    wanted = as_tensor(exactly(lambda x: -mp.log1p(1 / x), u))
    torch.testing.assert_close(DIVERGENCES["gan"].optimal(u), wanted, rtol=1e-15, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("part", ["activation", "conjugate_of_activation"])
@each_divergence
def test_the_closed_forms_are_exact_with_exact_gradients_from_minus_80_to_80(name, part, dtype):
    """Of the conjugate against the naive composition f*(g(v)), which overflows or cancels in floating point.

    Values are within 4 units of the last place, of 1 + |value| + the change of the value as the logit moves by its own last place.
    Gradients are within 4 + |v| units of the last place of THEMSELVES, also where they vanish: Adam divides by their size.
    """
    exact = EXACT[name]
    whole = exact.activation if part == "activation" else lambda v: exact.conjugate(exact.activation(v))
    v = LOGITS.to(dtype).requires_grad_()
    values = getattr(DIVERGENCES[name], part)(v)
    (gradients,) = torch.autograd.grad(values.sum(), v)
    assert values.isfinite().all()
    assert gradients.isfinite().all()

    wanted, slopes = exactly(whole, v.detach()), exactly(lambda x: mp.diff(whole, x), v.detach())
    unit = torch.finfo(dtype).eps
    move = [abs(float(slope) * logit) for slope, logit in zip(slopes, v.tolist())]
    assert off_by(values.detach(), wanted, [1.0 + abs(value) + by for value, by in zip(wanted, move)]) < 4.0 * unit
    smallest = torch.finfo(dtype).tiny / unit
    by_size = [abs(slope) * (4.0 + abs(logit)) + smallest for slope, logit in zip(slopes, v.tolist())]
    assert off_by(gradients, slopes, by_size) < unit


@each_divergence
def test_the_closed_forms_can_be_differentiated_twice(name):
    v = torch.tensor([-4.0, -1.3, -0.2, 0.4, 1.1, 3.7], dtype=torch.float64, requires_grad=True)
    for part in (DIVERGENCES[name].activation, DIVERGENCES[name].conjugate_of_activation):
        assert torch.autograd.gradcheck(part, v)
        assert torch.autograd.gradgradcheck(part, v)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 4e-16), (torch.float32, 2e-7)], ids=str)
def test_log_omega_solves_its_equation_from_minus_750_to_800(dtype, tolerance):
    x = torch.cat([torch.linspace(-750, 800, 156), torch.linspace(-5, 8, 66)]).to(dtype).requires_grad_()
    root = log_omega(x)
    (gradient,) = torch.autograd.grad(root.sum(), x)
    wanted = exactly(lambda value: mp.log(omega(value)), x.detach())
    slopes = exactly(lambda value: 1 / (1 + omega(value)), x.detach())
    assert off_by(root.detach(), wanted, [1.0 + abs(value) for value in wanted]) < tolerance
    assert off_by(gradient, slopes, slopes) < 8.0 * tolerance


def test_log_omega_and_its_compositions_can_be_differentiated_twice():
    x = torch.tensor([-30.0, -2.0, 0.3, 0.99, 1.01, 4.0, 60.0], dtype=torch.float64, requires_grad=True)
    for function in (log_omega, lambda x: log_omega(x).exp() * x, lambda x: log_omega(1.0 - log_omega(x).sin()).square()):
        assert torch.autograd.gradcheck(function, x)
        assert torch.autograd.gradgradcheck(function, x)


def test_softplus_is_exact_where_pytorchs_own_is_not():
    v = torch.tensor([-700.0, -30.0, 0.0, 19.0, 20.5, 39.0, 41.0, 700.0], dtype=torch.float64)
    wanted = exactly(lambda x: mp.log1p(mp.exp(x)), v)
    assert off_by(softplus(v), wanted, wanted) < 3e-16
    assert off_by(torch.nn.functional.softplus(v), wanted, wanted) > 3e-11


@pytest.mark.parametrize("pair", PAIRS)
@each_divergence
def test_the_bound_at_the_optimal_t_is_the_divergence(name, pair):
    d, densities = DIVERGENCES[name], PAIRS[pair]
    divergence = densities.over_q(d.f(densities.u))
    if name in densities.closed:
        kink = name == "total_variation"
        assert divergence == pytest.approx(densities.closed[name], rel=1e-6 if kink else 1e-9)

    def bound(v):
        return densities.over_p(d.activation(v)) - densities.over_q(d.conjugate_of_activation(v))

    best = d.optimal_logit(densities.u)
    assert bound(best) == pytest.approx(divergence, rel=1e-8)
    near = best.clamp(-1.5, 1.5)
    for other in (near * 0.7, near + 0.5, near - 0.5, near + 0.4 * (3.0 * densities.x).sin(), torch.zeros_like(near)):
        assert -math.inf < bound(other) < divergence - 1e-3


def test_the_quadratures_of_symmetric_divergences_agree_with_each_other():
    """2 JSD, from its own definition by Kullback-Leibler divergences to the middle; the game's own is less by log 4."""
    for densities in PAIRS.values():
        p, q = densities.log_p.exp(), densities.log_q.exp()
        middle = ((p + q) / 2.0).log()
        twice = densities.over_p(densities.log_p - middle) + densities.over_q(densities.log_q - middle)
        assert densities.over_q(DIVERGENCES["jensen_shannon"].f(densities.u)) == pytest.approx(twice, rel=1e-9)
        assert densities.over_q(DIVERGENCES["gan"].f(densities.u)) == pytest.approx(twice - math.log(4.0), rel=1e-9)
        half = densities.integral((p - q).abs()) / 2.0
        assert densities.over_q(DIVERGENCES["total_variation"].f(densities.u)) == pytest.approx(half, rel=1e-9)


def test_the_divergences_of_two_gaussians_have_the_figures_of_the_design():
    """For N(0,1) and N(0.7,1.3); Neyman's is 5.527904 only on a grid that ends before the tail of q^2/p does."""
    figures = {
        "kl": 0.203193,
        "reverse_kl": 0.327636,
        "pearson": 0.345897,
        "neyman": 5.711835,
        "squared_hellinger": 0.121275,
        "jensen_shannon": 0.113847,
        "gan": -1.272447,
        "jeffreys": 0.530828,
        "total_variation": 0.259102,
    }
    densities = PAIRS["N(0,1) and N(0.7,1.3)"]
    for name, d in DIVERGENCES.items():
        assert densities.over_q(d.f(densities.u)) == pytest.approx(figures[name], abs=6e-7), name
