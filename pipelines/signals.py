"""Being asked to end, while Ray is at work: SIGTERM, which `ray job stop` sends, is as Ctrl-C, and neither is Ray's to answer."""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt while the block lasts."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
