"""Following a job to its end: its output, once, whatever happens to the connection; and the exit status that it comes to."""

import asyncio
import sys
import time
from typing import Any

import aiohttp
from ray.exceptions import AuthenticationError

from pipelines.environment import SUBMISSION
from pipelines.statuses import FAILED
from pipelines.submitting.address import Cluster

QUIET_SECONDS = 10.0  # without output, until the server is asked whether the job is over
AWAY_SECONDS = 900.0  # without an answer, until we give up; the job does not
STOP_AGAIN_SECONDS = 60.0  # how long a cluster that does not take it is asked to stop a job
PAUSES = (1.0, 2.0, 5.0, 10.0)
STOPPED = 143  # what SIGTERM makes of a command: Ray keeps no exit status of a job that it stopped
BY_SIGNAL = 128


class LostError(RuntimeError):
    """The cluster has not answered for long, or does not know the job any more."""


class UnstoppedError(RuntimeError):
    """The cluster could not be told to stop the job, which goes on."""


class Output:
    """A job's output so far, as it was printed. Each connection sends it from the beginning: what was printed is passed over."""

    def __init__(self) -> None:
        self.printed = 0
        self._seen = 0

    def begin(self) -> None:
        """A new connection."""
        self._seen = 0

    def take(self, text: str) -> None:
        """Print what of `text`, the connection's next piece, was not printed yet."""
        fresh = text[max(0, self.printed - self._seen) :]
        self._seen += len(text)
        if fresh:
            self.printed += len(fresh)
            print(fresh, end="", flush=True)


def follow(cluster: Cluster, job: str, output: Output) -> Any:
    """Print the job's output until it is over; returns what Ray says of it.

    Raises:
        LostError: there is no more to learn from the cluster.
    """
    answered, failures = time.monotonic(), 0
    while True:
        trouble = ""
        try:
            output.begin()
            asyncio.run(_stream(cluster, job, output))
        except (aiohttp.ClientError, RuntimeError, OSError) as error:  # RuntimeError: Ray's, of a connection that was cut
            trouble = str(error) or type(error).__name__
        try:
            about = info(cluster, job)
            if about.status.is_terminal():
                _rest(cluster, job, output)
                return about
            answered = time.monotonic()
        except (RuntimeError, OSError, AuthenticationError) as error:
            if is_unknown(error) or isinstance(error, AuthenticationError):
                raise LostError(str(error).splitlines()[0]) from None
            trouble = trouble or str(error)
            if time.monotonic() - answered > AWAY_SECONDS:
                raise LostError(f"{cluster.address} has not answered for {AWAY_SECONDS / 60:g} minutes") from None
        if trouble and not failures:
            print("raygan submit: the connection is lost; trying again", file=sys.stderr, flush=True)
        failures = failures + 1 if trouble else 0
        time.sleep(PAUSES[min(failures, len(PAUSES) - 1)])


def stop(cluster: Cluster, job: str, arriving: str = "") -> None:
    """Tell the cluster to stop the job, again for a while where it does not answer. `arriving` is the mark of a job that may not be there
    yet, or not under this id, which another one may have.

    Raises:
        UnstoppedError: it was not told; the message says why.
    """
    last, failures = time.monotonic() + STOP_AGAIN_SECONDS, 0
    while True:
        try:
            if arriving and (info(cluster, job).metadata or {}).get(SUBMISSION) != arriving:
                raise UnstoppedError(f"{cluster.address} has another job of that id")
            cluster.ask(lambda: cluster.client.stop_job(job))
            return
        except UnstoppedError:
            raise
        except (RuntimeError, OSError, AuthenticationError) as error:  # OSError: also requests' and the time-out
            hopeless = isinstance(error, AuthenticationError) or (is_unknown(error) and not arriving)
            pause = PAUSES[min(failures, len(PAUSES) - 1)]
            if hopeless or time.monotonic() + pause > last:
                raise UnstoppedError((str(error).strip().splitlines() or [type(error).__name__])[0][:300]) from None
        failures += 1
        time.sleep(pause)


def end(cluster: Cluster, job: str, seconds: float) -> Any:
    """What Ray says of a job that was told to stop: once it is over, else after so many seconds.

    Raises:
        LostError: nothing any more.
    """
    last = time.monotonic() + seconds
    while True:
        try:
            about = info(cluster, job)
        except (RuntimeError, OSError) as error:
            if is_unknown(error) or time.monotonic() > last:
                raise LostError(f"what became of job {job} is not known: {error}") from None
        else:
            if about.status.is_terminal() or time.monotonic() > last:
                return about
        time.sleep(PAUSES[0])


def info(cluster: Cluster, job: str) -> Any:
    """What Ray says of a job.

    Raises:
        RuntimeError: it does not know it.
    """
    return cluster.ask(lambda: cluster.client.get_job_info(job))


def is_unknown(error: Exception) -> bool:
    """Whether this is how Ray's client says that the cluster has no such job."""
    return str(error).startswith("Request failed with status code 404")


def exit_status(about: Any) -> int:
    """That of the command, 128 + n where signal n ended it; 143 for a job that was stopped, 1 for one that Ray lost or could not start."""
    if about.status == "SUCCEEDED":
        return 0
    if about.status == "STOPPED":
        return STOPPED
    code: int | None = about.driver_exit_code
    if code is None:
        return FAILED
    return code if code > 0 else BY_SIGNAL - code


def last_words(job: str, about: Any) -> str:
    """How the job ended, in a line; and for one that Ray could not run, why."""
    if about.status != "FAILED":
        return f"job {job} {about.status.lower()}"
    if about.driver_exit_code is not None:
        return f"job {job} failed with exit status {exit_status(about)}"
    return f"job {job} failed in Ray ({about.error_type or 'no reason given'}): {(about.message or '').strip()[-1000:]}"


async def _stream(cluster: Cluster, job: str, output: Output) -> None:
    """Print one connection's pieces, until it ends or the job is over and silent."""
    pieces = cluster.client.tail_job_logs(job)
    waiting = asyncio.ensure_future(anext(pieces, None))
    try:
        while True:
            done, _ = await asyncio.wait({waiting}, timeout=QUIET_SECONDS)
            if not done:
                about = await asyncio.to_thread(info, cluster, job)
                if about.status.is_terminal():
                    return
            elif (piece := waiting.result()) is None:
                return
            else:
                output.take(piece)
                waiting = asyncio.ensure_future(anext(pieces, None))
    finally:
        waiting.cancel()


def _rest(cluster: Cluster, job: str, output: Output) -> None:
    """What the connection did not bring of a job that is over; the node that holds it may be gone."""
    try:
        output.begin()
        output.take(cluster.ask(lambda: cluster.client.get_job_logs(job)))
    except (RuntimeError, OSError) as error:
        print(f"raygan submit: the end of the output may be missing: {str(error).splitlines()[0]}", file=sys.stderr)
