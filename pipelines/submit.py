"""Run a command of raygan on a Ray cluster as a job: check it here, send this folder's code, follow its output to the end.

`raygan submit [options] train|sweep|evaluate|sample|prepare|report ...`; options of `submit` come before the command. Environments, data
and secrets do not travel: --dry-run lists what does. Afterwards, with the id that was printed:

    raygan submit --logs ID        # follow it, also again
    raygan submit --run ID         # its pages in MLflow
    raygan submit --stop ID        # with time for a checkpoint
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ray.exceptions import AuthenticationError

from pipelines.signals import terminable
from pipelines.statuses import FAILED, INTERRUPTED, USAGE
from pipelines.submitting import address, following, orders, package, runs, sending
from pipelines.submitting.address import Cluster

MOST_MEGABYTES = 100.0  # that a Ray dashboard takes


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the job's exit status: 0 done, 143 stopped, 1 also where Ray lost it; 2 bad input (nothing was started), 130 interrupted."""
    options = parser().parse_args(arguments)
    asked = next((name for name in _OF_A_JOB if getattr(options, name)), None)
    try:
        _require_effect(options, asked)
        with terminable() if options.stop_on_interrupt else nullcontext():
            return _OF_A_JOB[asked](options, sending.require_name(getattr(options, asked), f"--{asked}")) if asked else _submit(options)
    except following.LostError as error:
        print(f"raygan submit: {error}", file=sys.stderr)
        return FAILED
    except (ValueError, OSError, RuntimeError, AuthenticationError) as error:
        print(f"raygan submit: {str(error).strip() or type(error).__name__}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("\nraygan submit: interrupted", file=sys.stderr)
        return INTERRUPTED


def _submit(options: argparse.Namespace) -> int:
    root = options.working_dir.resolve()
    order = orders.read(options.words, root)
    job = sending.name_of(options.submission_id, order.command)
    terms = sending.terms(job, sending.variables(order, options.pass_env), options.entrypoint_cpus, options.entrypoint_gpus)
    content = package.collect(root, order.files)
    if options.dry_run:
        print(package.listing(content))
        print(f"entrypoint   {order.entrypoint}")
        print("environment  " + " ".join(f"{name}={value}" for name, value in terms.variables.items()))
        print(f"would travel {package.total(content)}")
        return 0
    package.require_size(content, options.size_limit)
    cluster = address.connect(options.address)
    sending.require_reached(order, cluster)
    sending.warn_of_credentials()
    if kept := package.held_back(content):
        print(f"raygan submit: {kept}", file=sys.stderr)
    packed = package.pack(content)
    try:
        sending.send(cluster, order, terms, packed)
    except KeyboardInterrupt:
        print(f"\nraygan submit: interrupted; job {job} may have been sent\n{_hints(cluster, job)}", file=sys.stderr, flush=True)
        if not options.stop_on_interrupt:
            return INTERRUPTED
        return _stop_here(cluster, job, order.tracking_uri, following.Output(), arriving=terms.mark)
    print(f"job {job} at {cluster.address}: {package.total(content)}", flush=True)
    if options.no_wait:
        print(_hints(cluster, job), flush=True)
        return 0
    return _to_its_end(cluster, job, order.tracking_uri, stop=options.stop_on_interrupt)


def _to_its_end(cluster: Cluster, job: str, tracking_uri: str | None, *, stop: bool) -> int:
    """Follow the job; returns its exit status, or 130 after Ctrl-C, which with `stop` ends the job first."""
    output = following.Output()
    try:
        return _conclude(following.follow(cluster, job, output), job, tracking_uri)
    except following.LostError as error:
        print(f"raygan submit: {error}; what became of job {job} is not known", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        if not stop:
            print(f"\nraygan submit: interrupted; job {job} goes on\n{_hints(cluster, job)}", file=sys.stderr)
            return INTERRUPTED
    return _stop_here(cluster, job, tracking_uri, output)


def _stop_here(cluster: Cluster, job: str, tracking_uri: str | None, output: following.Output, arriving: str = "") -> int:
    """Stop the job, after Ctrl-C or SIGTERM, and follow it to its end; 130 whatever comes of it."""
    print(f"\nraygan submit: stopping job {job}, which has {sending.STOP_SECONDS} s for its checkpoint", file=sys.stderr, flush=True)
    try:
        following.stop(cluster, job, arriving)
        _conclude(following.follow(cluster, job, output), job, tracking_uri)
    except KeyboardInterrupt:
        print(f"\nraygan submit: not waiting for the end of job {job}\n{_hints(cluster, job)}", file=sys.stderr)
    except following.UnstoppedError as error:
        print(f"raygan submit: {_unstopped(job, error)}\n{_hints(cluster, job)}", file=sys.stderr)
    except following.LostError as error:
        print(f"raygan submit: {error}; what became of job {job} is not known", file=sys.stderr)
    return INTERRUPTED


def _unstopped(job: str, error: following.UnstoppedError) -> str:
    return f"job {job} could not be told to stop, and where it was sent it goes on ({error})"


def _conclude(about: Any, job: str, tracking_uri: str | None) -> int:
    """Say how the job ended and where its runs are; returns its exit status."""
    runs.tell(tracking_uri, job, about)
    print(f"raygan submit: {following.last_words(job, about)}", file=sys.stderr, flush=True)
    return following.exit_status(about)


def _logs(options: argparse.Namespace, job: str) -> int:
    cluster, about = _known(options, job)
    return _to_its_end(cluster, job, _uri(about), stop=options.stop_on_interrupt)


def _status(options: argparse.Namespace, job: str) -> int:
    _, about = _known(options, job)
    print(f"{job} {about.status.value}: {about.entrypoint}")
    return 0


def _run(options: argparse.Namespace, job: str) -> int:
    uri = orders.tracking_here() or _uri(_known(options, job)[1])
    if not runs.tell(uri, job):
        print(f"raygan submit: no run of job {job} is to be found" + (f" in {uri}" if uri else ""), file=sys.stderr)
        return FAILED
    return 0


def _stop(options: argparse.Namespace, job: str) -> int:
    cluster, about = _known(options, job)
    if not about.status.is_terminal():
        try:
            following.stop(cluster, job)
        except following.UnstoppedError as error:
            print(f"raygan submit: {_unstopped(job, error)}", file=sys.stderr)
            return FAILED
        about = following.end(cluster, job, sending.STOP_SECONDS + address.ANSWER_SECONDS)
        if not about.status.is_terminal():
            print(f"raygan submit: job {job} was told to stop, and is still {about.status.value}", file=sys.stderr)
            return FAILED
    _conclude(about, job, _uri(about))
    return 0


_OF_A_JOB: dict[str, Callable[[argparse.Namespace, str], int]] = {"logs": _logs, "status": _status, "stop": _stop, "run": _run}
_OF_A_NEW_ONE = ("working_dir", "submission_id", "no_wait", "dry_run", "size_limit", "pass_env", "entrypoint_cpus", "entrypoint_gpus")


def _known(options: argparse.Namespace, job: str) -> tuple[Cluster, Any]:
    """The cluster, and what it says of a job.

    Raises:
        ValueError: it does not know it.
    """
    cluster = address.connect(options.address)
    try:
        return cluster, following.info(cluster, job)
    except RuntimeError as error:
        raise ValueError(f"{cluster.address} knows no job {job}" if following.is_unknown(error) else str(error)) from None


def _uri(about: Any) -> str | None:
    """Where the job's runs are."""
    uri: str | None = (about.metadata or {}).get("raygan.tracking_uri") or orders.tracking_here()
    return uri


def _hints(cluster: Cluster, job: str) -> str:
    again = f"raygan submit --address {cluster.address}"
    return f"follow it:  {again} --logs {job}\nstop it:    {again} --stop {job}\nits run:    {again} --run {job}"


def _require_effect(options: argparse.Namespace, asked: str | None) -> None:
    """Options that belong to a new job are errors where another one is spoken of.

    Raises:
        ValueError: one is given without effect.
    """
    if asked is None:
        return
    if options.words:
        raise ValueError(f"--{asked} is about a job there is; leave out the command {options.words[0]}")
    for name in _OF_A_NEW_ONE:
        if getattr(options, name) != parser().get_default(name):
            raise ValueError(f"--{name.replace('_', '-')} has no effect with --{asked}; leave it out")
    if options.stop_on_interrupt and asked != "logs":
        raise ValueError(f"--stop-on-interrupt has no effect with --{asked}; leave it out")


def _amount(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be 0 or more, given {text}")
    return value


def _megabytes(text: str) -> float:
    value = float(text)
    if not 0.0 < value <= MOST_MEGABYTES:
        raise argparse.ArgumentTypeError(
            f"must be above 0 and at most {MOST_MEGABYTES:g}, which is what a Ray dashboard takes, given {text}"
        )
    return value


def parser() -> argparse.ArgumentParser:
    """Of this command's words."""
    parser = argparse.ArgumentParser(prog="raygan submit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND ...", help="a command of raygan, as it would be typed here")
    parser.add_argument("--address", metavar="URL", help="the dashboard's; else RAY_API_SERVER_ADDRESS, RAY_ADDRESS, http://127.0.0.1:8265")
    parser.add_argument(
        "--working-dir", type=Path, default=Path(), metavar="DIR", help="the folder whose code and configs travel; this one"
    )
    parser.add_argument("--size-limit", type=_megabytes, default=50.0, metavar="MB", help="of what travels, before compression (50)")
    parser.add_argument("--dry-run", action="store_true", help="list what would travel, with sizes, and stop")
    parser.add_argument("--submission-id", metavar="ID", help="the job's id; made unless given")
    parser.add_argument("--pass-env", action="append", default=[], metavar="NAME", help="a variable to send; everybody there sees it")
    parser.add_argument(
        "--entrypoint-cpus", type=_amount, default=0.0, metavar="N", help="CPUs for the command itself, beside its workers (0)"
    )
    parser.add_argument("--entrypoint-gpus", type=_amount, default=0.0, metavar="N", help="GPUs for the command itself (0)")
    parser.add_argument("--no-wait", action="store_true", help="print the job's id and leave")
    parser.add_argument("--stop-on-interrupt", action="store_true", help="Ctrl-C and SIGTERM stop the job; without, it goes on")
    about = parser.add_argument_group("a job that was submitted").add_mutually_exclusive_group()
    about.add_argument("--logs", metavar="ID", help="follow its output from the beginning; returns its exit status")
    about.add_argument("--status", metavar="ID", help="print its status")
    about.add_argument("--stop", metavar="ID", help="stop it, and wait for its end")
    about.add_argument("--run", metavar="ID", help="print its runs' pages in MLflow")
    return parser


if __name__ == "__main__":
    sys.exit(main())
