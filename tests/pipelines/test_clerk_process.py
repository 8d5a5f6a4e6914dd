"""What is agreed between who asks and the process that answers: an end, a priority, an answer for each call and for no other."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pipelines import clerk as clerks
from pipelines.clerk import Clerk

ROOT = Path(__file__).parents[2]


@pytest.fixture
def begin():
    """Begins a process as a clerk does, with what its asker holds of it."""
    processes = []

    def begin(*before):
        command = [*before, sys.executable, "-P", "-m", "pipelines.clerk"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, **pipes))
        return processes[-1]

    yield begin
    for process in processes:
        with suppress(BrokenPipeError), process:  # closes what it was told by and answered with
            process.kill()


def tell(process, *lines):
    for line in lines:
        process.stdin.write(f"{json.dumps(line)}\n")
    process.stdin.flush()


def test_it_ends_with_who_asked_also_in_the_middle_of_a_call(begin):
    """Or what it does then would reach the run behind the back of the next one who writes to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes calls and answers none
        process = begin()
        tell(process, [f"http://127.0.0.1:{server.getsockname()[1]}", "some"], ["log", [["d/loss", 1.0, 7, 3]]])
        assert json.loads(process.stdout.readline()) == {"ready": True}
        server.settimeout(30.0)
        with server.accept()[0] as call:
            assert call.recv(4) == b"POST"
            process.stdin.close()
            process.stdout.close()
            assert process.wait(10.0) == 0
            assert process.stderr.read() == ""


@pytest.mark.parametrize("niceness", [0, 17])
def test_it_yields_once_it_is_ready_and_gives_up_no_more_than_it_has_to(begin, niceness):
    process = begin("nice", "-n", str(niceness))
    mine = min(19, os.getpriority(os.PRIO_PROCESS, 0) + niceness)
    time.sleep(0.5)
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == mine
    tell(process, ["http://127.0.0.1:9", "some"])
    assert json.loads(process.stdout.readline()) == {"ready": True}
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == max(mine, 15)


SCRIPTS = {
    "an answer cut short": "import sys; sys.stdin.readline(); print('{\"ready\": tr', end='')",
    "no answer": "import sys; sys.stdin.readline()",
    "another kind of answer": "import sys, time; sys.stdin.readline(); print('[1]', flush=True); time.sleep(60)",
    "words": "import sys, time; sys.stdin.readline(); print('Hello', flush=True); time.sleep(60)",
}


@pytest.fixture
def scripted(monkeypatch):
    """Has clerks begin processes of the given scripts, one after the other; the list of those that were begun."""
    begun = []

    def use(*scripts):
        left = list(scripts)

        def start():
            assert all(process.returncode is not None for process in begun), "the one before was ended first"
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            begun.append(subprocess.Popen([sys.executable, "-c", left.pop(0)], text=True, **pipes))
            return begun[-1]

        monkeypatch.setattr(clerks, "_start", start)
        return begun

    return use


ANSWERING = """
import sys
sys.stdin.readline()
print('{"ready": true}', flush=True)
for line in sys.stdin:
    print('{"value": 7.0}', flush=True)
"""


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_a_process_that_does_not_answer_as_agreed_is_ended_and_replaced(scripted, script):
    begun, clerk = scripted(script, ANSWERING), Clerk("uri", "some")
    with pytest.raises(ConnectionError, match="was lost"):
        clerk.latest("d/loss")
    assert begun[0].returncode is not None
    assert clerk.latest("d/loss") == 7.0
    clerk.close()
    assert [process.returncode is not None for process in begun] == [True, True]


LATE = """
import sys, time
sys.stdin.readline()
print('{"ready": true}', flush=True)
sys.stdin.readline()
time.sleep(0.5)
print('{"value": 1.0}', flush=True)
time.sleep(60)
"""


def test_no_call_takes_the_answer_to_an_earlier_one(scripted, monkeypatch):
    scripted(LATE, ANSWERING)
    clerk = Clerk("uri", "some")
    clerk.open()
    loads = json.loads

    def broken(text):
        raise MemoryError

    monkeypatch.setattr(clerks.json, "loads", broken)
    with pytest.raises(MemoryError):
        clerk.latest("d/loss")
    monkeypatch.setattr(clerks.json, "loads", loads)
    assert clerk.latest("d/loss") == 7.0
    clerk.close()


def test_no_process_is_begun_once_it_is_closed(scripted):
    begun, clerk = scripted(*[ANSWERING] * 50), Clerk("uri", "some")
    calls = []

    def work():
        with suppress(ConnectionError):
            while True:
                calls.append(clerk.latest("d/loss"))
                if (process := clerk._process) is not None:
                    process.kill()

    thread = threading.Thread(target=work)
    thread.start()
    while not begun:
        time.sleep(0.01)
    clerk.close()
    thread.join(30.0)
    assert not thread.is_alive()
    assert all(process.returncode is not None for process in begun)
    with pytest.raises(ConnectionError):
        clerk.latest("d/loss")


def test_a_process_that_cannot_be_ended_is_left_alone(scripted, monkeypatch):
    """In a call of the kernel's that nothing interrupts, as to a file server that is away: here the signal does not reach it."""
    begun, clerk = scripted(ANSWERING), Clerk("uri", "some")
    clerk.open()
    monkeypatch.setattr(clerks, "END_SECONDS", 0.2)
    monkeypatch.setattr(begun[0], "kill", lambda: None)
    reading = threading.Thread(target=begun[0].stdout.readline)  # holds the stream's lock
    reading.start()
    began = time.monotonic()
    clerk.close()
    assert time.monotonic() - began < 5.0
    assert not begun[0].stdout.closed
    begun[0].terminate()
    reading.join(5.0)
    with begun[0]:
        assert not reading.is_alive()
