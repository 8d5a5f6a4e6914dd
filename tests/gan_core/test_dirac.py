import cmath
import math

import pytest
import torch

from gan_core.losses import LOSSES
from gan_core.regularizers import REGULARIZERS, Given
from gan_core.theory import dirac
from gan_core.theory.dirac import (
    DIRAC_LOSSES,
    DIRAC_PENALTIES,
    START,
    STEP,
    eigenvalues,
    field_of,
    games,
    jacobians,
    psi_velocity,
    settles,
    spectra,
    theta_velocity,
    verdicts,
)

ZERO_SUM = ["minimax", *(name for name in DIRAC_LOSSES if name.startswith("f_"))]  # with the exact objective
ZERO_CENTRED = ["r1", "r2", "gp_zero_centred"]
UNIT_CENTRED = ["gp", "dragan"]
WITHOUT_SLOPE = ["gp_one_sided", "lecam"]  # penalties that are 0 to second order at the equilibrium


@pytest.fixture(scope="module")
def everything():
    return {verdict[:3]: verdict for verdict in verdicts()}


def slopes(loss, objective):
    """What the logit 0 does to each player's loss: (-dL_G/dv_f, dL_D/dv_f), without the Dirac-GAN's own code."""
    game = LOSSES[loss]
    sides = (game.generator if objective == "exact" else game.alternative_generator), game.discriminator
    found = []
    for side in sides:
        fake = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        side(torch.zeros_like(fake), fake).sum().backward()
        found.append(fake.grad.item())
    return -found[0], found[1]


def published(loss, objective, gamma):
    """Roots of x^2 + gamma x + f'(0)^2: 1801.04406, section 3, with f'(0)^2 for the product of the two players' slopes."""
    generator, discriminator = slopes(loss, objective)
    root = cmath.sqrt(gamma**2 / 4 - generator * discriminator)
    return -gamma / 2 + root, -gamma / 2 - root


def velocity(losses, penalties, theta, psi, gamma=1.0):
    played = games(losses, penalties)
    theta, psi = (torch.full((len(played),), at, dtype=torch.float64, requires_grad=True) for at in (theta, psi))
    field = field_of(played, gamma)
    return played, theta_velocity(field, theta, psi), psi_velocity(field, theta, psi)


def close(found, expected, tolerance=1e-7):
    return all(abs(left - right) < tolerance for left, right in zip(found, expected, strict=True))


@pytest.mark.parametrize("loss", ["minimax", "non_saturating", "relativistic", "f_jensen_shannon", "f_gan"])
def test_unregularised_logistic_games_have_eigenvalues_of_half_i_and_do_not_converge(everything, loss):
    verdict = everything[loss, "exact", "none"]
    assert close(verdict.eigenvalues, (0.5j, -0.5j))
    assert verdict.stationary and not verdict.converges


def test_the_unregularised_wasserstein_game_has_eigenvalues_of_i_and_does_not_converge():
    (verdict,) = verdicts(["wasserstein"], ["none"])  # alone: its theta' does not depend on theta at all
    assert close(verdict.eigenvalues, (1j, -1j))
    assert verdict.stationary and not verdict.converges


@pytest.mark.parametrize("penalty", ["none", *ZERO_CENTRED, *WITHOUT_SLOPE])
def test_eigenvalues_are_those_of_the_paper_for_every_loss(everything, penalty):
    """1801.04406: +-i f'(0) without a penalty, -gamma/2 +- sqrt(gamma^2/4 - f'(0)^2) with a zero-centred one."""
    gamma = 1.0 if penalty in ZERO_CENTRED else 0.0
    for (loss, objective, name), verdict in everything.items():
        if name == penalty:
            assert close(verdict.eigenvalues, published(loss, objective, gamma)), (loss, objective, verdict.eigenvalues)
            assert verdict.stationary


@pytest.mark.parametrize("penalty", ["r1", "r2"])
@pytest.mark.parametrize(
    ("gamma", "expected"),
    [
        (0.6, (-0.3 + 0.4j, -0.3 - 0.4j)),
        (0.99, (-0.495 + 0.07053367989832943j, -0.495 - 0.07053367989832943j)),
        (1.0, (-0.5, -0.5)),
        (1.01, (-0.505 + 0.07088723439378913, -0.505 - 0.07088723439378913)),
        (1.3, (-0.65 + 0.41533119314590374, -0.65 - 0.41533119314590374)),
        (2.6, (-0.1, -2.5)),
    ],
)
def test_the_logistic_game_is_critically_damped_at_gamma_one(penalty, gamma, expected):
    """gamma = 2 |f'(0)| = 1: a spiral below, a double root at it, two real roots above, of which the slower is slower again."""
    (roots,), (stationary,) = spectra(field_of(games(["non_saturating"], [penalty]), gamma), 1)
    assert close(roots, expected, 3e-8 if gamma == 1.0 else 1e-9)  # a double root has half the digits
    assert stationary


