"""Pictures of a sweep's trials: the grid of settings, how much luck was in it, what repeating showed, and samples.

Like `theory_plots`, without pyplot and so without global state. Each function returns None where there is nothing to draw.
"""

import io
from collections.abc import Sequence
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from pipelines.reports.summaries import Cell, Cells, cells, enough, expected_best, quantile_of_best
from pipelines.reports.words import STOPPED, UNFINISHED, by_variant, directed, label, number, others_of, score, thousands
from pipelines.results import CONFIDENCE, CONFIRM, SCREEN, Estimate, Findings, rank

DOTS_PER_INCH = 120
LONGEST_NAME = 48  # characters of a line beside a picture
BLUE, ORANGE, RED, GREY = "#2166ac", "#d95f02", "#b2182b", "0.45"
BAND = (0.1, 0.9)
DECADE = 10.0
CALM = {STOPPED, *UNFINISHED}


def png(figure: Figure) -> bytes:
    """The picture as a PNG file."""
    FigureCanvasAgg(figure)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DOTS_PER_INCH, facecolor="white")
    return out.getvalue()


def heatmap(findings: Findings) -> Figure | None:
    """The median objective for each loss variant and step ratio, or for two other searched keys (`summaries.cells`)."""
    found = cells(findings)
    if found is None:
        return None
    words = max((len(line) for cell in found.squares.values() for _, line in _lines(cell)), default=0)
    wide, high = max(1.05, 0.085 * words + 0.15), 0.54
    names = 0.09 * max(len(row) for row in found.rows)
    size = (max(4.4, 1.9 + names + wide * len(found.columns)), max(2.0, 1.5 + high * len(found.rows)))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    colours = _colours(found, higher=findings.higher)
    best = found.best(higher=findings.higher)
    for place, cell in found.squares.items():
        x, y = found.columns.index(place[1]), found.rows.index(place[0])
        _square(axes, x, y, cell, colours)
        if place == best:
            axes.add_patch(Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, fill=False, edgecolor=RED, linewidth=2.6, zorder=4))
    for y, row in enumerate(found.rows):
        for x, column in enumerate(found.columns):
            if (row, column) not in found.squares:
                axes.text(x, y, "not run", ha="center", va="center", color="0.6", fontsize=8.5)
    axes.set(xlim=(-0.5, len(found.columns) - 0.5), ylim=(len(found.rows) - 0.5, -0.5))
    axes.set_xlabel(found.column_name, fontsize=11)
    axes.set_ylabel(found.row_name, fontsize=11)
    axes.set_xticks(range(len(found.columns)), found.columns, fontsize=10.5)
    axes.set_yticks(range(len(found.rows)), found.rows, fontsize=10.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    # One value has no scale, and a bar beside one row no room for its name.
    if colours is not None and len(found.rows) > 1 and len({cell.value for cell in found.squares.values() if cell.complete}) > 1:
        bar = figure.colorbar(colours, ax=axes, pad=0.02, aspect=max(12.0, 5.0 * len(found.rows)), fraction=0.06)
        if isinstance(colours.norm, LogNorm):
            _plain_numbers(bar.ax.yaxis, colours.norm.vmin or 1.0, colours.norm.vmax or 1.0)
        bar.set_label(directed(findings.objective, higher=findings.higher), fontsize=10.5)
        bar.ax.spines["outline"].set_visible(False)
    return figure


def _colours(found: Cells, *, higher: bool) -> ScalarMappable | None:
    """Bright is good; a logarithmic scale where less is better and the worst is more than ten times the best."""
    values = [cell.value for cell in found.squares.values() if cell.complete]
    if not values:
        return None
    low, high = min(values), max(values)
    logarithmic = not higher and low > 0.0 and high > DECADE * low
    if low == high:
        low, high = low - 0.5 * abs(low or 1.0), high + 0.5 * abs(high or 1.0)
    norm = LogNorm(low, high) if logarithmic else Normalize(low, high)
    return ScalarMappable(norm, mpl.colormaps["viridis" if higher else "viridis_r"])


def _square(axes: Axes, x: int, y: int, cell: Cell, colours: ScalarMappable | None) -> None:
    corner, ink, style = (x - 0.48, y - 0.47), "0.35", "normal"
    if cell.complete and colours is not None:
        face = colours.to_rgba(np.asarray(cell.value))
        axes.add_patch(Rectangle(corner, 0.96, 0.94, facecolor=face, edgecolor="none"))
        ink = "black" if np.dot(face[:3], (0.299, 0.587, 0.114)) > 0.5 else "white"
    elif cell.trials:
        axes.add_patch(Rectangle(corner, 0.96, 0.94, facecolor="0.96", edgecolor="0.86", hatch="////", linewidth=0.0))
        style = "italic"
    else:
        bad = bool(cell.words.keys() - CALM)
        axes.add_patch(Rectangle(corner, 0.96, 0.94, facecolor="#fbe9e7" if bad else "0.96", edgecolor="none"))
        ink = RED if bad else "0.35"
    lines = _lines(cell)
    heights = {1: (0.0,), 2: (-0.14, 0.2), 3: (-0.25, 0.06, 0.32)}[len(lines)]
    behind = {"facecolor": "0.96", "edgecolor": "none", "pad": 0.6} if style == "italic" else None  # letters are hard to read on hatching
    for (size, line), height in zip(lines, heights, strict=True):
        axes.text(x, y + height, line, ha="center", va="center", color=ink, fontsize=size, fontstyle=style, bbox=behind, zorder=5)


def _lines(cell: Cell) -> list[tuple[float, str]]:
    """The square's lines with their sizes: the value, how many trials it is of, and how others ended."""
    words = ", ".join(word if count == 1 and not cell.trials else f"{count} {word}" for word, count in cell.words.items())
    low, high = number(cell.lowest_kimg), thousands(cell.highest_kimg)
    reached = f"@{high}" if f"{low}k" == high else f"@{low}-{high}"
    if not cell.trials:
        return [(9.5, words), *([(8.5, reached)] if cell.highest_kimg > 0.0 else [])]
    count = f"n={cell.trials}" if cell.complete else f"n={cell.trials} {reached}"
    return [(12.0, number(cell.value, padded=True)), (8.5, count), *([(8.0, words)] if words else [])]


def best_of_n(findings: Findings) -> Figure | None:
    """What the best of n trials would have been on average, were only n of the complete screening trials drawn."""
    rows = rank([row for row in findings.rows if row.phase == SCREEN], findings.objective, higher=findings.higher)
    if len(rows) < 2:
        return None
    values = [score(row, findings.objective) for row in rows]
    expected = expected_best(values, higher=findings.higher)
    low, high = (quantile_of_best(values, share, higher=findings.higher) for share in BAND)
    counts = np.arange(1, len(values) + 1)
    figure = Figure(figsize=(7.6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(counts, low, high, color=BLUE, alpha=0.16, linewidth=0.0, label="10 % to 90 % of the subsets")
    axes.plot(counts, expected, color=BLUE, linewidth=2.2, marker="o", markersize=4.0, label="mean over all subsets of n trials")
    turn = enough(expected)
    if 1 < turn < len(values):
        axes.axvline(turn, color=GREY, linestyle=":", linewidth=1.4, label=f"n = {turn}: 90 % of the gain from n = 1 to {len(values)}")
    axes.set_xlabel("n, complete screening trials", fontsize=11)
    axes.set_ylabel(f"best {directed(findings.objective, higher=findings.higher)}", fontsize=11)
    axes.set_xlim(0.5, len(values) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    quiet(axes)
    axes.legend(frameon=False, loc="lower right" if findings.higher else "upper right", fontsize=9.5)
    return figure


def confirmation(findings: Findings) -> Figure | None:
    """The repeated configurations: each seed, their mean with its interval, and the screening score that had them chosen."""
    if not findings.estimates:
        return None
    names = [_name(findings, estimate) for estimate in findings.estimates]
    figure = Figure(figsize=(8.6, 1.7 + 0.62 * len(names)), layout="constrained")
    axes = figure.subplots()
    for height, estimate in enumerate(findings.estimates):
        colour = ORANGE if estimate.configuration == findings.best else BLUE
        if np.isfinite([estimate.low, estimate.high]).all():
            axes.plot((estimate.low, estimate.high), (height, height), color=colour, linewidth=2.6, solid_capstyle="butt")
        axes.plot(estimate.mean, height, color=colour, marker="o", markersize=10.0, linestyle="none", zorder=3)
        _seeds(axes, height, findings, estimate)
        axes.annotate(f"n={estimate.seeds}", (1.01, height), xycoords=("axes fraction", "data"), va="center", fontsize=9.5)
    axes.plot([], [], color=GREY, marker="o", markersize=8.0, linewidth=2.6, label=f"mean and its {100 * CONFIDENCE:g} % interval")
    axes.plot([], [], color="black", marker="o", markersize=4.0, linestyle="none", label="one fresh seed")
    axes.plot([], [], color=GREY, marker="D", fillstyle="none", markersize=6.0, linestyle="none", label="when screened (not in the mean)")
    axes.set(ylim=(len(names) - 0.4, -0.6))
    axes.set_yticks(range(len(names)), names, fontsize=10.5)
    axes.set_xlabel(directed(findings.objective, higher=findings.higher), fontsize=11)
    axes.margins(x=0.06)
    quiet(axes, upright=True)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9.5)
    return figure


def _seeds(axes: Axes, height: float, findings: Findings, estimate: Estimate) -> None:
    mine = [row for row in findings.rows if row.configuration == estimate.configuration and row.complete]
    repeats = [score(row, findings.objective) for row in mine if row.phase == CONFIRM]
    screened = [score(row, findings.objective) for row in mine if row.phase == SCREEN]
    axes.plot(repeats, [height + 0.24] * len(repeats), color="black", marker="o", markersize=4.0, linestyle="none")
    axes.plot(screened, [height - 0.24] * len(screened), color=GREY, marker="D", fillstyle="none", markersize=6.0, linestyle="none")


def _name(findings: Findings, estimate: Estimate) -> str:
    """Two lines at most: of many searched keys only the number remains."""
    row = findings.row(estimate.configuration)
    others = others_of(row) if by_variant(row) else ""
    return f"{label(row)} (#{row.number})"[:LONGEST_NAME] + (f"\n{others}" if others and len(others) <= LONGEST_NAME else "")


def grids(best_png: bytes | None, worst_png: bytes | None, captions: Sequence[str]) -> Figure | None:
    """Sample grids of the best and the worst trial beside each other, pixel by pixel.

    `captions` are theirs, in this order; where there is no worst one, one is enough.
    """
    given = [(picture, caption) for picture, caption in zip((best_png, worst_png), captions, strict=False) if picture is not None]
    if not given:
        return None
    pictures = [(image.imread(io.BytesIO(picture)), caption) for picture, caption in given]
    shapes = [picture.shape[1] / picture.shape[0] for picture, _ in pictures]
    figure = Figure(figsize=(5.2 * len(given), 5.2 / max(shapes) + 0.6), layout="constrained")
    for axes, (picture, caption) in zip(figure.subplots(1, len(given), squeeze=False)[0], pictures, strict=True):
        axes.imshow(picture, cmap="gray", interpolation="nearest")
        axes.set_title(caption, fontsize=11)
        axes.set_axis_off()
    return figure


def fit_scale(axes: Axes, side: Literal["x", "y"], values: Sequence[float]) -> None:
    """A logarithmic scale where all values are positive and span more than a decade, written as plain numbers."""
    low, high = min(values), max(values)
    if not 0.0 < DECADE * low < high:
        return
    axes.set(**{f"{side}scale": "log"})
    _plain_numbers(axes.xaxis if side == "x" else axes.yaxis, low, high)


def _plain_numbers(axis: Axis, low: float, high: float) -> None:
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < DECADE**3 * low else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def quiet(axes: Axes, *, upright: bool = False) -> None:
    """No frame, and faint lines to read values by; upright ones where the values lie along x."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x" if upright else "y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
