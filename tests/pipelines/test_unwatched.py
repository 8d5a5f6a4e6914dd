"""What Ray's agent is given where nobody watches: the folders that it would import from, and no modules of a dashboard."""

import os
import subprocess
import sys

import pytest

from pipelines import unwatched

AGENT = """
import sys
try:
    import ray.dashboard.optional_deps
except ImportError:
    print("nobody")
print(*sys.argv)
print(sys.path[0])
"""


@pytest.mark.parametrize("safe", [False, True])
def test_the_program_finds_what_it_would_find_without_it(tmp_path, safe):
    agent = tmp_path / "agent.py"
    agent.write_text(AGENT)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"} | ({"PYTHONSAFEPATH": "1"} if safe else {})
    environment["PYTHONPATH"] = "/first"
    command = [sys.executable, unwatched.__file__, str(agent), "--port=1"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["nobody", f"{agent} --port=1", "/first" if safe else str(tmp_path)]
