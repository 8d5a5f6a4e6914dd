"""A process that yields to the ranks, however much it, or one of its threads, yields already."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import yielding

PROGRAM = """
import os, threading, time
from pipelines import yielding

def own():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

def wait(niceness):
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
    ready.release()
    ended.wait()
    found[niceness] = own()

ready, ended, found = threading.Semaphore(0), threading.Event(), {}
threads = [threading.Thread(target=wait, args=(niceness,)) for niceness in (own(), 19)]
for thread in threads:
    thread.start()
    ready.acquire()
yielding.begin()
yielding.begin()
ended.set()
for thread in threads:
    thread.join()
print(own(), *(found[niceness] for niceness in sorted(found)))
"""


@pytest.mark.skipif(not yielding.THREADS.is_dir(), reason="Linux has a niceness for each thread")
@pytest.mark.parametrize("given", [0, 19])
def test_whoever_yields_less_yields_more_and_whoever_yields_enough_stays(given):
    if os.getpriority(os.PRIO_PROCESS, 0) > given:
        pytest.skip("these tests yield themselves")
    root = Path(yielding.__file__).parents[1]
    command = ["nice", "-n", str(given - os.getpriority(os.PRIO_PROCESS, 0)), sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.split() == (["19", "19"] if given == 19 else [str(yielding.NICENESS), str(yielding.NICENESS), "19"])
