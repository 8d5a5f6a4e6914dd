"""Pictures of what a sweep's scores cost: by images, generator steps and device time, and which trials were worth theirs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from pipelines.reports.plots import fit_scale, quiet
from pipelines.reports.summaries import front
from pipelines.reports.words import COMPLETE, FAILED, REFUSED, UNFINISHED, directed, label, outcome, score, variant_of
from pipelines.results import Curve, Findings, Row, rank

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's, told apart by the colour-blind
DASHES: tuple[tuple[str | tuple[float, tuple[float, float]], str], ...] = (
    ("-", "o"),
    ((0.0, (5.0, 2.0)), "s"),
)  # with the marker at its end
MOST_VARIANTS = len(COLOURS) * len(DASHES)
FAINT = "0.8"
PLACES = tuple(
    (dx, dy)
    for distance in (7, 16, 28, 44, 64)
    for dx, dy in ((distance, -distance), (-distance, distance), (distance, distance), (-distance, -distance))
)


class Look(NamedTuple):
    """How a variant is drawn, in every picture alike."""

    colour: str
    dashes: str | tuple[float, tuple[float, float]]
    marker: str


OTHER, UNNAMED = Look("0.72", "", "x"), Look(FAINT, "", "o")


def looks(findings: Findings) -> dict[str, Look]:
    """Colours and dashes for the best MOST_VARIANTS variants, the best first; those without a comparable score come after the others."""
    ranked = rank(findings.rows, findings.objective, higher=findings.higher)
    longest = sorted(findings.rows, key=lambda row: (-row.kimg, row.number))
    names = list(dict.fromkeys(variant_of(row) for row in (*ranked, *longest) if variant_of(row)))[:MOST_VARIANTS]
    styles = [Look(colour, dashes, marker) for dashes, marker in DASHES for colour in COLOURS]
    return dict(zip(names, styles, strict=False))


def representatives(findings: Findings, curves: Mapping[int, Curve], name: str) -> list[Row]:
    """For each variant its best complete trial, else its longest, among those with a curve of `name`; the best first."""
    drawable = [row for row in findings.rows if variant_of(row) and row.number in curves and len(_points(curves[row.number], name)) > 0]
    ranked = rank(drawable, findings.objective, higher=findings.higher)
    longest = sorted(drawable, key=lambda row: (-row.kimg, row.number))
    chosen: dict[str, Row] = {}
    for row in (*ranked, *longest):
        chosen.setdefault(variant_of(row), row)
    return list(chosen.values())


def spending(findings: Findings, curves: Mapping[int, Curve]) -> Figure | None:
    """The distance, or else the objective, against images, generator steps and device time; `curves` by the trial's number."""
    name = findings.distance or findings.objective
    rows = representatives(findings, curves, name)
    if not rows:
        return None
    style = looks(findings)
    figure = Figure(figsize=(13.0, 5.2), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    # The best ones are drawn last, above the others.
    for row in reversed(rows):
        points = _points(curves[row.number], name)
        look = style.get(variant_of(row))
        for column, axes in enumerate(panels, 1):
            _line(axes, [point[column] for point in points], [point[0] for point in points], look, row)
    values = [point[0] for row in rows for point in _points(curves[row.number], name)]
    fit_scale(panels[0], "y", values)
    panels[0].set_ylabel(directed(name, higher=findings.higher and not findings.distance), fontsize=11)
    for axes, words in zip(panels, ("real images seen (kimg)", "generator steps", "device time (seconds)"), strict=True):
        axes.set_xlabel(words, fontsize=11)
        axes.set_xlim(left=0.0)
        quiet(axes)
    if any(variant_of(row) not in style for row in rows):
        panels[0].plot([], [], color=FAINT, linewidth=0.9, label="other variants")
    handles, labels = panels[0].get_legend_handles_labels()
    named = len(labels) - ("other variants" in labels)
    order = [*reversed(range(named)), *range(named, len(labels))]
    figure.legend(
        [handles[index] for index in order],
        [labels[index] for index in order],
        loc="outside lower center",
        ncols=4 if len(order) < 13 else 5,
        frameon=False,
        fontsize=10,
    )
    return figure


def _points(curve: Curve, name: str) -> list[tuple[float, float, float, float]]:
    """Value, kimg, generator steps and device-seconds, where the value is a finite number."""
    spent = zip(curve.scores.get(name, []), curve.images_seen, curve.g_steps, curve.device_seconds, strict=False)
    return [(value, images / 1000.0, float(steps), seconds) for value, images, steps, seconds in spent if math.isfinite(value)]


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], look: Look | None, row: Row) -> None:
    if look is None:
        axes.plot(x, y, color=FAINT, linewidth=0.9, zorder=1, label="_others")
        return
    axes.plot(x, y, color=look.colour, linestyle=look.dashes, linewidth=1.9, zorder=2, label=_entry(row))
    # An open end says that the trial did not spend its budget.
    axes.plot(x[-1], y[-1], marker=look.marker, markersize=6.0, color=look.colour, fillstyle="full" if row.complete else "none", zorder=3)


def _entry(row: Row) -> str:
    end = outcome(row)
    return label(row) if end == COMPLETE else f"{label(row)} ({end})"