def test_without_a_bias_least_squares_has_an_eigenvalue_of_zero_whatever_the_penalty(everything):
    """Its generator stops where psi has died: theta is not at 0 and psi is."""
    assert slopes("least_squares", "exact") == (1.0, 0.0)
    for penalty in ZERO_CENTRED:
        verdict = everything["least_squares", "exact", penalty]
        assert close(verdict.eigenvalues, (0.0, -1.0))
        assert not verdict.converges
        theta, psi = verdict.trajectory[-1].tolist()
        assert abs(psi) < 1e-6
        assert 1.0 < theta < 1.5
        assert (verdict.trajectory[-1] - verdict.trajectory[-100]).abs().max() < 1e-6


@pytest.mark.parametrize("penalty", UNIT_CENTRED)
def test_wgan_gp_and_dragan_push_psi_away_from_zero_so_that_the_equilibrium_is_not_stationary(everything, penalty):
    """The one-sided limits of psi' are +-gamma, at +-0; 1801.04406, section 3.2."""
    for side in (1.0, -1.0):
        played, theta_speed, psi_speed = velocity(None, [penalty], side * 1e-8, side * 1e-8)
        assert len(played) == len(everything) // len(DIRAC_PENALTIES)
        torch.testing.assert_close(psi_speed, torch.full_like(psi_speed, side), rtol=1e-6, atol=0.0)
        assert theta_speed.abs().max() < 1e-7
    for verdict in everything.values():
        if verdict.penalty == penalty:
            assert not verdict.stationary and not verdict.converges


def test_which_games_converge(everything):
    """All with a zero-centred penalty, but for least squares; none without a penalty or with another one."""
    converging = {game for game, verdict in everything.items() if verdict.converges}
    expected = {game for game in everything if game[2] in ZERO_CENTRED and game[0] != "least_squares"}
    assert converging == expected
    assert len(expected) == 24 * 3 and len(everything) == 25 * 8


def test_every_trajectory_agrees_with_its_verdict(everything):
    wrong = [game for game, verdict in everything.items() if settles(verdict.trajectory) != verdict.converges]
    assert wrong == []


def test_the_trajectories_leave_no_doubt(everything):
    """At the end of it those that settle are within 0.001 of where they began, and the others are beyond 0.1."""
    last = {game: (verdict.trajectory[-40:].norm(dim=1).max() / math.sqrt(2)).item() for game, verdict in everything.items()}
    for game, verdict in everything.items():
        assert verdict.trajectory.shape == (401, 2) and verdict.trajectory[0].tolist() == [START, START]
        assert last[game] < 1e-3 if verdict.converges else 0.1 < last[game] < 5.0, game


@pytest.mark.parametrize("loss", ZERO_SUM)
def test_the_flow_of_an_unregularised_zero_sum_game_keeps_its_distance(loss):
    """theta theta' + psi psi' = 0: 1801.04406, section 2."""
    for theta, psi in ((0.7, -0.4), (-1.1, -0.3), (0.2, 0.9)):
        _, theta_speed, psi_speed = velocity([loss], ["none"], theta, psi)
        assert theta * theta_speed[0].item() + psi * psi_speed[0].item() == pytest.approx(0.0, abs=1e-15)
        assert abs(theta_speed[0].item()) > 0.1 * abs(psi)


def test_the_unregularised_non_saturating_game_creeps_inwards_and_does_not_settle(everything):
    """The squared distance has the slope -2 theta psi tanh(theta psi / 2), which makes it 8/t: not exponential."""
    theta, psi = 0.7, -0.4
    _, theta_speed, psi_speed = velocity(["non_saturating"], ["none"], theta, psi)
    slope = 2 * (theta * theta_speed.item() + psi * psi_speed.item())
    assert slope == pytest.approx(-2 * theta * psi * math.tanh(theta * psi / 2), rel=1e-12)
    square = everything["non_saturating", "exact", "none"].trajectory.square().sum(1)
    halves = [(1 / square[end] - 1 / square[start]).item() / ((end - start) * STEP) for start, end in ((0, 200), (200, 400))]
    assert halves == pytest.approx([1 / 8, 1 / 8], rel=0.15)  # 1/r^2 grows by t/8, at the end as at the start


def test_the_simulation_is_alternating_gradient_descent_with_the_discriminator_first(everything):
    """By hand for the linear game with R1: psi' = -theta - psi, then theta' = psi."""
    theta, psi = START, START
    for row in everything["wasserstein", "exact", "r1"].trajectory[:50]:
        assert row.tolist() == pytest.approx([theta, psi], abs=1e-14)
        psi += STEP * (-theta - psi)
        theta += STEP * psi


