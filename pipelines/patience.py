"""With a tracking store that is away for a while: again and again, or, at a bitter end, not at all and told."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from mlflow.exceptions import MlflowException

from pipelines.signals import deaf
from pipelines.tracking import ERROR_FILE, Tracker

RETRY_SECONDS = 2.0
T = TypeVar("T")


def patiently(action: Callable[[], T], seconds: float, say: Callable[[str], None]) -> T:
    """Repeat an action on the tracking store until it succeeds or the time is up; the user is told each time.

    Raises:
        MlflowException, OSError: it never did.
    """
    give_up_at = time.monotonic() + seconds
    while True:
        try:
            return action()
        except (MlflowException, OSError) as error:
            if time.monotonic() > give_up_at:
                raise
            say(f"the tracking store did not answer ({str(error).splitlines()[0][:200]}); trying again")
            time.sleep(RETRY_SECONDS)


def end_early(tracker: Tracker, run_id: str, status: str, error: str = "", tags: Mapping[str, str] | None = None) -> None:
    """Set the final status of a run that was not completed, and tags; a store that is away keeps RUNNING, and the user is told. Signals
    do not disturb it.
    """
    with deaf():
        try:
            for key, value in (tags or {}).items():
                tracker.client.set_tag(run_id, key, value)
            if error:
                tracker.client.log_text(run_id, error, ERROR_FILE)
            tracker.client.set_terminated(run_id, status)
        except Exception as failure:  # the one that brought us here matters more
            print(f"the status {status} could not be set in {tracker.uri}: {failure}", file=sys.stderr)
