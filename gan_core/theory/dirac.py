"""The Dirac-GAN (Mescheder et al. 2018, 1801.04406, definition 2.1): which loss with which penalty converges, computed and simulated.

The data is the point 0, the generator makes the point theta and the discriminator is D(x) = psi x, so that (0, 0) is the only
equilibrium. Everything goes through the losses and penalties that are trained with, on images of shape [1, 1, 1].

With f' the slope of both players' losses at a logit of 0, the eigenvalues at (0, 0) are +-i f'(0) without a penalty (section 2 of the
paper) and -gamma/2 +- sqrt(gamma^2/4 - f'(0)^2) with R1 or R2 (section 3): gamma = 2 |f'(0)| is critical damping. What is particular to
this little game:

* A linear discriminator has the same slope everywhere. So R1, R2 and the zero-centred penalty are one penalty here, WGAN-GP and
  DRAGAN another, and the uniform numbers that place the last three change nothing: they are held at 1/2.
* LeCam is (psi theta)^2, of fourth order. Its anchors are held at 0; as the real logit is 0 whatever psi, means of the batch or
  running ones give the same field.
* `least_squares` has labels 1 and 0. At the equilibrium its discriminator wants the logit 1/2, which it cannot have without a
  bias; the slope of v_f^2 / 2 is 0 there, and so is an eigenvalue, with any penalty. The generator stops where psi has died, not at 0.
* `mmd` is left out: its logits are not the discriminator's own but a kernel witness between batches of features, which a single
  point does not have. `bcr` is left out: it shifts images, and a point cannot be shifted.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from gan_core.losses import LOSSES, LossFunction
from gan_core.regularizers import REGULARIZERS, Given, Regularizer

NONE = "none"
DIRAC_LOSSES = tuple(name for name, loss in LOSSES.items() if not loss.on_witness)
DIRAC_PENALTIES = (NONE, *(name for name in REGULARIZERS if name != "bcr"))
BESIDE = 1e-8  # just beside the origin: what is of order BESIDE^2 is below the last bit of a slope in float64
TOLERANCE = 1e-6
STEP, STEPS, START = 0.15, 400, 1.0
SHRUNK = 0.01
FATES = {
    "converges": "exponentially fast to (0, 0)",
    "creeps": "comes closer for ever, slower than exponentially",
    "circles": "stays about as far from (0, 0)",
    "drifts off": "goes ever farther from (0, 0)",
    "stops off 0": "D lost its slope before theta was 0: least_squares wants the logit 1/2 at 0, and D = psi x has no bias to give it",
    "no rest at 0": "the penalty pushes the game off (0, 0), because it wants a slope of 1 there; the eigenvalues beside it decide nothing",
}

Points = Float64[Tensor, " games"]


class Game(NamedTuple):
    """A loss, which of its generator objectives ("exact" or "alternative"), and a penalty or "none"."""

    loss: str
    objective: str
    penalty: str


class Verdict(NamedTuple):
    """What becomes of a game near its equilibrium.

    `eigenvalues` are those of the Jacobian of the vector field just beside (0, 0), where theta and psi are positive; for an idle
    field they are within BESIDE of 0. `stationary` says that the field vanishes as (0, 0) is approached from each quadrant; where it
    does not, the eigenvalues do not decide. `converges`: stationary, and every real part is below -TOLERANCE, so exponentially fast.
    `trajectory` has a row (theta, psi) for the start and for each step of `trajectories`.
    """

    loss: str
    objective: str
    penalty: str
    eigenvalues: tuple[complex, complex]
    stationary: bool
    converges: bool
    trajectory: Float64[Tensor, "steps 2"]


class Side(NamedTuple):
    """One player's losses in many games side by side, and how many games in a row each is for."""

    losses: list[LossFunction]
    sizes: list[int]


class Field(NamedTuple):
    """The vector fields of many games: who minimises what; the penalties take turns."""

    discriminator: Side
    generator: Side
    penalties: list[Regularizer | None]
    gamma: float