def test_the_jacobian_is_the_derivative_of_the_field_everywhere():
    theta, psi, beside = 0.3, -0.6, 1e-5
    played = games()
    at = [torch.full((len(played),), value, dtype=torch.float64) for value in (theta, psi)]
    found = jacobians(field_of(played, 1.0), *at)
    for column, (along_theta, along_psi) in enumerate(((beside, 0.0), (0.0, beside))):
        ahead = velocity(None, None, theta + along_theta, psi + along_psi)[1:]
        behind = velocity(None, None, theta - along_theta, psi - along_psi)[1:]
        difference = torch.stack([(one - other) / (2 * beside) for one, other in zip(ahead, behind, strict=True)], 1)
        torch.testing.assert_close(found[:, :, column], difference, rtol=1e-6, atol=1e-8)


def test_the_eigenvalues_of_a_matrix_of_two_are_right():
    matrices = torch.randn(20, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for matrix in matrices:
        for root in eigenvalues(matrix):
            shifted = matrix.to(torch.complex128) - root * torch.eye(2, dtype=torch.complex128)
            assert abs(torch.linalg.det(shifted)) < 1e-12
        assert sum(eigenvalues(matrix)).real == pytest.approx(matrix.trace().item(), abs=1e-12)


def test_games_side_by_side_do_not_touch():
    """Each at a point of its own, also under the losses that look across their batch: the speeds are those of the game alone."""
    played, chance = games(), torch.Generator().manual_seed(0)
    theta, psi = (torch.randn(len(played), dtype=torch.float64, generator=chance).requires_grad_() for _ in range(2))
    field = field_of(played, 1.0)
    together = torch.stack([theta_velocity(field, theta, psi), psi_velocity(field, theta, psi)], 1)
    for place, game in enumerate(played):
        alone, at = field_of([game], 1.0), (theta[place : place + 1], psi[place : place + 1])
        speeds = torch.cat([theta_velocity(alone, *at), psi_velocity(alone, *at)])
        torch.testing.assert_close(speeds, together[place], rtol=1e-12, atol=1e-14, msg=str(game))


def slope_of_penalty(name, uniform, anchors):
    theta, psi = 0.4, torch.tensor([0.8], dtype=torch.float64, requires_grad=True)
    real, fake = (torch.full((1, 1, 1, 1), at, dtype=torch.float64) for at in (0.0, theta))
    given = Given(uniforms=torch.full((1, 1), uniform, dtype=torch.float64), anchors=anchors)
    value = REGULARIZERS[name](lambda images, labels: psi * images.flatten(), real, fake, given=given)
    return torch.autograd.grad(value.sum(), psi)[0].item()


@pytest.mark.parametrize("name", DIRAC_PENALTIES[1:])
def test_where_a_penalty_looks_and_how_lecam_is_anchored_make_no_difference(name):
    """As the module says: any uniform number, and the batch's means, running ones or 0 for the fakes' anchor."""
    expected = slope_of_penalty(name, 0.5, torch.zeros(2, dtype=torch.float64))
    for uniform in (0.05, 0.95):
        assert slope_of_penalty(name, uniform, None) == pytest.approx(expected, abs=1e-15)
        assert slope_of_penalty(name, uniform, torch.tensor([0.0, 0.7], dtype=torch.float64)) == pytest.approx(expected, abs=1e-15)
    by_hand = {"r1": 1.6, "r2": 1.6, "gp_zero_centred": 1.6, "gp": -0.4, "dragan": -0.4, "gp_one_sided": 0.0, "lecam": 2 * 0.8 * 0.4**2}
    assert expected == pytest.approx(by_hand[name], abs=1e-15)


def test_only_mmd_and_bcr_are_left_out():
    assert set(LOSSES) - set(DIRAC_LOSSES) == {"mmd"}
    assert {"none", *REGULARIZERS} - set(DIRAC_PENALTIES) == {"bcr"}


def test_a_name_that_is_not_there_lists_the_choices():
    with pytest.raises(ValueError, match=r"the Dirac-GAN has no loss 'mmd'; choose from minimax, .*f_total_variation"):
        verdicts(["mmd"])
    with pytest.raises(ValueError, match=r"the Dirac-GAN has no penalty 'bcr'; choose from none, r1, .*lecam"):
        verdicts(["hinge"], ["bcr"])
    assert verdicts([]) == []


def test_the_fate_of_a_game_is_what_its_simulation_does():
    found = {(each.loss, each.penalty): dirac.fate(each) for each in dirac.verdicts(["wasserstein", "non_saturating", "least_squares"])}
    assert found["wasserstein", "none"] == "circles"
    assert found["wasserstein", "r1"] == "converges"
    assert found["wasserstein", "gp"] == "no rest at 0"
    assert found["non_saturating", "none"] == "creeps"
    assert found["non_saturating", "lecam"] == "creeps"
    assert found["least_squares", "r1"] == "stops off 0"
    far = {dirac.fate(each) for each in dirac.verdicts(["f_total_variation"], ["none"])}
    assert far == {"drifts off"}
    assert set(found.values()) | far == set(dirac.FATES)
