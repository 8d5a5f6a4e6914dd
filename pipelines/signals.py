"""Being asked to end, while Ray is at work, by Ctrl-C or by SIGTERM, which `ray job stop` and Kubernetes send: not Ray's to answer."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from pipelines.statuses import INTERRUPTED

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ECHO_SECONDS = 2.0  # within which `timeout`, `docker run -it` and batch schedulers say the same thing twice: no impatience


class Interrupted(KeyboardInterrupt):
    """Asked to end by the signal `signum`, or by that one `again`, which would not wait."""

    def __init__(self, signum: int, *, again: bool = False) -> None:
        super().__init__()
        self.signum, self._again = signum, again

    @property
    def cause(self) -> str:
        """Such as SIGTERM."""
        name = signal.Signals(self.signum).name
        return f"a second signal, {name}" if self._again else name


def status_of(interruption: KeyboardInterrupt) -> int:
    """The exit status of a command that was ended so."""
    return 128 + interruption.signum if isinstance(interruption, Interrupted) else INTERRUPTED


class Asked:
    """The signal that has asked for a gentle end, and when by the monotonic clock; None while none has."""

    signum: int | None = None
    at = 0.0


@contextmanager
def terminable() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise Interrupted while the block lasts, but for echoes."""
    heard = Asked()

    def interrupt(signum: int, _: Any) -> None:
        if not _is_echo(heard):
            heard.signum, heard.at = signum, time.monotonic()
            raise Interrupted(signum)

    with _handled(interrupt):
        yield


@contextmanager
def gently() -> Iterator[Asked]:
    """The first Ctrl-C or SIGTERM in the block is only noted, a second one that is no echo raises Interrupted. Off the main thread none is
    noted.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(signum: int, _: Any) -> None:
        if _is_echo(asked):
            return
        if asked.signum is not None:
            raise Interrupted(signum, again=True)
        asked.signum, asked.at = signum, time.monotonic()
        # Not by print, which is not to be interrupted by itself.
        os.write(2, f"\nstopping at a checkpoint; a second time, {ECHO_SECONDS:g} s from now or later, ends at once\n".encode())

    with _handled(note):
        yield asked


@contextmanager
def deaf() -> Iterator[None]:
    """Ctrl-C and SIGTERM are answered with a line, and change nothing, while the block lasts: for last words, whose end is near. Off the
    main thread there is nothing to answer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handled(lambda *_: os.write(2, b"\nending already\n")):
        yield


def _is_echo(heard: Asked) -> bool:
    return heard.signum is not None and time.monotonic() - heard.at < ECHO_SECONDS


@contextmanager
def _handled(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    before = {signum: signal.signal(signum, handler) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, former in before.items():
            signal.signal(signum, former)


def in_thread(function: Callable[[], Any], name: str) -> Future[Any]:
    """Call `function` off the main thread: there, Ray's own handlers would answer Ctrl-C by ending the program in silence."""
    future: Future[Any] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # handed to whoever waits
            future.set_exception(error)

    threading.Thread(target=call, name=name, daemon=True).start()
    return future
