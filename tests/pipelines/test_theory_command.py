"""`raygan theory`: what it prints, writes and logs, and how it ends."""

import csv
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from gan_core.theory import saturation
from gan_core.theory.check import Check
from pipelines import cli, theory, tracking
from pipelines.theory_report import Findings


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """An SQLite file with MLflow's tables: making them takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    tracking.reach(f"sqlite:///{folder}/mlflow.db")
    return folder / "mlflow.db"


@pytest.fixture
def store(here, empty_store):
    shutil.copy(empty_store, here)
    return here


def only_run(folder):
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("raygan-theory")
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def part_with(*checks):
    """A part that finds these checks without computing anything."""

    def part(folder):
        picture = folder / "pretended.png"
        Image.new("RGB", (8, 8)).save(picture)
        return Findings(
            "A pretended part", list(checks), picture, {"Table": [("a", "b"), ("1", "2")]}, {"pretended/curve": [(0, 1.0), (5, 0.5)]}
        )

    return part


HOLDS = Check("pretended/good", "one is one", 1.0, 1.0, -0.1, 0.1)
FAILS = Check("pretended/bad", "two is one", 1.0, 2.0, -0.1, 0.1)


def test_a_part_is_computed_drawn_printed_and_logged(store, capsys, monkeypatch):
    monkeypatch.setattr(saturation, "confident", partial(saturation.confident, (0, 20, 40), iterations=100))
    assert cli.main(["theory", "saturation", "--out", "found"]) == 0
    printed = capsys.readouterr()
    assert "14 of 15 checks hold; 1 differs as known" in printed.out
    assert printed.err == ""
    client, run = only_run(store)
    assert f"/runs/{run.info.run_id}?" in printed.out
    assert run.info.status == "FINISHED"
    assert run.data.params == {"parts": "saturation"}
    assert run.data.tags["raygan.theory"].startswith("14 of 15 checks hold; 1 differs as known")
    metrics = run.data.metrics
    assert metrics["theory/failed"] == 0.0
    assert metrics["theory/measured/saturation/minimax"] == pytest.approx(0.001427, rel=0.05)
    assert metrics["theory/difference/saturation/slope/minimax"] == pytest.approx(0.0, abs=1e-12)
    assert client.get_metric_history(run.info.run_id, "theory/saturation/minimax_gradient_norm")[-1].step == 40
    names = {"theory.md", "checks.csv", "saturation.png"}
    assert {path.name for path in (store / "found").iterdir()} == names
    assert {artifact.path for artifact in client.list_artifacts(run.info.run_id)} == {*names, "environment.json"}
    with Image.open(store / "found" / "saturation.png") as picture:
        assert picture.size == (1620, 1260)
    rows = list(csv.DictReader((store / "found" / "checks.csv").read_text().splitlines()))
    assert [row["verdict"] for row in rows].count("holds") == 14
    assert [row["name"] for row in rows if row["verdict"] == "differs as known"] == ["saturation/non_saturating"]
    assert "![" in (store / "found" / "theory.md").read_text()


def test_a_check_that_fails_fails_the_command_and_the_run(store, capsys, monkeypatch):
    monkeypatch.setitem(theory.PARTS, "game", part_with(HOLDS, FAILS))
    assert cli.main(["theory", "game"]) == 1
    printed = capsys.readouterr()
    assert "1 of 2 checks hold; 1 FAILS" in printed.out
    assert "raygan theory: fails: pretended/bad: two is one" in printed.err
    client, run = only_run(store)
    assert run.info.status == "FAILED"
    assert run.data.metrics["theory/failed"] == 1.0
    assert [point.value for point in client.get_metric_history(run.info.run_id, "theory/pretended/curve")] == [1.0, 0.5]
    report = (store / "theory" / "theory.md").read_text()
    assert "| two is one | 1 | 2 | +1.0e+00 | -0.1 to 0.1 | FAILS |" in report
    assert "### Table\n\n| a | b |\n|---|---|\n| 1 | 2 |" in report


@pytest.mark.parametrize(("error", "status", "final"), [(KeyboardInterrupt(), 130, "KILLED"), (RuntimeError("no disk"), 1, "FAILED")])
def test_a_command_that_cannot_finish_says_so_in_mlflow(store, capsys, monkeypatch, error, status, final):
    def part(folder):
        raise error

    monkeypatch.setitem(theory.PARTS, "game", part)
    assert cli.main(["theory", "game"]) == status
    assert only_run(store)[1].info.status == final
    assert capsys.readouterr().err != ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["gmae"], "unknown part name 'gmae' (did you mean 'game'?); choices: bounds, dirac, game, saturation"),
        (["game", "--out", "file/folder"], "file"),
        (["game", "--tracking-uri", "http://127.0.0.1:9"], "http://127.0.0.1:9 cannot be used"),
        (["game", "--tracking-uri", "http://me:secret@127.0.0.1:9"], "holds a password"),
    ],
)
def test_bad_input_is_refused_before_there_is_a_run(here, capsys, words, sentence):
    (here / "file").write_text("not a folder")
    assert cli.main(["theory", *words]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("raygan theory: ")
    assert sentence in printed
    assert "secret" not in printed
    assert not (here / "mlflow.db").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_theory_holds(here):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "pipelines.theory", "--tracking-uri", "sqlite:///other.db"]
    result = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=580)
    assert result.returncode == 0, result.stderr
    assert "102 of 103 checks hold; 1 differs as known" in result.stdout
    assert {path.name for path in (here / "theory").glob("*.png")} == {"game.png", "bounds.png", "dirac.png", "saturation.png"}
    assert (here / "other.db").is_file()
