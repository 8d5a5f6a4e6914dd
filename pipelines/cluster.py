"""Joining a Ray cluster, or starting one on this machine for as long as it is needed."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import ray
from ray._private import ray_constants, services, utils
from ray._private.node import Node
from ray._raylet import Config  # type: ignore[attr-defined]  # not in its stub
from ray.exceptions import AuthenticationError, RayError

from pipelines import unwatched

LOOPBACK = "127.0.0.1"
AUTH_MODE, TOKENS = "RAY_AUTH_MODE", ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
TASKS_REMEMBERED = 1000
BUILDER = "_build_python_executable_command_memory_profileable"  # of Ray's services
# Of a cluster of our own, which is one machine for one command: how often Ray looks for what is rare here, or what nobody asks for. Each
# look takes time from the workers. It looks for memory as often as anywhere, for where it comes late the kernel ends processes.
OURS = {
    "event_stats": False,
    "debug_dump_period_milliseconds": 600_000,
    "local_fs_monitor_interval_ms": 5000,
    "object_manager_timer_freq_ms": 1000,
    "raylet_check_gc_period_milliseconds": 1000,
    "kill_idle_workers_interval_ms": 1000,
    "gcs_pull_resource_loads_period_milliseconds": 10_000,  # for an autoscaler
    "report_worker_backlog_interval_ms": 10_000,  # for an autoscaler
}
UNWATCHED = {"task_events_report_interval_ms": 0, "enable_metrics_collection": False}  # 0 is never
TRAINING = {"worker_niceness": 0}  # Ray has its workers yield to all other processes; ranks are what the machine is for
WATCHED = {"task_events_max_num_task_in_gcs": TASKS_REMEMBERED}
_started_here = threading.Event()


@contextmanager
def connected(*, dashboard: bool, trains: bool = False, environment: dict[str, str] | None = None) -> Iterator[None]:
    """The cluster that $RAY_ADDRESS names, else one of this machine's CPUs and GPUs that ends with the block, with or without Ray's
    dashboard, and that only this machine reaches; workers have `environment`, and on one that `trains`, by `launch`, they yield to nobody.
    Without a dashboard there is no memory of tasks and no metrics port either, which nobody would know of.

    A token in the environment is shown to a cluster that is joined, unless $RAY_AUTH_MODE says otherwise.

    Raises:
        ConnectionError: the cluster does not answer, or not without a token.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # "local", or Ray would join whatever cluster `ray start` once made on this machine.
    system = {"_system_config": _settings(dashboard=dashboard, trains=trains)}
    here = {"address": "local", "num_cpus": os.cpu_count(), "include_dashboard": dashboard, "_node_ip_address": LOOPBACK, **system}
    joined = os.environ.get("RAY_ADDRESS")
    local = {} if joined else here
    if joined:
        _show_token()
    workers = {"runtime_env": {"env_vars": environment}} if environment else {}
    before = signal.getsignal(signal.SIGTERM)
    try:
        with ExitStack() as stack:
            # Ray's handlers in Python end the program in silence.
            stack.enter_context(_instead(utils, "set_sigterm_handler", lambda *_: None))
            if local:
                stack.enter_context(_on_loopback())
                stack.enter_context(_in_sessions_of_their_own())
                stack.enter_context(_without_services(dashboard=dashboard))
            try:
                ray.init(log_to_driver=False, logging_level="ERROR", **workers, **local)
            except (RayError, ConnectionError) as error:
                raise ConnectionError(f"RAY_ADDRESS={joined}: {error}{_about_token(error)}" if joined else f"Ray: {error}") from error
            except KeyboardInterrupt:
                signal.alarm(0)  # by which Ray's handler in C++, where it was asked first, would abort the program within 3 s
                raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # instead of the one in C++
        if local:
            _started_here.set()
        yield
    finally:
        ray.shutdown()
        _started_here.clear()


def started_here() -> bool:
    """Whether this process is in a cluster that `connected` has started, rather than joined."""
    return _started_here.is_set()


def joins() -> bool:
    """Whether `connected` joins a cluster rather than starting one."""
    return bool(os.environ.get("RAY_ADDRESS"))


def _settings(*, dashboard: bool, trains: bool) -> dict[str, Any]:
    """What a cluster of our own is told, but for what the user has set as RAY_<name>, which it would overrule. Ray's memory of tasks, which
    are all calls of actors, is kept for people who look at them: 100,000, of some kB each.
    """
    settings = OURS | (TRAINING if trains else {}) | (WATCHED if dashboard else UNWATCHED)
    return {name: value for name, value in settings.items() if f"RAY_{name}" not in os.environ}


def _show_token() -> None:
    """Have Ray use the token in the environment, as `raygan submit` does: left to itself, it sends none to an address that it is given."""
    if AUTH_MODE not in os.environ and any(os.environ.get(name) for name in TOKENS):
        os.environ[AUTH_MODE] = "token"
        Config.initialize("")  # Ray read the mode while it was imported


def _about_token(error: Exception) -> str:
    """What to try where a cluster that asks for a token would seem not to answer."""
    if isinstance(error, AuthenticationError):
        return ""
    if os.environ.get(AUTH_MODE) == "token":
        return "; if it is there, it refuses the token: give the one that it was started with"
    return f"; if the cluster asks for a token, export {AUTH_MODE}=token {TOKENS[0]}=..."


@contextmanager
def _instead(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextmanager
def _without_services(*, dashboard: bool) -> Iterator[None]:
    """A node that starts in the block has no autoscaler, which could add no machine; nobody who reads the workers' logs for a driver that
    does not want them; and without a dashboard no server for it, which would report nothing but usage, and nothing in the agent that this
    server would ask. Each is a process of a second.
    """
    with ExitStack() as stack:
        for name in ("start_monitor", "start_log_monitor"):
            stack.enter_context(_instead(Node, name, lambda _: None))
        if not dashboard:
            stack.enter_context(_instead(services, "start_api_server", lambda *_, **__: ("", None)))
            stack.enter_context(_instead(utils, "get_dashboard_dependency_error", lambda: ImportError("nobody watches")))
            stack.enter_context(_instead(services, BUILDER, partial(_unwatched, getattr(services, BUILDER))))
        yield


def _unwatched(build: Any, component: str, *told: Any, **named: Any) -> list[str]:
    """The beginning of a Ray process's command."""
    command: list[str] = build(component, *told, **named)
    return [*command, unwatched.__file__] if component == ray_constants.PROCESS_TYPE_DASHBOARD_AGENT else command


def _on_loopback() -> AbstractContextManager[None]:
    """A node that starts in the block has 127.0.0.1 for its address, and then all its servers listen there alone.

    This is how Ray starts on macOS. Asked for `_node_ip_address="127.0.0.1"` elsewhere, it takes the address of the network all the same,
    and then its control store, its nodes' managers and every worker listen on all interfaces.
    """
    return _instead(ray_constants, "ENABLE_RAY_CLUSTER", False)


def _in_sessions_of_their_own() -> AbstractContextManager[None]:
    """Signals to our process group (`timeout`, `kill -- -PGID`, a terminal's Ctrl-C) reach none of the node's processes that start in the
    block: else these would end before the workers could save anything. What ties them to our end is a wish to the kernel
    (PR_SET_PDEATHSIG), which sessions do not touch; without it, as on macOS, a reaper ends our process group, and they must stay in it.
    """
    if not utils.detect_fate_sharing_support():
        return nullcontext()
    return _instead(services, "ConsolePopen", partial(services.ConsolePopen, start_new_session=True))
