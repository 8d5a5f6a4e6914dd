"""What the kernel has to hand out again at each step: page faults of a process that takes and frees the same blocks over and over."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import pages

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MEGABYTES, PAGES = 40, 40 * 256  # of 4 KiB
PROGRAM = f"""
import resource, threading, torch
from pipelines import pages
torch.set_num_threads(1)

def steps(count):
    for _ in range(count):
        block = torch.ones({MEGABYTES} * 2**18)
        del block

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    steps(4)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 4

def told():
    steps(2)
    print("before", max(faults() for _ in range(3)))
    print("kept", pages.keep())
    steps(2)
    print("after", min(faults() for _ in range(3)))  # a kernel that is short of memory takes pages back by itself

WHERE
"""
WHERE = {
    "main thread": "told()",
    "other thread": "thread = threading.Thread(target=told); thread.start(); thread.join()",  # as Ray Train's workers train
}


def run(where, **environment):
    return dict(line.split() for line in output(PROGRAM.replace("WHERE", WHERE[where]), **environment).splitlines())


def output(program, **environment):
    mine = {name: value for name, value in os.environ.items() if name not in (*pages.OF_USERS, "GLIBC_TUNABLES")} | environment
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=mine, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("where", WHERE)
def test_steps_fault_no_page_in_again(where):
    # A block larger than 32 MiB is a mapping of its own, whatever lies around it: given back and faulted in at each step.
    found = run(where, THP_MEM_ALLOC_ENABLE="0")
    assert found["kept"] == "True"
    assert int(found["after"]) < PAGES / 100
    assert int(found["before"]) > PAGES / 4


@pytest.mark.parametrize("name", [*pages.OF_USERS, "GLIBC_TUNABLES"])
def test_who_has_told_glibc_what_to_do_is_obeyed(name, monkeypatch):
    monkeypatch.setenv(name, "glibc.malloc.trim_threshold=1000000" if name == "GLIBC_TUNABLES" else "1000000")
    assert not pages.keep()


def test_what_a_training_kept_goes_back_after_it():
    program = """
import psutil, torch
from pipelines import pages
resident = lambda: psutil.Process().memory_info().rss // 2**20
with pages.kept():
    blocks = [torch.ones(2**18) for _ in range(200)]
    last = torch.ones(1)  # above them, so that they are no end of the heap
    del blocks
    print(resident())
print(resident())
"""
    within, after = map(int, output(program).split())
    assert after < within - 150  # MiB, of 200


@pytest.mark.skipif(not HUGE.is_file() or "[madvise]" not in HUGE.read_text(), reason="huge pages are for nobody, or for all")
def test_tensors_lie_in_huge_pages():
    program = (
        "import torch, pipelines; kept = torch.ones(2**24); "
        "print(next(line.split()[1] for line in open('/proc/self/smaps_rollup') if line.startswith('AnonHugePages')))"
    )
    assert int(output(program)) >= 2**14  # KiB, of 64 MiB; some may be in small pages where memory is in pieces
    assert int(output(program, THP_MEM_ALLOC_ENABLE="0")) < 2**14
