"""A training or a sweep under attack: its processes, how far it is, and what it left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml
from mlflow import MlflowClient

from gan_core import checkpoint
from tests.chaos.judge import Left
from tests.pipelines.command import TrackedRun
from tests.support import tiny_tree

ROOT = Path(__file__).parents[2]
MARK = "RAYGAN_CHAOS"
TOTAL, CHECKPOINT, REPORT, BATCH = 48_000, 4_000, 800, 16  # images
SECONDS_AT_MOST = 420.0
SPACE = ("smoke", "sweep.scheduler=fifo", "sweep.confirm=0", "step_ratio=1:1", "loss.name=[hinge,non_saturating]")
PATIENCE = 60.0  # seconds until every process is to be gone after its driver


def wait_for(condition: Callable[[], Any], seconds: float) -> Any:
    """The first true value, or None when the time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.1)
    return None


def write_config(folder: Path, uri: str, storage: str, workers: int) -> str:
    """The training of all scenarios: tiny steps, and something due all the time."""
    tree = tiny_tree(batch_size=BATCH, total_kimg=TOTAL / 1000)
    every = {"report": REPORT / 1000, "sample": 8, "evaluate": 4, "checkpoint": CHECKPOINT / 1000}
    tree["schedule"].update({f"{key}_kimg": value for key, value in every.items()})
    tree["ray"] = {"num_workers": workers, "storage_path": storage, "max_failures": 20, "collective_timeout_seconds": 10.0}
    tree["mlflow"] = {"tracking_uri": uri, "experiment": folder.name, "delivery_timeout_seconds": 120.0}
    path = folder / "attacked.yaml"
    path.write_text(yaml.safe_dump(tree))
    return str(path)


class Run:
    """One training or sweep, from its first command to its last. Its folder marks every process that it starts."""

    def __init__(self, folder: Path, uri: str, *, storage: str | None = None, begin: Callable[..., Any] = subprocess.Popen) -> None:
        self.folder, self.uri, self.storage = folder, uri, Path(storage or folder / "runs")
        self.environment: dict[str, str] = {}
        self.process: Any = None
        self.commands = 0
        self.command, self.words = "train", [""]
        self._begin = begin

    def start(self, command: str, *words: str) -> None:
        """`raygan COMMAND WORDS`, whose output goes to a file."""
        self.command, self.words, self.commands = command, list(words), self.commands + 1
        own = {
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "disabled",
            MARK: str(self.folder),
        }
        with self.log.open("w") as log:
            self.process = self._begin(
                [sys.executable, "-m", f"pipelines.{command}", *words],
                cwd=self.folder,
                env={**os.environ, **own, **self.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def resume(self) -> None:
        """The command again, as its last words say."""
        name = self.run_ids[0] if self.command == "train" else self.folder.name
        self.start(self.command, "--resume", name, f"mlflow.tracking_uri={self.uri}")

    @property
    def log(self) -> Path:
        """What the latest command said."""
        return self.folder / f"said-{self.commands}.txt"

    @property
    def said(self) -> str:
        """By all commands."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("said-*.txt")))

    @property
    def alive(self) -> bool:
        """Whether the latest command is at work."""
        return self.process.poll() is None

    def seen(self) -> int:
        """Images at the newest checkpoint; of a sweep, of the trial that is ahead."""
        return max((int(path.parent.name[-12:]) for path in self.storage.glob("*/checkpoint_0*/checkpoint.json")), default=0)

    def reach(self, images: float, seconds: float = 240.0) -> bool:
        """Whether the run comes that far while it lives."""
        return wait_for(lambda: self.seen() >= images or not self.alive, seconds) is not None and self.alive

    def processes(self, words: str = "") -> list[psutil.Process]:
        """Everything that the run's commands started and that is there, whoever its parent is now."""
        found = []
        for process in psutil.process_iter():
            try:
                marked = process.environ().get(MARK) == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE
                if marked and words in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return sorted(found, key=lambda process: process.pid)

    def at_work(self) -> list[psutil.Process]:
        """All but Ray's own agents, which outlive a driver that was killed by minutes, and do nothing."""
        return [process for process in self.processes() if not any(word.endswith("Agent") for word in words_of(process))]

    def finish(self, seconds: float) -> int | None:
        """The exit status; None where it did not end in time."""
        try:
            return int(self.process.wait(timeout=seconds))
        except subprocess.TimeoutExpired:
            return None

    def leaves_nothing(self) -> list[str]:
        """The command lines of what is still there when it should not be."""
        wait_for(lambda: not self.at_work(), PATIENCE)
        return [" ".join(words_of(process))[:100] for process in self.at_work()]

    def end(self) -> None:
        """Nothing that the run started is left."""
        for process in self.processes():
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.Error:
                continue
        if self.process is not None:
            self.process.wait()

    @property
    def run_ids(self) -> list[str]:
        """The MLflow runs of the training, or of the sweep's trials in order."""
        client = MlflowClient(self.uri)
        name = self.folder.name if self.command == "train" else f"{self.folder.name}-{self.folder.name}"
        experiment = client.get_experiment_by_name(name)
        runs = [] if experiment is None else client.search_runs([experiment.experiment_id])
        if self.command == "sweep":
            runs = sorted((run for run in runs if "raygan.trial" in run.data.tags), key=lambda run: int(run.data.tags["raygan.trial"]))
        return [run.info.run_id for run in runs]

    def left(self) -> list[Left]:
        """What it left: one for a training, one for each trial of a sweep."""
        return [self._left(run_id) for run_id in self.run_ids]

    def _left(self, run_id: str) -> Left:
        run = TrackedRun(self.folder, run_id, self.uri)
        histories = {key: run.client.get_metric_history(run_id, key) for key in run.run.data.metrics}
        points = {key: [(point.step, point.value) for point in history] for key, history in histories.items()}
        newest = max((self.storage / run_id).glob("checkpoint_0*/checkpoint.json"), key=lambda path: path.parent.name).parent
        return Left(points, dict(run.pictures()), checkpoint.load(newest), run.run.info.status)


def words_of(process: psutil.Process) -> list[str]:
    """The command line; empty where the process is gone."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def words_of_pid(pid: int) -> list[str]:
    """`words_of`, by the process id."""
    return words_of(psutil.Process(pid)) if psutil.pid_exists(pid) else []


def words(stage: str, run: Run, uri: str) -> tuple[str, ...]:
    """The command of a stage's runs."""
    config = write_config(run.folder, uri, str(run.storage), workers=1 if stage == "sweep" else 2)
    if stage == "sweep":
        return ("sweep", config, *SPACE, f"sweep.name={run.folder.name}")
    more = {"scored beside": ("ray.asynchronous_evaluation=true", "ray.evaluation_cpus=0"), "training float64": ("precision=float64",)}
    return ("train", config, *more.get(stage, ()))
