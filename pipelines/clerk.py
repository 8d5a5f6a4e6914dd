"""What is done to a run in MLflow, by a process of its own: MLflow is Python, and would stop a training in the same process while it works.

`python -m pipelines.clerk` is that process. It reads lines of JSON, first the run, then calls of store.Store, and answers each with one
line: the first with {"ready": true} once the store is open, a call with {"value": ...}, either with {"error": ...} where it fails. It ends
with who asks, whatever it is doing.
"""

import json
import math
import os
import queue
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import IO, Any

from pipelines.store import Point, Store

NICENESS = 15  # of a process that has opened the store: until then somebody may wait for it
END_SECONDS = 5.0  # a process that is killed ends at once, unless the kernel does for it what nothing interrupts
LOST = "the process that writes to MLflow was lost"


class Clerk:
    """A Store in a process of its own, for calls of one thread. A process that was lost is replaced at the next call.

    Calls raise RuntimeError where those of the store raise, with the same words, and ConnectionError where the process is lost, or does
    not answer as agreed: it is ended then, so that no later call takes an answer for its own that is not. `ready_at`: since when the store
    is open, on the monotonic clock; infinity while it is being opened.
    """

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        self._told = [tracking_uri, run_id]
        self._process: subprocess.Popen[str] | None = None
        self._closed, self.ready_at = False, math.inf
        self._lock = threading.RLock()  # whether there is a process, and may be another: close() comes from a second thread

    def open(self) -> None:
        """Wait until a process has opened the store.

        Raises:
            RuntimeError: it cannot be opened.
        """
        with self._lock:
            if self._closed:
                raise ConnectionError(LOST)
            if self._process is not None and self._process.poll() is not None:
                self._end()
            if self._process is None:
                self._process, self.ready_at = _start(), math.inf
        if self.ready_at == math.inf:
            try:
                _value(self._ask(self._told))
            except RuntimeError:
                self._end()
                raise
            self.ready_at = time.monotonic()

    def latest(self, key: str) -> float | None:
        """A metric's last value."""
        value: float | None = self._call("latest", key)
        return value

    def log(self, points: list[Point]) -> None:
        """As many points as one request may hold."""
        self._call("log", points)

    def tag(self, key: str, value: str) -> None:
        """Set a tag."""
        self._call("tag", key, value)

    def picture(self, step: int, milliseconds: int, picture: str) -> None:
        """An encoded picture, once for each step."""
        self._call("picture", step, milliseconds, picture)

    def close(self) -> None:
        """End the process, also in the middle of a call, which then raises, and begin no other."""
        with self._lock:
            self._closed = True
            self._end()

    def _end(self) -> None:
        with self._lock:
            process, self._process = self._process, None
            if process is None:
                return
            process.kill()  # what it did was answered, or is done again by another process
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
                for stream in (process.stdin, process.stdout):  # whoever reads it has come to its end
                    assert stream is not None
                    with suppress(OSError):  # of what could not be written to it
                        stream.close()

    def _call(self, method: str, *given: Any) -> Any:
        self.open()
        return _value(self._ask([method, *given]))

    def _ask(self, line: list[Any]) -> dict[str, Any]:
        process = self._process
        try:
            if process is None or process.stdin is None or process.stdout is None:
                raise ConnectionError
            _write(process.stdin, line)
            answer = json.loads(process.stdout.readline())
            if not isinstance(answer, dict):
                raise ValueError
        except (OSError, ValueError):  # a pipe that is broken, or closed; an answer that is none, or cut short
            self._end()
            raise ConnectionError(LOST) from None
        except BaseException:  # its answer is still to come
            self._end()
            raise
        return answer


def _start() -> "subprocess.Popen[str]":
    """A process that imports what this one would, and nothing from the folder that it happens to start in."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    command = [sys.executable, "-P", "-m", "pipelines.clerk"]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _value(answer: dict[str, Any]) -> Any:
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer.get("value")


def _write(stream: IO[str], line: Any) -> None:
    stream.write(f"{json.dumps(line)}\n")
    stream.flush()


def serve(calls: IO[str], answers: IO[str]) -> None:
    """Answer calls. The process ends where there are no more, also in the middle of one: nobody is there whom its end would concern, and
    the next to write to the run must not find it still at work.
    """
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(calls, lines), name="reader", daemon=True)
    reader.start()
    with suppress(BrokenPipeError):  # the reader sees it too
        try:
            store = Store(*json.loads(lines.get()))
        except Exception as error:  # whatever MLflow raises is for who asked
            _write(answers, {"error": _words(error)})
        else:
            os.setpriority(os.PRIO_PROCESS, 0, max(os.getpriority(os.PRIO_PROCESS, 0), NICENESS))
            _write(answers, {"ready": True})
            _answer(store, lines, answers)
    reader.join()


def _answer(store: Store, lines: "queue.SimpleQueue[str]", answers: IO[str]) -> None:
    while True:
        method, *given = json.loads(lines.get())
        try:
            answer = {"value": getattr(store, method)(*given)}
        except Exception as error:  # whatever the store raises is for who asked
            answer = {"error": _words(error)}
        _write(answers, answer)


def _read(calls: IO[str], lines: "queue.SimpleQueue[str]") -> None:
    try:
        for line in calls:
            lines.put(line)
    finally:
        os._exit(0)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what MLflow prints is no answer
    serve(sys.stdin, answers)
