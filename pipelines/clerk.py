"""What is done to a run in MLflow, by a process of its own: MLflow is Python, and would stop a training in the same process while it works.

`python -m pipelines.clerk` is that process. It reads lines of JSON, first the run, then calls of run_writer.Store, and answers each with
one line. It ends with who asks: then there is no more to read.
"""

import json
import os
import subprocess
import sys
from contextlib import suppress
from typing import IO, Any

NICENESS = 15


class Clerk:
    """A run_writer.Store in a process of its own, for one thread. A process that was lost is replaced at the next call.

    Calls raise RuntimeError where those of the store raise, with the same words, and ConnectionError where the process is lost.
    """

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        self._told = [tracking_uri, run_id]
        self._closed = False
        self._process = self._start()

    def latest(self, key: str) -> float | None:
        """A metric's last value."""
        value: float | None = self._call("latest", key)
        return value

    def log(self, points: list[tuple[str, float, int, int]]) -> None:
        """Key, value, milliseconds and step of each point."""
        self._call("log", points)

    def tag(self, key: str, value: str) -> None:
        """Set a tag."""
        self._call("tag", key, value)

    def picture(self, step: int, milliseconds: int, picture: str) -> None:
        """An encoded picture, once for each step."""
        self._call("picture", step, milliseconds, picture)

    def close(self) -> None:
        """End the process, also in the middle of a call, which then raises."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        self._process.kill()  # what it did was answered, or is done again by another process
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(OSError):  # of what could not be written to it
                stream.close()

    def _start(self) -> "subprocess.Popen[str]":
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", __name__]
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        _write(process.stdin, self._told)
        return process

    def _call(self, method: str, *given: Any) -> Any:
        if self._process.poll() is not None and not self._closed:
            self._end()
            self._process = self._start()
        try:
            _write(self._process.stdin, [method, *given])
            answer = self._process.stdout.readline() if self._process.stdout else ""
        except (OSError, ValueError):  # a pipe that is broken, or closed
            answer = ""
        if not answer:
            raise ConnectionError("the process that writes to MLflow was lost")
        value, error = json.loads(answer)
        if error:
            raise RuntimeError(error)
        return value


def _write(stream: IO[str] | None, line: Any) -> None:
    assert stream is not None
    stream.write(f"{json.dumps(line)}\n")
    stream.flush()


def serve(calls: IO[str], answers: IO[str]) -> None:
    """Answer calls until there are no more."""
    from pipelines.run_writer import Store

    store = Store(*json.loads(calls.readline()))
    for line in calls:
        method, *given = json.loads(line)
        try:
            answer = [getattr(store, method)(*given), ""]
        except Exception as error:  # whatever the store raises is for who asked
            answer = [None, str(error) or type(error).__name__]
        _write(answers, answer)


if __name__ == "__main__":
    os.nice(NICENESS)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what MLflow prints is no answer
    serve(sys.stdin, answers)
