"""Check what the textbook says of GANs with the code that trains them, draw it, and keep it as a run in MLflow.

`raygan theory [PART ...]`; without parts, all of them. All is float64 on one CPU core, with quadrature in place of random samples.

  game        one-dimensional Gaussians: the optimal discriminator p/(p+q), the value -log 4 + 2 JSD, the generator's way to the data
  bounds      Jensen-Shannon and the nine f-divergences: the exact bound, and the one that a trained discriminator reaches
  dirac       the Dirac-GAN: which loss converges with which penalty
  saturation  the generator's gradient as the discriminator grows sure
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from pydantic import ValidationError

from gan_core.registry import require_choice
from gan_core.schema import explain
from gan_core.theory import bounds, dirac, game, saturation, stability
from gan_core.theory.check import DIFFERS
from pipelines import environment, theory_plots, tracking
from pipelines.config import MlflowConfig
from pipelines.signals import status_of, terminable
from pipelines.statuses import FAILED, USAGE
from pipelines.theory_report import (
    Findings,
    as_csv,
    as_text,
    check_rows,
    count,
    departures,
    document,
    eigenvalue_rows,
    legend_rows,
    verdict_rows,
)
from pipelines.tracking import Tracker

EXPERIMENT = "raygan-theory"
REPORT, CHECKS = "theory.md", "checks.csv"


class Job(NamedTuple):
    """Which parts, where to, and the run that they are logged to."""

    parts: list[str]
    folder: Path
    tracker: Tracker
    run_id: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 all checks hold, 1 one fails or could not be done, 2 bad input (nothing was started), 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        for part in options.parts:
            require_choice("part", part, PARTS)
        folder = Path(options.out)
        folder.mkdir(parents=True, exist_ok=True)
        tracker = tracking.connect(_without_secrets(options.tracking_uri), EXPERIMENT)
        parts = list(dict.fromkeys(options.parts)) or list(PARTS)
        job = Job(parts, folder, tracker, _create_run(tracker, parts))
    except (ValueError, OSError, MlflowException) as error:
        print(f"raygan theory: {error}", file=sys.stderr)
        return USAGE
    torch.set_num_threads(1)  # the networks are small: a second thread makes them slower
    try:
        with terminable():
            return _run(job)
    except KeyboardInterrupt as interruption:
        tracker.client.set_terminated(job.run_id, "KILLED")
        print("\ninterrupted", file=sys.stderr)
        return status_of(interruption)
    except Exception as error:  # the run in MLflow must say that it failed
        print(f"\nraygan theory: run {job.run_id} failed: {error}", file=sys.stderr)
        tracker.client.set_terminated(job.run_id, "FAILED")
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="raygan theory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--out", default="theory", metavar="FOLDER", help="where the pictures and tables go (default: theory)")
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow's (default: $MLFLOW_TRACKING_URI, else mlflow.db here)")
    return parser


def _without_secrets(uri: str | None) -> str | None:
    """The URI, refused where a config's would be.

    Raises:
        ValueError: it holds a password.
    """
    try:
        return MlflowConfig(tracking_uri=uri).tracking_uri
    except ValidationError as error:
        raise ValueError("\n".join(explain(error, MlflowConfig))) from None


def _create_run(tracker: Tracker, parts: list[str]) -> str:
    facts = environment.describe()
    tags = tracking.source_tags("theory", f"raygan theory {shlex.join(parts)}", facts)
    run_id: str = tracker.client.create_run(tracker.experiment_id, run_name="theory", tags=tags).info.run_id
    tracker.client.log_param(run_id, "parts", " ".join(parts))
    tracking.log_json(tracker, run_id, facts, tracking.ENVIRONMENT_FILE)
    return run_id


def _run(job: Job) -> int:
    started, findings = time.monotonic(), []
    for part in job.parts:
        print(f"{part} ...", end=" ", flush=True)
        begun = time.monotonic()
        findings.append(PARTS[part](job.folder))
        print(f"{time.monotonic() - begun:.0f} s", flush=True)
    seconds = time.monotonic() - started
    checks = [check for found in findings for check in found.checks]
    failed = [check for check in checks if not check.passes]
    summary = f"{count(checks)}; computed in {seconds:.0f} s"
    (job.folder / REPORT).write_text(document(findings, summary))
    (job.folder / CHECKS).write_text(as_csv(checks))
    for found in findings:
        print("\n".join(["", found.title, "", as_text(check_rows(found.checks)), *departures(found.checks)]))
        for title, rows in found.tables.items():
            print(f"\n{title}\n\n{as_text(rows)}")
    _deliver(
        job,
        findings,
        {
            "theory/checks": len(checks),
            "theory/failed": len(failed),
            "theory/differing": sum(check.verdict == DIFFERS for check in checks),
            "theory/seconds": seconds,
        },
    )
    job.tracker.client.set_tag(job.run_id, "raygan.theory", summary)
    job.tracker.client.set_terminated(job.run_id, "FAILED" if failed else "FINISHED")
    print(f"\n{summary}\n{'report':12} {job.folder / REPORT}\n{'run':12} {job.tracker.page(job.run_id)}{job.tracker.hint}")
    for check in failed:
        print(f"raygan theory: fails: {check.name}: {check.claim}", file=sys.stderr)
    return FAILED if failed else 0


def _deliver(job: Job, findings: list[Findings], values: dict[str, float]) -> None:
    """Numbers, curves and files to the MLflow run."""
    for found in findings:
        for check in found.checks:
            values[f"theory/measured/{check.name}"] = check.measured
            values[f"theory/difference/{check.name}"] = check.difference
        for key, curve in found.curves.items():
            now = int(time.time() * 1000)
            points = [Metric(f"theory/{key}", value, now, step) for step, value in curve]
            job.tracker.client.log_batch(job.run_id, metrics=points, synchronous=True)
    tracking.log_values(job.tracker, job.run_id, values, step=0)
    for path in [job.folder / REPORT, job.folder / CHECKS, *(found.picture for found in findings)]:
        job.tracker.client.log_artifact(job.run_id, str(path))


def _game(folder: Path) -> Findings:
    played, picture = game.play(), folder / "game.png"
    theory_plots.draw_game(played, picture)
    curves = {f"game/{name}": list(enumerate(played.path[:, column].tolist())) for column, name in enumerate(("mean", "deviation"))}
    return Findings("The game on Gaussians (1406.2661, figure 1 and section 4)", game.checks(played), picture, {}, curves)


def _bounds(folder: Path) -> Findings:
    reached, picture = bounds.compare_all(), folder / "bounds.png"
    theory_plots.draw_bounds(reached, picture)
    return Findings("Bounds on divergences (1406.2661, theorem 1; 1606.00709, eq. 4)", bounds.checks(reached), picture, {}, {})


def _dirac(folder: Path) -> Findings:
    verdicts, picture = dirac.verdicts(gamma=stability.GAMMA), folder / "dirac.png"
    theory_plots.draw_dirac(verdicts, picture)
    tables = {"What becomes of a game near (0, 0)": verdict_rows(verdicts), "What the words mean": legend_rows()}
    return Findings(
        "The Dirac-GAN (1801.04406)", stability.checks(verdicts), picture, tables, {}, {"Eigenvalues": eigenvalue_rows(verdicts)}
    )


def _saturation(folder: Path) -> Findings:
    result, picture = saturation.confident(), folder / "saturation.png"
    theory_plots.draw_saturation(result, picture)
    curves = {
        f"saturation/{name}_gradient_norm": list(zip(result.d_steps, result.norms[:, column].tolist(), strict=True))
        for column, name in enumerate(saturation.OBJECTIVES)
    }
    curves["saturation/judged_real"] = list(zip(result.d_steps, result.judged_real.tolist(), strict=True))
    title = "The generator's gradient (1406.2661, section 3; 1701.04862; 1606.00709, section 3.2)"
    return Findings(title, saturation.checks(result), picture, {}, curves)


PARTS: dict[str, Callable[[Path], Findings]] = {"game": _game, "bounds": _bounds, "dirac": _dirac, "saturation": _saturation}

if __name__ == "__main__":
    sys.exit(main())
