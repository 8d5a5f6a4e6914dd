"""Which cluster, and a client of its job server that has been let in."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from gan_core.wording import holds_secret
from pipelines.signals import in_thread

DEFAULT = "http://127.0.0.1:8265"
ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
# With $RAY_AUTH_MODE=token Ray's client adds the token to whatever address, unless it is given a header; it read the mode while it was
# imported. To a server an empty one is none.
NO_TOKEN = {"Authorization": ""}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN, TOKEN_PATH, TOKEN_FILE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token"
ANSWER_SECONDS = 30.0
Answer = TypeVar("Answer")


class Cluster(NamedTuple):
    """A job server that has answered, at `address`."""

    client: Any
    address: str

    def ask(self, function: Callable[[], Answer], seconds: float = ANSWER_SECONDS) -> Answer:
        """What `function` returns: the client's own calls wait for ever where a server has gone silent.

        Raises:
            TimeoutError: nothing came.
        """
        answer: Answer = in_thread(function, "ray-jobs").result(timeout=seconds)
        return answer


def is_here(address: str) -> bool:
    """Whether an address is one of this machine only. It may be the near end of a tunnel."""
    return urlsplit(address).hostname in LOOPBACK


def resolve(given: str | None) -> str:
    """The address of the dashboard: the one given, else $RAY_API_SERVER_ADDRESS, else $RAY_ADDRESS, else this machine's.

    Raises:
        ValueError: it is no dashboard's, or holds a password or a key.
    """
    sources = {"--address": given} | {name: os.environ.get(name) for name in ADDRESSES}
    source, address = next(((name, value) for name, value in sources.items() if value and value not in ("auto", "local")), ("", DEFAULT))
    if source in ("--address", ADDRESSES[0]) and "://" not in address:
        address = f"http://{address}"
    if holds_secret(address):
        raise ValueError(f"{source}: it holds a password or a key, which would be shown; the cluster's token goes into {TOKEN}")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{source}: {address} is no dashboard's address; give that of its web page, such as --address http://HEAD:8265")
    return address.rstrip("/")


def connect(given: str | None) -> Cluster:
    """A client of the cluster's job server, with the token that is to be found here where the cluster asks for one.

    Raises:
        ValueError: nothing answers there, or it does not let us in.
    """
    address = resolve(given)
    for chatty in ("dashboard_sdk", "job.sdk"):  # they tell each upload and each closed connection
        logging.getLogger(f"ray.dashboard.modules.{chatty}").setLevel(logging.WARNING)
    try:
        return _client(address, dict(NO_TOKEN))
    except AuthenticationError:
        pass
    found = _token()
    if found is None:
        raise ValueError(
            f"{address} asks for a token (401), and none is to be found here; put the cluster's into {TOKEN}, into {TOKEN_FILE}, or into a "
            f"file that {TOKEN_PATH} names"
        )
    source, token = found
    try:
        return _client(address, {"Authorization": f"Bearer {token}"})
    except AuthenticationError:
        raise ValueError(f"{address} refuses the token from {source} (403); give the one that the cluster was started with") from None


def _client(address: str, headers: dict[str, str]) -> Cluster:
    with _no_other_address():
        try:
            client = in_thread(lambda: JobSubmissionClient(address, headers=headers), "ray-jobs").result(timeout=ANSWER_SECONDS)
        except TimeoutError:
            raise ValueError(
                f"{address} has not answered within {ANSWER_SECONDS:g} s; is the cluster well, and the address right?"
            ) from None
        except AuthenticationError:
            raise
        except Exception as error:  # requests' and Ray's, of many kinds
            raise ValueError(
                f"no Ray dashboard answers at {address} ({_first_line(error)}); start it with `ray start --head`, open a tunnel to it, or "
                f"give its address by --address"
            ) from None
    return Cluster(client, address)


@contextmanager
def _no_other_address() -> Iterator[None]:
    """Ray's client lets the environment win over its argument."""
    kept = {name: os.environ.pop(name) for name in ADDRESSES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _token() -> tuple[str, str] | None:
    """Where the token comes from, and the token; Ray's own order.

    Raises:
        ValueError: the file that is to hold it cannot be read.
    """
    if token := os.environ.get(TOKEN, "").strip():
        return TOKEN, token
    named = os.environ.get(TOKEN_PATH)
    path = Path(named or TOKEN_FILE).expanduser()
    if named is None and not path.is_file():
        return None
    try:
        token = path.read_text().strip()
    except OSError as error:
        raise ValueError(f"{TOKEN_PATH if named else TOKEN_FILE}: {path} cannot be read ({error.strerror})") from None
    return (str(path), token) if token else None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
