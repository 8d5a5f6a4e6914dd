"""What is kept of a sweep: findings read from MLflow, results.parquet, the best config, the report, the winner's model."""

import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from gan_core.building import load_dataset
from gan_core.overrides import dumps, validate
from pipelines import export, past, results, storage
from pipelines.config import JobConfig
from pipelines.patience import end_early
from pipelines.reports.page import finding
from pipelines.results import SPENT, Findings, Row
from pipelines.sweeps import findings, ledger, publishing
from pipelines.sweeps.config import Aim
from pipelines.sweeps.plan import SweepPlan
from pipelines.tracking import Tracker

ALIAS, MOST_COMPARED = "champion", 200


def charts(tracker: Tracker, aim: Aim) -> str:
    """Where all trials are compared in MLflow, the best first, also while they run."""
    condition = f"tags.`{ledger.KIND}` = '{ledger.TRIAL_KIND}'"
    return tracker.charts(condition, f"{ledger.SCORES}{aim.objective}", ascending=not aim.higher)


def finish(plan: SweepPlan, tracker: Tracker, run_id: str, *, anything_new: bool) -> str:
    """Keep everything in the sweep's run, unless nothing is new, and end it; returns the last words for the user."""
    found = findings.summarise(tracker, run_id)
    lines = [f"\n{finding(found)}"]
    if not anything_new:
        tracker.client.set_terminated(run_id, "FINISHED")
        return "\n".join([*lines, f"nothing was left to do; run {tracker.page(run_id)}{tracker.hint}"])
    write_table(tracker, run_id, found)
    winner = findings.best_run(found)
    if winner is not None:
        config = validate(past.read_config(tracker, winner.run_id), JobConfig)
        tracker.client.log_text(run_id, best_config(found, winner, config), ledger.BEST_FILE)
        lines.append(f"best config  {ledger.BEST_FILE} of the sweep's run; train it: raygan train --from-run {winner.run_id}")
        lines.append(f"model        {_model(plan, tracker, winner, config)}")
    folder = publishing.write(tracker, run_id, Path(f"report-{found.name}"))
    points = [Metric(key, value, int(time.time() * 1000), 0) for key, value in summary_metrics(found).items()]
    tracker.client.log_batch(run_id, metrics=points, synchronous=True)
    tracker.client.set_tag(run_id, "raygan.finding", finding(found))
    ranked = results.rank(found.rows, found.objective, higher=found.higher)[:MOST_COMPARED]
    links = [("all trials, the best first", charts(tracker, plan.aim))]
    links += [("plots over the searched keys", tracker.comparison([row.run_id for row in ranked]))] if ranked else []
    note = "\n\n".join([finding(found), *(f"[{words}]({address})" for words, address in links)])
    tracker.client.set_tag(run_id, "mlflow.note.content", note)
    tracker.client.set_terminated(run_id, "FINISHED")
    lines += [
        f"report       {folder / publishing.PAGE}",
        f"run          {tracker.page(run_id)}{tracker.hint}",
        f"compare      {charts(tracker, plan.aim)}",
        "             its page links to plots over the searched keys: parallel coordinates, box, contour",
    ]
    return "\n".join(lines)


def close(tracker: Tracker, run_id: str, name: str, status: str, error: str = "") -> None:
    """End the sweep's run, and those of its trials that have not ended, where it stops early."""
    try:
        running = [trial.info.run_id for trial in ledger.trials(tracker, name) if trial.info.status == "RUNNING"]
    except MlflowException:  # told by end_early
        running = []
    for trial in running:
        end_early(tracker, trial, "KILLED")
    end_early(tracker, run_id, status, error)


def best_config(found: Findings, winner: Row, config: JobConfig) -> str:
    """The winner's config as YAML, with the figures it was chosen by."""
    tree = config.model_dump()
    if found.equal == "device_seconds":
        tree["total_kimg"] = float(f"{winner.kimg:.6g}")
    head = [f"raygan train {ledger.BEST_FILE}", "", f"The best of the sweep {found.name}: {finding(found)}"]
    return "".join(f"# {line}".rstrip() + "\n" for line in head) + dumps(tree)


def write_table(tracker: Tracker, run_id: str, found: Findings) -> None:
    """All trials as a Parquet file: a column for each searched key, each score, and what was spent."""
    keys = sorted({key for row in found.rows for key in row.point})
    scores = sorted({score for row in found.rows for score in row.scores})
    plain = ("number", "configuration", "phase", "run_id", "variant", "step_ratio", "seed", "status", "reason")
    spent = ("kimg", "d_steps", "g_steps", "device_seconds")
    columns: dict[str, list[Any]] = {field: [getattr(row, field) for row in found.rows] for field in (*plain, *spent)}
    columns |= {f"point.{key}": [None if key not in row.point else str(row.point[key]) for row in found.rows] for key in keys}
    columns |= {score: [row.scores.get(score) for row in found.rows] for score in scores}
    with tempfile.TemporaryDirectory(prefix="raygan-") as folder:
        path = Path(folder) / ledger.RESULTS_FILE
        pq.write_table(pa.table(columns), path)
        tracker.client.log_artifact(run_id, str(path))


def summary_metrics(found: Findings) -> dict[str, float]:
    """What the sweep's own run shows as metrics."""
    spent = {
        f"sweep/{key}": float(sum(getattr(row, key) for row in found.rows)) for key in ("kimg", "d_steps", "g_steps", "device_seconds")
    }
    counts = {
        "sweep/trials": float(len(found.rows)),
        "sweep/complete": float(sum(row.reason == SPENT for row in found.rows)),
        "sweep/failed": float(sum(row.status == "FAILED" for row in found.rows)),
    }
    best = {f"sweep/best_{found.objective}": found.estimates[0].mean} if found.estimates else {}
    return {**spent, **counts, **best}


def _model(plan: SweepPlan, tracker: Tracker, winner: Row, config: JobConfig) -> str:
    """Log the winner's generator, and register it if asked; returns how to load it."""
    with storage.latest(config.ray.storage_path, winner.run_id) as folder:
        uri = export.log_generator(tracker, winner.run_id, config.gan(), load_dataset(config.gan()), folder)
    name = plan.config.sweep.register_as
    if name is None:
        return uri
    score = {"raygan.score": f"{plan.aim.objective} {winner.scores[plan.aim.objective]:.6g}"}
    return export.register(tracker, name, uri, winner.run_id, tags=score, alias=ALIAS)