def pareto(findings: Findings) -> Figure | None:
    """The objective against device time, with the front of those trials that no other one beats in both."""
    ranked = rank(findings.rows, findings.objective, higher=findings.higher)
    complete = [row for row in ranked if math.isfinite(row.device_seconds)]
    if not complete:
        return None
    style, best = looks(findings), front(complete, findings.objective, higher=findings.higher)
    others = [row for row in findings.rows if _has_point(row, findings.objective)]
    figure = Figure(figsize=(13.0 if others else 9.4, 5.4), layout="constrained")
    panels = figure.subplots(1, 2 if others else 1, squeeze=False, width_ratios=(2, 1) if others else None)[0]
    for axes, shown in zip(panels, (complete, [*others, *complete]), strict=False):
        for row in shown:
            _dot(axes, row, findings, style.get(variant_of(row), UNNAMED) if row.complete else OTHER)
        costs, values = [row.device_seconds for row in best], [score(row, findings.objective) for row in best]
        axes.plot(costs, values, color="0.25", linewidth=1.3, drawstyle="steps-post", zorder=2)
        fit_scale(axes, "x", [row.device_seconds for row in shown])
        axes.set_xlabel("device time (seconds)", fontsize=11)
        axes.margins(x=0.16, y=0.09)
        quiet(axes)
    panels[0].set_ylabel(directed(findings.objective, higher=findings.higher), fontsize=11)
    if others:
        panels[0].set_title("complete trials", fontsize=11)
        panels[1].set_title("with those that ended early", fontsize=11)
    _pareto_legend(figure, panels[0], [variant_of(row) for row in complete], style, any_others=bool(others))
    _place_labels(figure, panels[0], best, complete, findings)
    return figure


def _dot(axes: Axes, row: Row, findings: Findings, look: Look) -> None:
    value, above = score(row, findings.objective), 1 if look is OTHER else 3
    axes.plot(row.device_seconds, value, color=look.colour, marker=look.marker, markersize=7.0, linestyle="none", zorder=above)


def _has_point(row: Row, objective: str) -> bool:
    """Whether an incomplete trial has a place in the picture: what failed or still runs has none."""
    return (
        outcome(row) not in (COMPLETE, FAILED, REFUSED, *UNFINISHED)
        and math.isfinite(score(row, objective))
        and math.isfinite(row.device_seconds)
    )


def _pareto_legend(figure: Figure, axes: Axes, variants: Iterable[str], style: Mapping[str, Look], *, any_others: bool) -> None:
    present = set(variants)
    for name, look in style.items():
        if name in present:
            axes.plot([], [], color=look.colour, marker=look.marker, markersize=7.5, linestyle="none", label=name)
    if present - style.keys():
        axes.plot([], [], color=FAINT, marker="o", markersize=7.5, linestyle="none", label="other variants")
    axes.plot([], [], color="0.25", linewidth=1.3, drawstyle="steps-post", label="front")
    if any_others:
        axes.plot([], [], color="0.72", marker="x", markersize=6.0, linestyle="none", label="ended early, not comparable")
    figure.legend(loc="outside right upper", frameon=False, fontsize=10)


def _place_labels(figure: Figure, axes: Axes, rows: Sequence[Row], dots: Sequence[Row], findings: Findings) -> None:
    """Write each label where it hides least: of some places around its point that which covers the fewest points and labels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    figure.set_layout_engine("none")  # places hold only while nothing moves
    centres = axes.transData.transform([(row.device_seconds, score(row, findings.objective)) for row in dots])
    taken = [Bbox.from_bounds(x - 6.0, y - 6.0, 12.0, 12.0) for x, y in centres]
    corners = axes.transData.transform([(row.device_seconds, score(row, findings.objective)) for row in rows])
    for (x, y), (next_x, next_y) in pairwise(corners):  # the steps of the front
        lower, upper = min(y, next_y), max(y, next_y)
        taken += [Bbox(((x, y - 1.0), (next_x, y + 1.0))), Bbox(((next_x - 1.0, lower), (next_x + 1.0, upper)))]
    frame = axes.get_window_extent()
    for row in rows:
        tries = []
        for place in PLACES:
            text = _label(axes, row, findings, place, leader=False)  # it would count as part of the text
            box = text.get_window_extent(canvas.get_renderer())  # type: ignore[no-untyped-call]
            outside = not (frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)
            tries.append((10 * outside + sum(box.overlaps(other) for other in taken), place, box))
            text.remove()
        _, place, box = min(tries, key=lambda each: each[0])
        taken.append(box)
        _label(axes, row, findings, place, leader=abs(place[0]) > PLACES[0][0])


def _label(axes: Axes, row: Row, findings: Findings, place: tuple[int, int], *, leader: bool) -> Annotation:
    point, side = (row.device_seconds, score(row, findings.objective)), "left" if place[0] > 0 else "right"
    line = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.7, "shrinkA": 0.0, "shrinkB": 4.0} if leader else None
    return axes.annotate(
        label(row), point, place, textcoords="offset points", ha=side, va="center", fontsize=9.5, arrowprops=line, zorder=5
    )
