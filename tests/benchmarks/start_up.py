"""How long until something happens: `python -m tests.benchmarks.start_up [help] [train[=RUNS]] [imports]`, all in under 3 minutes.

`help` runs `raygan --help` and its like. `train` runs `raygan train digits` to its first step, each time in a new folder, whose MLflow
database is made first (a part of `tracking`), with the seconds of each part (metrics `startup/*` of its run) and of each process (seen by
looking at all of them ten times a second; CPU time up to the first step). `imports` adds up by package what `python -X importtime` says of
the driver's and a rank's imports.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil
from mlflow import MlflowClient

from pipelines import environment

HELPS, TRAININGS, DEAREST, LOOK_SECONDS = 20, 3, 10, 0.1
WORDS = {"": HELPS, "--help": HELPS, "train --help": HELPS, "trian": HELPS, "train digits totalkimg=1": 5}
TRAIN = ("digits", "total_kimg=1", *(f"schedule.{key}_kimg=1" for key in ("report", "sample", "evaluate", "checkpoint")))
PARTS = ("imports_config_data", "tracking", "ray", "mlflow_run", "workers", "build", "first_scores")
IMPORTS = {
    "driver": "pipelines.train, pipelines.plan, pipelines.conduct, pipelines.launch",
    "rank 0": "ray, pipelines.rank, pipelines.worker, ray.train.torch, pipelines.gauges, mlflow.system_metrics.system_metrics_monitor",
    "other ranks": "ray, pipelines.rank, pipelines.worker, ray.train.torch",
}
ROOT = str(Path(__file__).parents[2])


def raygan(*words):
    return [sys.executable, "-m", "pipelines.cli", *words]


def helps():
    """Wall seconds of commands that start nothing."""
    print("| `raygan ...` | runs | median, s | least | most |\n|---|---|---|---|---|")
    for words, runs in WORDS.items():
        seconds = []
        for _ in range(runs + 1):
            began = time.perf_counter()
            subprocess.run(raygan(*words.split()), cwd=ROOT, capture_output=True, check=False)
            seconds.append(time.perf_counter() - began)
        seconds = seconds[1:]  # the first one warms the cache
        print(f"| {words or '(nothing)'} | {runs} | {statistics.median(seconds):.3f} | {min(seconds):.3f} | {max(seconds):.3f} |")


def name_of(process):
    """What a process of the run is: Ray gives its workers names, the others are known by their script."""
    words = process.cmdline()
    if words and words[0].startswith("ray::"):
        return words[0].removeprefix("ray::").partition(".")[0]
    scripts = [Path(word).name for word in words[1:] if word.endswith(".py")]
    return scripts[-1] if scripts else Path(words[0]).name if words else process.name()


def look(root, began, seen):
    """Note name, first sight and CPU seconds of every process under `root`."""
    for process in [root, *root.children(recursive=True)]:
        try:
            with process.oneshot():
                key, spent = (process.pid, process.create_time()), process.cpu_times()
                name = "the command" if process.pid == root.pid else name_of(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        now = time.time() - began
        seen.setdefault(key, []).append((now, spent.user + spent.system, name))


def trained():
    """Seconds of the parts of a start, and (name, first seen at, CPU seconds) of its processes, up to the first step."""
    with tempfile.TemporaryDirectory(prefix="raygan-start-") as folder:
        surroundings = {**os.environ, "PYTHONPATH": ROOT, "RAYGAN_CACHE": f"{tempfile.gettempdir()}/raygan-start-cache"}
        surroundings.pop("MLFLOW_TRACKING_URI", None)
        began, seen = time.time(), {}
        command = subprocess.Popen(raygan("train", *TRAIN), cwd=folder, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        root = psutil.Process(command.pid)
        while command.poll() is None:
            look(root, began, seen)
            time.sleep(LOOK_SECONDS)
        assert command.returncode == 0, command.stdout.read().decode()
        client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
        (run,) = client.search_runs([client.get_experiment_by_name("raygan").experiment_id])
        parts = {name: run.data.metrics[f"startup/{name}_seconds"] for name in PARTS}
    first_step = sum(parts.values())
    processes = []
    for sights in seen.values():
        before = [sight for sight in sights if sight[0] <= first_step]
        if before:
            processes.append((before[-1][2] if before[-1][2] != "IDLE" else sights[-1][2], before[0][0], before[-1][1]))
    return parts, sorted(processes, key=lambda process: process[1])


def trainings(count=TRAININGS):
    """The medians of several starts."""
    runs = [trained() for _ in range(count)]
    print(f"| to the first step of `raygan train digits` | {' | '.join(f'run {n + 1}, s' for n in range(count))} | median, s |")
    print("|---" * (count + 2) + "|")
    rows = {name: [parts[name] for parts, _ in runs] for name in PARTS}
    rows["all"] = [sum(parts.values()) for parts, _ in runs]
    rows["CPU seconds of all processes"] = [sum(cpu for _, _, cpu in processes) for _, processes in runs]
    for name, seconds in rows.items():
        print(f"| {name} | {' | '.join(f'{value:.1f}' for value in seconds)} | {statistics.median(seconds):.1f} |")
    middle = sorted(runs, key=lambda run: sum(run[0].values()))[count // 2]
    print("\n| process of the middle run | first seen, s | CPU seconds to the first step |\n|---|---|---|")
    for name, first, cpu in middle[1]:
        print(f"| {name} | {first:.1f} | {cpu:.2f} |")


def imports():
    """The dearest packages, by what their own modules took."""
    for who, modules in IMPORTS.items():
        told = subprocess.run([sys.executable, "-X", "importtime", "-c", f"import {modules}"], cwd=ROOT, capture_output=True, text=True)
        assert told.returncode == 0, told.stderr[-2000:]
        own = defaultdict(float)
        for microseconds, module in re.findall(r"^import time: +(\d+) \| +\d+ \| +(\S+)", told.stderr, re.MULTILINE):
            own[module.partition(".")[0]] += int(microseconds) / 1e6
        print(f"\n| {who}: {sum(own.values()):.2f} s of imports | seconds |\n|---|---|")
        for package, seconds in sorted(own.items(), key=lambda item: -item[1])[:DEAREST]:
            print(f"| {package} | {seconds:.2f} |")


if __name__ == "__main__":
    print(f"{time.strftime('%Y-%m-%d')}, {environment.describe()['hardware']['summary']}, load {os.getloadavg()[0]:.1f}\n")
    for what in sys.argv[1:] or ("help", "train", "imports"):
        name, _, runs = what.partition("=")
        {"help": helps, "train": trainings, "imports": imports}[name](*([int(runs)] if runs else []))
        print(flush=True)
