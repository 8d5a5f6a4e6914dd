"""What a sweep found, made up."""

import math

from pipelines.reports import curves as curves_module
from pipelines.reports import plots
from pipelines.results import CONFIRM, SCREEN, SPENT, Curve, Findings, Row, compare, estimates


def trial(number, variant="r1", ratio="1:1", score=0.5, **changes):
    given = {
        "number": number,
        "configuration": number,
        "phase": SCREEN,
        "run_id": f"{number:032x}",
        "point": {"variant": variant, "step_ratio": ratio},
        "variant": variant,
        "step_ratio": ratio,
        "seed": 0,
        "status": "FINISHED",
        "reason": SPENT,
        "scores": {"score": score, "kid_lenet": 0.01 * number, "kid_lenet_error": 0.001},
        "kimg": 100.0,
        "d_steps": 1000,
        "g_steps": 1000,
        "device_seconds": 60.0 + number,
    }
    return Row(**(given | changes))


def stopped(number, *place, kimg=10.0, **changes):
    return trial(number, *place, kimg=kimg, **({"reason": f"asha at {kimg:g} kimg", "status": "FINISHED"} | changes))


def repeats(number, configuration, variant, ratio, scores):
    return [
        trial(number + seed, variant, ratio, score, configuration=configuration, phase=CONFIRM, seed=seed)
        for seed, score in enumerate(scores, 1)
    ]


def found(rows, *, higher=True, distance="", planned=0, objective="score"):
    """What `raygan sweep` would find in these rows."""
    repeated = estimates(rows, objective, higher=higher)
    pair = [estimate.configuration for estimate in repeated[:2]]
    comparison = compare(rows, objective, *pair) if len(pair) == 2 else None
    best = pair[0] if pair else None
    return Findings(
        "a-sweep",
        objective,
        higher,
        distance,
        "images",
        "100 kimg",
        planned or sum(row.phase == SCREEN for row in rows),
        rows,
        repeated,
        comparison,
        best,
    )


def curve(kimg, value=1.0):
    steps = [1, 2, 3]
    return Curve([1000 * kimg * step // 3 for step in steps], steps, [2.0 * step for step in steps], {"score": [value * s for s in steps]})


def screened():
    """Three losses, three ratios, early stopping, and every way to fail."""
    refused = {"status": "FAILED", "reason": "refused: r1 here: <script>x</script>", "kimg": 0.0}
    return [
        trial(0, "r1", "1:1", 0.8),
        trial(1, "r1", "5:1", 0.7),
        trial(2, "wgan", "1:1", 0.6),
        stopped(3, "wgan", "5:1", 0.9),
        stopped(4, "dcgan", "1:2", 0.3, kimg=5.0),
        stopped(5, "dcgan", "1:1", 0.4, reason="alarm: collapse at 10.0 kimg: distance 0.01 below 0.1"),
        stopped(6, "dcgan", "5:1", math.nan, status="FAILED", reason="diverged: weights of the generator are not finite"),
        stopped(7, "r1", "1:2", math.nan, **refused)._replace(variant="", step_ratio=""),
    ]


def drawn(findings, curves):
    """PNG files of all pictures that there are."""
    figures = {
        "heatmap": plots.heatmap(findings),
        "spending": curves_module.spending(findings, curves),
        "pareto": curves_module.pareto(findings),
        "best_of_n": plots.best_of_n(findings),
        "confirmation": plots.confirmation(findings),
    }
    return {name: plots.png(figure) for name, figure in figures.items() if figure is not None}
