"""The pictures of `raygan theory`. Matplotlib is imported nowhere else; its Figure is used without pyplot, hence without global state."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gan_core.divergences import DIVERGENCES
from gan_core.losses import LOSSES
from gan_core.theory import bounds, game, saturation
from gan_core.theory.densities import PAIRS, Quadrature, quadrature
from gan_core.theory.dirac import Verdict, fate

DATA, GENERATOR, DISCRIMINATOR, THEORY = "black", "#1a9850", "#2166ac", "#9ecae1"  # the colours of 1406.2661, figure 1
SERIES = ("#2166ac", "#d95f02", "#1b9e77", "#7570b3")
DOTS_PER_INCH = 120
DIRAC_LOSSES, DIRAC_PENALTIES = ("non_saturating", "wasserstein", "least_squares"), ("none", "r1", "gp", "lecam")
SLOPES = ("f_kl", "f_reverse_kl", "f_squared_hellinger", "f_jensen_shannon")


def draw_game(played: game.Played, path: Path) -> None:
    """Figure 1 of 1406.2661: at each look densities, discriminator, and where the generator sends z."""
    figure = Figure(figsize=(14, 9.2))
    columns = 3
    rows = -(-len(played.looks) // columns)
    panels = figure.add_gridspec(rows, columns, left=0.05, right=0.95, top=0.86, bottom=0.05, hspace=0.3, wspace=0.26)
    for index, look in enumerate(played.looks):
        halves = panels[index].subgridspec(2, 1, height_ratios=(4, 1), hspace=0.16)
        upper = figure.add_subplot(halves[0])
        lower = figure.add_subplot(halves[1], sharex=upper)
        _densities_and_discriminator(upper, look, last=index % columns == columns - 1, first=index % columns == 0)
        _mapping(lower, look)
    handles, labels = _legend_of(figure.axes)
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.955), ncols=5, frameon=False, fontsize=11)
    figure.suptitle(
        "A generator of Gaussians learns N(1, 0.6²) by the non-saturating loss; below the axis, z and where G(z) = a z + b sends it",
        y=0.985,
        fontsize=14,
    )
    _save(figure, path)


def _densities_and_discriminator(axes: Axes, look: game.Look, *, first: bool, last: bool) -> None:
    where = look.where
    _densities(axes, where)
    axes.set(xlim=(-4.0, 3.5), ylim=(0.0, 1.15 * max(where.p.max().item(), where.q.max().item())))
    axes.tick_params(labelbottom=False)
    if first:
        axes.set_ylabel("density")
    judgement = axes.twinx()
    judgement.plot(where.points, look.optimal, color=THEORY, linewidth=5.0, label="p / (p + q)")
    judgement.plot(where.points, look.trained, color=DISCRIMINATOR, linestyle="--", linewidth=1.8, label="D(x), trained to its optimum")
    judgement.fill_between(
        where.points, 0.0, 1.15, where=~where.region, color="0.93", zorder=0, label="not compared: p + q below 1 % of its peak"
    )
    judgement.set(ylim=(0.0, 1.15), yticks=(0.0, 0.5, 1.0))
    judgement.tick_params(colors=DISCRIMINATOR)
    if last:
        judgement.set_ylabel("D(x)", color=DISCRIMINATOR)
    # Curves of the generator and the data stay above the wide line of theory.
    axes.set_zorder(judgement.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.set_title(
        f"{look.g_steps} steps of G: q = N({_signed(look.mean)}, {look.deviation:.2f}²)\n"
        f"|D $-$ p/(p+q)| at most {look.error:.4f};  V {_signed(look.value, 4)}, theory {_signed(look.best_value, 4)}",
        fontsize=10,
    )


def _densities(axes: Axes, where: Quadrature) -> None:
    axes.plot(where.points, where.p, color=DATA, linestyle=":", linewidth=2.0, zorder=3, label="data p(x)")
    axes.plot(where.points, where.q, color=GENERATOR, linewidth=2.0, label="generator q(x)")


def _mapping(axes: Axes, look: game.Look) -> None:
    z = game.quantiles(15).flatten()
    axes.hlines((0.0, 1.0), -4.0, 3.5, color="0.4", linewidth=1.0)
    for start, end in zip(z.tolist(), (look.mean + look.deviation * z).tolist(), strict=True):
        arrow = {"arrowstyle": "-|>", "color": GENERATOR, "linewidth": 0.9, "shrinkA": 0.0, "shrinkB": 0.0, "mutation_scale": 7.0}
        axes.annotate("", xy=(end, 1.0), xytext=(start, 0.0), arrowprops=arrow)
    axes.set(ylim=(-0.08, 1.0), yticks=(0.0, 1.0), yticklabels=("z", "x"))
    axes.spines[["left", "right", "top", "bottom"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def draw_bounds(reached: Sequence[bounds.Reached], path: Path) -> None:
    """The pairs of densities, and for each loss the share of its divergence that a trained discriminator misses."""
    pairs = list(dict.fromkeys(each.pair for each in reached))
    figure = Figure(figsize=(15, 8.4), layout="constrained")
    axes = figure.subplots(2, len(pairs), squeeze=False, height_ratios=(2, 3))
    figure.suptitle(
        "The bound that a discriminator trained by each loss reaches: below the divergence and close to it (f_gan counts from $-$log 4)",
        fontsize=14,
    )
    losses = list(dict.fromkeys(each.loss for each in reached))
    for column, pair in enumerate(pairs):
        upper, lower = axes[0, column], axes[1, column]
        where = quadrature(PAIRS[pair])
        _densities(upper, where)
        upper.set(xlim=(-7.0, 7.0), ylim=(0.0, 0.46), xlabel="x", title=PAIRS[pair].title)
        upper.legend(loc="upper left", frameon=False)
        _missed(lower, [each for each in reached if each.pair == pair], losses, names=column == 0)
    axes[0, 0].set_ylabel("density")
    _save(figure, path)


def _missed(axes: Axes, reached: list[bounds.Reached], losses: list[str], *, names: bool) -> None:
    smallest, largest = 1e-4, 100.0 * bounds.SHARE
    for each in reached:
        percent, height = max(100.0 * each.missed_share, smallest), losses.index(each.loss)
        axes.plot((smallest, percent), (height, height), color=THEORY, linewidth=4.0)
        axes.plot(percent, height, marker="o", color=DISCRIMINATOR, markersize=7.0)
        axes.annotate(
            f"{_signed(each.trained, 5)} of {_signed(each.divergence, 5)}", (largest * 1.4, height), ha="left", va="center", fontsize=9
        )
    axes.axvline(largest, color="#b2182b", linestyle="--", linewidth=1.2)
    axes.annotate(f"allowed: {largest:g} %", (largest * 1.4, -0.8), ha="left", va="center", color="#b2182b", fontsize=9)
    axes.set(
        xscale="log",
        xlim=(smallest, largest * 1e4),
        ylim=(len(losses) - 0.4, -1.2),
        xlabel="% of the divergence that the trained D misses",
    )
    axes.set_xticks((1e-4, 1e-3, 1e-2, 1e-1, 1.0), ("0.0001", "", "0.01", "", "1"))
    axes.set_xticks((), minor=True)
    labels = ["non_saturating\n(bounds the JSD)" if loss == "non_saturating" else loss for loss in losses]
    axes.set_yticks(range(len(losses)), labels if names else [""] * len(losses))


def draw_dirac(verdicts: Sequence[Verdict], path: Path) -> None:
    """Trajectories in the (theta, psi) plane of some of the games, with their eigenvalues."""
    losses = [loss for loss in DIRAC_LOSSES if any(verdict.loss == loss for verdict in verdicts)]
    penalties = [penalty for penalty in DIRAC_PENALTIES if any(verdict.penalty == penalty for verdict in verdicts)]
    figure = Figure(figsize=(3.7 * len(penalties), 3.9 * len(losses) + 0.9), layout="constrained")
    axes = figure.subplots(len(losses), len(penalties), squeeze=False, sharex="row", sharey="row")
    for verdict in verdicts:
        if verdict.loss in losses and verdict.penalty in penalties and verdict.objective == "exact":
            _trajectory(axes[losses.index(verdict.loss), penalties.index(verdict.penalty)], verdict)
    for row in axes:
        row[0].set_ylabel(r"discriminator $\psi$")
    for bottom in axes[-1]:
        bottom.set_xlabel(r"generator $\theta$")
    handles, labels = _legend_of(figure.axes)
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=11)
    figure.suptitle(
        r"Dirac-GAN, D(x) = $\psi$x, data at 0: alternating gradient descent from (1, 1), penalties with $\gamma$ = 1", fontsize=14
    )
    _save(figure, path)


def _trajectory(axes: Axes, verdict: Verdict) -> None:
    theta, psi = verdict.trajectory.unbind(1)
    axes.axhline(0.0, color="0.85", linewidth=0.8, zorder=0)
    axes.axvline(0.0, color="0.85", linewidth=0.8, zorder=0)
    axes.plot(theta, psi, color=DISCRIMINATOR, linewidth=0.9, label="trajectory")
    axes.plot(0.0, 0.0, marker="+", color=DATA, markersize=13.0, linestyle="none", label="equilibrium")
    axes.plot(theta[0], psi[0], marker="o", color=GENERATOR, markersize=7.0, linestyle="none", label="start")
    axes.plot(theta[-1], psi[-1], marker="s", color="#b2182b", markersize=7.0, linestyle="none", label="end")
    axes.margins(0.12)
    eigenvalues = eigenvalues_in_words(verdict) if verdict.stationary else "so that its eigenvalues decide nothing"
    axes.set_title(
        f"{verdict.loss}, {verdict.penalty}: {fate(verdict)}\n{eigenvalues}",
        fontsize=10.5,
        color=GENERATOR if verdict.converges else "#b2182b",
    )


def eigenvalues_in_words(verdict: Verdict) -> str:
    """Such as `-0.50 ± 0.87i`."""
    first, second = verdict.eigenvalues
    if abs(first.imag) > 5e-4:
        return f"λ = {_signed(first.real)} ± {abs(first.imag):.2f}i"
    return f"λ = {_signed(first.real)}, {_signed(second.real)}"


def _signed(number: float, digits: int = 2) -> str:
    """With a minus as wide as a plus, and none before a zero."""
    return f"{round(number, digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def draw_saturation(result: saturation.Confident, path: Path) -> None:
    """Slopes by the logit for logistic and f-GAN losses, and what is left for the generator while D is trained."""
    figure = Figure(figsize=(13.5, 10.5), layout="constrained")
    (logistic, learning), (exact, alternative) = figure.subplots(2, 2)
    _logistic_slopes(logistic)
    _gradients_left(learning, result)
    _f_gan_slopes(exact, "exact")
    _f_gan_slopes(alternative, "alternative")
    figure.suptitle("What is left of the generator's gradient as the discriminator grows sure", fontsize=14)
    _save(figure, path)


def _logistic_slopes(axes: Axes) -> None:
    logits = saturation.LOGITS
    for name, color in zip(saturation.OBJECTIVES, SERIES, strict=False):
        axes.plot(logits.sigmoid(), saturation.slopes(LOSSES[name].generator, logits).abs(), color=color, linewidth=2.2, label=name)
    axes.set(xlabel="D(G(z)), how real the fake looks", ylabel="|dL / dlogit|", xlim=(0.0, 1.0), ylim=(0.0, 1.05))
    axes.set_title("D sure of a fake is at the left: minimax has no slope there", fontsize=11)
    axes.legend(frameon=False, loc="center right")


def _f_gan_slopes(axes: Axes, objective: str) -> None:
    """Lines that meet are told apart by their dashes and widths."""
    ratios = saturation.RATIOS
    for loss, color, width, dashes in zip(SLOPES, SERIES, (4.5, 4.5, 2.2, 2.2), ("-", "-", "-", "--"), strict=True):
        chosen = LOSSES[loss]
        assert chosen.alternative_generator is not None, "f-GAN losses have both"
        best = DIVERGENCES[chosen.bound.of].optimal_logit(ratios)
        function = chosen.generator if objective == "exact" else chosen.alternative_generator
        axes.plot(ratios, saturation.slopes(function, best).abs(), color=color, linewidth=width, linestyle=dashes, label=loss)
    axes.set(
        xlabel="p/q at the fake, D at its best", ylabel="|dL / dlogit|", xscale="log", yscale="log", xlim=(1e-4, 1e2), ylim=(1e-5, 1e5)
    )
    remark = ": p/q times the alternative one" if objective == "exact" else ""
    axes.set_title(f"f-GANs, slope of the {objective} generator objective{remark}", fontsize=11)
    axes.legend(frameon=False, loc="lower right" if objective == "exact" else "upper right", fontsize=10)


def _gradients_left(axes: Axes, result: saturation.Confident) -> None:
    steps = [step + 1 for step in result.d_steps]
    for index, (name, color) in enumerate(zip(saturation.OBJECTIVES, SERIES, strict=False)):
        limit = result.limits[name].norm().item()
        axes.plot(steps, result.norms[:, index], color=color, linewidth=2.2, label=name)
        axes.plot(2 * steps[-1], result.final[name].norm().item(), color=color, marker="o", markersize=7.0, linestyle="none")
        axes.axhline(limit, color=color, linestyle=":", linewidth=1.5)
        axes.annotate("theory, D = p/(p+q)", (1.0, 1.25 * limit), color=color, fontsize=9)
    axes.plot(steps, result.judged_real, color="0.5", linewidth=1.6, linestyle="-.", label="mean D(G(z)), for comparison")
    axes.plot([], [], color="0.3", marker="o", markersize=7.0, linestyle="none", label="D trained on until its loss falls no more")
    axes.set(
        xscale="log", yscale="log", xlabel="steps of D + 1, the generator standing still", ylabel="norm of dL / d(a, b)", ylim=(1e-7, 60.0)
    )
    axes.set_title("D learns by the logistic loss to tell N($-$4, 0.6²) from N(1, 0.6²)", fontsize=11)
    axes.legend(frameon=False, loc="lower left", fontsize=9)


def _legend_of(axes: Sequence[Axes]) -> tuple[list[Artist], list[str]]:
    """One entry for each label, whatever panel it is in."""
    found = {label: handle for each in axes for handle, label in zip(*each.get_legend_handles_labels(), strict=True)}
    return list(found.values()), list(found)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=DOTS_PER_INCH)