def games(losses: Iterable[str] | None = None, penalties: Iterable[str] | None = None) -> list[Game]:
    """Every loss with each of its objectives and with every penalty; None takes all of DIRAC_LOSSES and DIRAC_PENALTIES.

    Raises:
        ValueError: a name that is not among them.
    """
    chosen_losses = _known("loss", losses, DIRAC_LOSSES)
    chosen_penalties = _known("penalty", penalties, DIRAC_PENALTIES)
    return [
        Game(loss, objective, penalty)
        for loss in chosen_losses
        for objective in (("exact",) if LOSSES[loss].alternative_generator is None else ("exact", "alternative"))
        for penalty in chosen_penalties
    ]


def field_of(played: list[Game], gamma: float) -> Field:
    """The field of what `games` returned, each penalty counting gamma/2 times."""
    penalties = list(dict.fromkeys(game.penalty for game in played))
    discriminator, generator = Side([], []), Side([], [])
    for game in played:
        loss = LOSSES[game.loss]
        objective = loss.generator if game.objective == "exact" else loss.alternative_generator
        assert objective is not None, "games() names only objectives that exist"
        for side, function in ((discriminator, loss.discriminator), (generator, objective)):
            # A loss that looks across its batch must not look into another game.
            if side.losses and side.losses[-1] is function and not loss.across_batch:
                side.sizes[-1] += 1
            else:
                side.losses.append(function)
                side.sizes.append(1)
    return Field(discriminator, generator, [None if name == NONE else REGULARIZERS[name] for name in penalties], gamma)


def theta_velocity(field: Field, theta: Points, psi: Points, *, create_graph: bool = False) -> Points:
    """The speed theta' = -dL_G/dtheta; `theta` requires a gradient."""
    (slope,) = torch.autograd.grad(_total(field.generator, theta, psi), theta, create_graph=create_graph)
    return -slope


def psi_velocity(field: Field, theta: Points, psi: Points, *, create_graph: bool = False) -> Points:
    """The speed psi' = -d(L_D + gamma/2 penalty)/dpsi; `psi` requires a gradient."""
    total = _total(field.discriminator, theta, psi)
    turns = len(field.penalties)
    for penalty, thetas, psis in zip(field.penalties, theta.view(-1, turns).unbind(1), psi.view(-1, turns).unbind(1), strict=True):
        if penalty is not None:
            fake = _images(thetas)
            given = Given(None, torch.full((len(fake), 1), 0.5, dtype=fake.dtype), torch.zeros(2, dtype=fake.dtype))
            total = total + field.gamma / 2.0 * penalty.value(_line(psis), torch.zeros_like(fake), fake, None, given).sum()
    (slope,) = torch.autograd.grad(total, psi, create_graph=create_graph)
    return -slope


def jacobians(field: Field, theta: Points, psi: Points) -> Float64[Tensor, "games 2 2"]:
    """d(theta', psi')/d(theta, psi) of each game.

    Gradient penalties cut the fakes out of their graph, which loses nothing: the slope of D is the same wherever it is taken. So that
    LeCam, which reads the fakes' logits, keeps them, the penalty's `value` is called, without the cut that training puts before it.
    """
    theta, psi = theta.clone().requires_grad_(), psi.clone().requires_grad_()
    velocities = theta_velocity(field, theta, psi, create_graph=True), psi_velocity(field, theta, psi, create_graph=True)
    rows = [torch.stack(torch.autograd.grad(each.sum(), (theta, psi), retain_graph=True, materialize_grads=True), 1) for each in velocities]
    return torch.stack(rows, 1)


def eigenvalues(matrix: Float64[Tensor, "2 2"]) -> tuple[complex, complex]:
    """The roots of the characteristic polynomial, first the one with the larger imaginary part or, for real ones, the larger one."""
    (a, b), (c, d) = matrix.tolist()
    root = complex(((a - d) / 2.0) ** 2 + b * c) ** 0.5
    return (a + d) / 2.0 + root, (a + d) / 2.0 - root


def trajectories(field: Field, count: int) -> Float64[Tensor, "steps games 2"]:
    """The paths of all `count` games from theta = psi = START: alternating gradient descent, the discriminator first.

    That is the training algorithm, with steps of STEP, small enough to follow the vector field for a while: games without a penalty
    whose flow circles (0, 0) for ever end it between 0.6 and 1.3 times as far away.
    """
    theta, psi = (torch.full((count,), START, dtype=torch.float64, requires_grad=True) for _ in range(2))
    path = [torch.stack([theta, psi], 1).detach()]
    for _ in range(STEPS):
        psi = (psi + STEP * psi_velocity(field, theta, psi)).detach().requires_grad_()
        theta = (theta + STEP * theta_velocity(field, theta, psi)).detach().requires_grad_()
        path.append(torch.stack([theta, psi], 1).detach())
    return torch.stack(path)


