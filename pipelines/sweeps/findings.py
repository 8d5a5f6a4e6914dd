"""Everything that a sweep's report shows, read from MLflow alone: also of a sweep that is half done."""

import json
import tempfile
from pathlib import Path
from typing import NamedTuple

from gan_core.overrides import Tree
from pipelines import past, results, tracking
from pipelines.reports.words import label
from pipelines.results import CONFIRM, Curve, Findings, Row
from pipelines.run_pictures import step_of
from pipelines.sweeps import ledger
from pipelines.tracking import Tracker


class Evidence(NamedTuple):
    """Findings with what pictures need beside them; `curves` by the trial's number, `captions` of the two sample grids."""

    findings: Findings
    curves: dict[int, Curve]
    best_picture: bytes | None
    worst_picture: bytes | None
    captions: list[str]
    facts: dict[str, str]
    cautions: list[str]


def read(tracker: Tracker, run_id: str) -> Evidence:
    """The evidence so far."""
    found = summarise(tracker, run_id)
    drawn = tuple(dict.fromkeys(filter(None, (found.objective, found.distance))))
    curves = {row.number: ledger.curve(tracker, row.run_id, drawn) for row in found.rows if set(drawn) <= row.scores.keys()}
    best, worst = _ends(found)
    return Evidence(
        findings=found,
        curves=curves,
        best_picture=_picture(tracker, best),
        worst_picture=_picture(tracker, worst),
        captions=[_caption(found, name, row) for name, row in (("best", best), ("worst", worst)) if row is not None],
        facts=_facts(tracker, run_id, found),
        cautions=_cautions(found),
    )


def summarise(tracker: Tracker, run_id: str) -> Findings:
    """The rows of the sweep, and what follows from them."""
    plan = ledger.read_plan(tracker, run_id)
    name, aim = tracker.client.get_run(run_id).data.tags[ledger.SWEEP], plan["aim"]
    rows = [ledger.row(run) for run in ledger.trials(tracker, name)]
    objective, higher = aim["objective"], aim["higher"]
    estimates = results.estimates(rows, objective, higher=higher)
    ranked = results.rank([row for row in rows if row.phase != CONFIRM], objective, higher=higher)
    comparison = None
    if len(estimates) > 1:
        comparison = results.compare(rows, objective, estimates[0].configuration, estimates[1].configuration)
    return Findings(
        name=name,
        objective=objective,
        higher=higher,
        distance=aim["distance"],
        equal=plan["budget"]["equal"],
        budget=plan["budget"]["words"],
        planned=plan["planned"],
        rows=rows,
        estimates=estimates,
        comparison=comparison,
        best=estimates[0].configuration if estimates else ranked[0].number if ranked else None,
    )


def best_run(found: Findings) -> Row | None:
    """Of the best configuration's complete trials the best one, of those with fresh seeds where there are any."""
    rows = [row for row in found.rows if row.configuration == found.best]
    fresh = [row for row in rows if row.phase == CONFIRM and row.complete]
    ranked = results.rank(fresh or rows, found.objective, higher=found.higher)
    return ranked[0] if ranked else None


def _ends(found: Findings) -> tuple[Row | None, Row | None]:
    """The best run, and the worst of those that spent their budgets; where only one did, there is no worst."""
    best, ranked = best_run(found), results.rank(found.rows, found.objective, higher=found.higher)
    others = [row for row in ranked if row.configuration != found.best]
    return best, others[-1] if others else None


def _picture(tracker: Tracker, row: Row | None) -> bytes | None:
    """The last sample grid of a trial."""
    if row is None:
        return None
    paths = [artifact.path for artifact in tracker.client.list_artifacts(row.run_id, "images") if artifact.path.endswith(".png")]
    if not paths:
        return None
    last = f"images/{max(paths, key=lambda path: step_of(path) or 0).rpartition('/')[2]}"  # a server's path might lead elsewhere
    with tempfile.TemporaryDirectory(prefix="raygan-") as folder:
        return Path(tracker.client.download_artifacts(row.run_id, last, folder)).read_bytes()


def _caption(found: Findings, name: str, row: Row) -> str:
    reached = f"{found.objective} {row.scores[found.objective]:.3g} after {row.kimg:.4g} kimg"
    return f"{name}: {label(row)} (#{row.number}), seed {row.seed}\n{reached}"


def _facts(tracker: Tracker, run_id: str, found: Findings) -> dict[str, str]:
    """What a reader must know to trust the numbers."""
    plan = ledger.read_plan(tracker, run_id)
    environment = json.loads(past.read_text(tracker, run_id, tracking.ENVIRONMENT_FILE))
    sweep: Tree = plan["sweep"]
    versions = environment["packages"]
    seeds = sorted({row.seed for row in found.rows if row.phase == CONFIRM})
    return {
        "Question": f"{plan['space']} on {plan['base']}",
        "Budget of a trial": f"{found.budget} (equal in {found.equal.replace('_', ' ')})",
        "Search": f"{sweep['search'] or ('grid' if plan['points'] else 'tpe')}, {found.planned} trials",
        "Early stopping": _stopping(sweep),
        "Fresh seeds": ", ".join(map(str, seeds)) or "none yet",
        "Spent": f"{sum(row.kimg for row in found.rows):,.0f} kimg, {sum(row.device_seconds for row in found.rows):,.0f} device seconds",
        "Hardware": environment["hardware"]["summary"],
        "Versions": ", ".join(f"{name} {versions[name]}" for name in ("raygan", "torch", "ray", "mlflow")),
    }


def _stopping(sweep: Tree) -> str:
    within = f", within {sweep['rank_within']} first" if sweep["rank_within"] else ""
    return f"{sweep['scheduler']}{within}; alarms that end a trial: {', '.join(sweep['stop_on_alarms']) or 'none'}"


def _cautions(found: Findings) -> list[str]:
    """What weakens the finding."""
    cautions = []
    seeds = min((estimate.seeds for estimate in found.estimates), default=0)
    if 0 < seeds < 5:
        cautions.append(f"{seeds} seeds tell large differences from chance only; give sweep.seeds a larger number for a close race.")
    if found.equal == "device_seconds":
        cautions.append(
            "Device seconds are wall time of training: other work on the machine makes a budget hold fewer images, and a trial ends at the "
            "first scores after its budget."
        )
    if any(not row.reason for row in found.rows) or len([row for row in found.rows if row.phase != CONFIRM]) < found.planned:
        cautions.append("The sweep has not ended: what comes may change the order.")
    return cautions
