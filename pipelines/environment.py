"""What a run ran on: versions, commit and hardware, for the record that makes numbers comparable."""

import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

PACKAGES = ("raygan", "torch", "torchvision", "ray", "mlflow", "numpy", "pyarrow", "pydantic", "scikit-learn")

JOB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,127}")  # the ids that `raygan submit` knows jobs by
SUBMISSION = "raygan.submission"  # the mark of a job, and the tag of its runs: ids come again, on clusters that share a store


def describe() -> dict[str, Any]:
    """Versions of Python and of the packages that matter, the git commit of this code, the Ray job, and this machine's hardware."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {package: _version(package) for package in PACKAGES},
        "git": git(),
        **job(),
        "hardware": describe_hardware(),
    }


def describe_hardware() -> dict[str, Any]:
    """CPU, memory and GPUs of this machine, and a `summary` of them in words."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    cpu, cores, memory = _cpu_name(), os.cpu_count() or 1, psutil.virtual_memory().total
    summary = f"{cores} cores {cpu}, {memory / 2**30:.0f} GiB" + (f", {len(gpus)} x {gpus[0]}" if gpus else ", no GPU")
    return {"summary": summary, "cpu": cpu, "cores": cores, "memory_bytes": memory, "gpus": gpus, "cuda": torch.version.cuda}


def ray_job_id() -> str | None:
    """The submission id of the Ray job whose entrypoint this process is, or None outside one."""
    return _ray_job().get("job_submission_id")


def job() -> dict[str, str | None]:
    """Which Ray job this is: its id, and its mark where `raygan submit` sent it."""
    return {"ray_job": ray_job_id(), "ray_submission": _ray_job().get(SUBMISSION)}


def from_afar(words: str) -> str:
    """In a job, whose user is on another machine: how these words are said there. Nothing outside one."""
    return f", or from where this job was sent: raygan submit {words}" if ray_job_id() else ""


def _ray_job() -> dict[str, str]:
    """What that job says of itself; nothing outside one."""
    metadata: dict[str, str] = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("metadata", {})
    return metadata


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def git() -> dict[str, Any]:
    """The commit of the checkout that this file is in, or in a job that `raygan submit` sent, was in; None where it is not in one."""
    root = Path(__file__).parent
    commit = _output("git", "-C", str(root), "rev-parse", "HEAD")
    if commit is None and (sent := _ray_job().get("raygan.git_commit")):
        return {"commit": sent, "uncommitted_changes": _ray_job().get("raygan.uncommitted_changes") == "True"}
    changed = _output("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "uncommitted_changes": bool(changed) if commit else None}


def _output(*command: str) -> str | None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _cpu_name() -> str:
    if Path("/proc/cpuinfo").is_file():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