def settles(trajectory: Float64[Tensor, "steps 2"]) -> bool:
    """Whether the last tenth of it stays within SHRUNK of the distance from (0, 0) at which it began.

    It asks for exponential convergence, at a rate of 0.1 at least. Some games without a penalty creep inwards: of the
    non-saturating one, the distance r has (r^2)' = -2 theta psi tanh(theta psi / 2), so that r^2 goes as 8/t. This does not count.
    """
    distance = trajectory.norm(dim=1)
    return bool(distance[-(len(distance) // 10) :].max() < SHRUNK * distance[0])


def fate(verdict: Verdict) -> str:
    """One of FATES; those that do not converge by what their simulation does."""
    if verdict.converges:
        return "converges"
    if not verdict.stationary:
        return "no rest at 0"
    if verdict.trajectory[-1, 1].abs() < BESIDE:
        return "stops off 0"
    quarters = verdict.trajectory.norm(dim=1)[1:].view(4, -1).amax(1)
    if quarters[3] > 1.03 * quarters[1]:
        return "drifts off"
    return "creeps" if quarters[3] < 0.97 * quarters[1] else "circles"


def spectra(field: Field, count: int) -> tuple[list[tuple[complex, complex]], list[bool]]:
    """The eigenvalues of each of the `count` games beside (0, 0), and whether it is stationary there, from every quadrant."""
    stationary = torch.ones(count, dtype=torch.bool)
    for quadrant in ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)):
        theta, psi = (torch.full((count,), BESIDE * sign, dtype=torch.float64, requires_grad=True) for sign in quadrant)
        stationary &= theta_velocity(field, theta, psi).abs() + psi_velocity(field, theta, psi).abs() < TOLERANCE
    beside = torch.full((count,), BESIDE, dtype=torch.float64)
    return [eigenvalues(matrix) for matrix in jacobians(field, beside, beside)], stationary.tolist()


def verdicts(losses: Iterable[str] | None = None, penalties: Iterable[str] | None = None, *, gamma: float = 1.0) -> list[Verdict]:
    """The verdict on every game of `games(losses, penalties)`, each penalty counting gamma/2 times.

    With gamma = 1, the logistic losses are critically damped by R1. All games together take some 7 s on a slow core.
    """
    played = games(losses, penalties)
    if not played:
        return []
    field = field_of(played, gamma)
    paths = trajectories(field, len(played)).unbind(1)
    return [
        Verdict(*game, roots, still, still and max(root.real for root in roots) < -TOLERANCE, path)
        for game, roots, still, path in zip(played, *spectra(field, len(played)), paths, strict=True)
    ]


def _known(what: str, chosen: Iterable[str] | None, known: tuple[str, ...]) -> list[str]:
    names = list(dict.fromkeys(known if chosen is None else chosen))
    for name in names:
        if name not in known:
            raise ValueError(f"the Dirac-GAN has no {what} {name!r}; choose from {', '.join(known)}")
    return names


def _total(side: Side, theta: Points, psi: Points) -> Float64[Tensor, ""]:
    """The sum of the losses of all games, which do not touch: it has the derivatives of each."""
    discriminator = _line(psi)
    real = discriminator(_images(torch.zeros_like(theta)), None).split(side.sizes)
    fake = discriminator(_images(theta), None).split(side.sizes)
    return torch.cat([loss(*logits) for loss, *logits in zip(side.losses, real, fake, strict=True)]).sum()


def _images(points: Points) -> Float64[Tensor, "games 1 1 1"]:
    return points[:, None, None, None]


def _line(psi: Points) -> Callable[[Tensor, Tensor | None], Tensor]:
    """The discriminators D(x) = psi x, each for its own image of the batch."""

    def discriminator(images: Tensor, labels: Tensor | None) -> Tensor:
        return psi * images[:, 0, 0, 0]

    return discriminator
