"""The MLflow runs of a job, found by its id."""

import sys
from typing import Any

from mlflow.entities import Run

from pipelines import tracking
from pipelines.environment import SUBMISSION
from pipelines.sweeps import ledger

UNFINISHED = {"STOPPED": "KILLED", "FAILED": "FAILED"}
SHOWN = 10


def tell(tracking_uri: str | None, job: str, ended: Any = None) -> int:
    """Print the pages of the job's runs; returns how many there are. `ended` is what Ray says of a job that is over: a run that its end has
    left RUNNING is set to what became of the job, for nobody else will.
    """
    mark = (ended.metadata or {}).get(SUBMISSION) if ended else None
    end = UNFINISHED.get(str(ended.status.value), "") if ended else ""
    if not tracking_uri:
        print(
            f"raygan submit: the runs of {job} are where the cluster's own MLFLOW_TRACKING_URI says; set it here to find them",
            file=sys.stderr,
        )
        return 0
    try:
        tracker = tracking.reach(tracking_uri)
        own = ledger.search(tracker, None, f"tags.`{tracking.RAY_JOB}` = '{job}'")
        own = [run for run in own if not mark or run.data.tags.get(SUBMISSION) == mark]
        left = [run.info.run_id for run in own if end and run.info.status == "RUNNING" and (mark or _began_in(run, ended))]
        found = own + _gone_on(tracker, job, mark)
        for run_id in left:
            tracker.client.set_terminated(run_id, end)
    except Exception as error:  # each kind of store has its own exceptions; the job's end does not depend on it
        print(f"raygan submit: the job's runs cannot be looked up from here: {str(error).splitlines()[0][:300]}", file=sys.stderr)
        return 0
    trials = sum(run.data.tags.get(ledger.KIND) == ledger.TRIAL_KIND for run in found)
    heads = [run for run in found if run.data.tags.get(ledger.KIND) != ledger.TRIAL_KIND]
    for run in heads[:SHOWN]:
        page = tracker._replace(experiment_id=run.info.experiment_id).page(run.info.run_id)
        status = end if run.info.run_id in left else run.info.status
        print(f"run {run.info.run_id} {status}  {page}{tracker.hint}{_where_it_went(run, job)}", flush=True)
    if trials:
        print(f"and {trials} trials beside it", flush=True)
    return len(found)


def _gone_on(tracker: tracking.Tracker, job: str, mark: str | None) -> list[Run]:
    """The runs that were the job's before another one went on with them."""
    key = f"{tracking.RAY_JOB_OF}{job}"
    found = ledger.search(tracker, None, f"tags.`{key}` LIKE '%'")
    return [run for run in found if run.data.tags.get(tracking.RAY_JOB) != job and (not mark or run.data.tags[key] == mark)]


def _where_it_went(run: Run, job: str) -> str:
    now = run.data.tags.get(tracking.RAY_JOB)
    if now == job:
        return ""
    return f"  (job {now} went on with it)" if now else "  (it went on outside of jobs)"


def _began_in(run: Run, job: Any) -> bool:
    """Whether a run with the id of a job that has no mark is that job's, and not one's of the same id on another cluster."""
    return not run.data.tags.get(SUBMISSION) and bool(job.start_time) and run.info.start_time >= job.start_time
