"""A small sweep from the command to its report, and what it left in MLflow."""

import re

import pyarrow.parquet as pq
import pytest

from gan_core.overrides import load, validate
from pipelines import cli
from pipelines.config import JobConfig
from pipelines.sweeps import findings, ledger
from tests.pipelines.command import write_config
from tests.pipelines.sweeps.runs import require_every_point_once, sweep

WORDS = ("sweep.confirm=2", "sweep.seeds=2", "sweep.scheduler=fifo", "sweep.register_as=winner")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def finished(folder):
    return sweep(folder, write_config(folder), "smoke", *WORDS)


@pytest.fixture
def found(finished):
    return finished[0]


def test_every_point_is_a_finished_run_with_its_points_once(found):
    screened = [row for row in found.rows if row.phase == "screen"]
    assert [row.point for row in screened] == [
        {"loss.name": loss, "step_ratio": ratio} for loss in ("hinge", "non_saturating") for ratio in ("1:1", "2:1")
    ]
    for row in found.rows:
        assert (row.status, row.reason) == ("FINISHED", "budget spent")
        if row.step_ratio == "1:1":
            require_every_point_once(found, row, report=160, evaluate=800, total=3200)


def test_the_best_are_repeated_with_the_same_fresh_seeds(found):
    rows = found.rows
    ranked = sorted((row.scores["kid_pixels"], row.number) for row in rows if row.phase == "screen")
    repeated = [(row.configuration, row.seed) for row in rows if row.phase == "confirm"]
    assert sorted(repeated) == sorted((number, seed) for _, number in ranked[:2] for seed in (1, 2))
    for row in rows:
        assert found.client.get_run(row.run_id).data.params["seed"] == str(row.seed)
        assert row.point == next(other.point for other in rows if other.number == row.configuration)


def test_params_are_flat_keys_and_tags_find_the_trials(found):
    (experiment,) = [e for e in found.client.search_experiments() if e.name != "Default"]
    runs = found.client.search_runs([experiment.experiment_id], f"tags.`raygan.sweep` = '{found.name}'")
    assert len(runs) == 1 + 4 + 4
    assert not any("mlflow.parentRunId" in run.data.tags for run in runs)  # the UI hides nested runs from its charts
    for row in found.rows:
        run = found.client.get_run(row.run_id)
        assert {key: run.data.params[key] for key in row.point} == row.point
        assert run.data.tags["raygan.trial"] == str(row.number)
        assert run.data.metrics["budget/kimg"] == row.kimg
        assert run.data.metrics["kid_pixels"] == row.scores["kid_pixels"]
        assert run.data.metrics["axis/step_ratio"] == {"1:1": 1.0, "2:1": 2.0}[row.point["step_ratio"]]
        assert run.data.metrics["axis/loss.name"] == {"hinge": 0.0, "non_saturating": 1.0}[row.point["loss.name"]]
        assert run.data.metrics["budget/g_steps"] == row.g_steps
        assert run.data.metrics["budget/device_seconds"] == pytest.approx(row.device_seconds)
        assert re.match(r"3\.2\d* kimg, 200 d_steps, (100|200) g_steps, ", run.data.tags["raygan.budget_spent"])


def test_the_sweeps_run_holds_table_report_and_best_config(found, folder, tmp_path):
    run_id = found.run.info.run_id
    names = {artifact.path for artifact in found.client.list_artifacts(run_id)}
    assert names >= {"sweep.yaml", "results.parquet", "best.yaml", "report", "environment.json"}
    table = pq.read_table(found.client.download_artifacts(run_id, "results.parquet", str(tmp_path))).to_pylist()
    assert {(line["number"], line["run_id"], line["kid_pixels"]) for line in table} == {
        (row.number, row.run_id, row.scores["kid_pixels"]) for row in found.rows
    }
    best = found.client.download_artifacts(run_id, "best.yaml", str(tmp_path))
    config = validate(load(best), JobConfig)
    summary = findings.summarise(found.tracker, run_id)
    point = summary.row(summary.best).point
    assert (config.loss.name, config.step_ratio, config.total_kimg) == (point["loss.name"], point["step_ratio"], 3.2)
    page = (folder / f"report-{found.name}" / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 5
    assert all(row.run_id in page for row in found.rows)


def test_the_finding_is_the_mean_over_fresh_seeds_and_says_so(finished):
    found, out, _ = finished
    summary = findings.summarise(found.tracker, found.run.info.run_id)
    values = [row.scores["kid_pixels"] for row in summary.rows if row.phase == "confirm" and row.configuration == summary.best]
    assert summary.estimates[0].mean == pytest.approx(sum(values) / 2, rel=1e-12)
    assert summary.comparison.seeds == 2
    assert "2 seeds" in out
    assert found.client.get_run(found.run.info.run_id).data.tags["raygan.finding"] in out
    assert f"http://127.0.0.1:5000/#/experiments/{found.tracked(found.rows[0]).run.info.experiment_id}/runs?" in out


def test_the_winner_is_a_registered_model_with_an_alias(found):
    version = found.client.get_model_version_by_alias("winner", "champion")
    winner = findings.best_run(findings.summarise(found.tracker, found.run.info.run_id))
    assert version.run_id == winner.run_id


def test_the_report_can_be_written_again_from_mlflow_alone(found, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [found.name, f"mlflow.tracking_uri=sqlite:///{found.folder}/mlflow.db"]
    assert cli.main(["report", *words]) == 0
    assert capsys.readouterr().out == f"report-{found.name}/report.html\n"
    written = (tmp_path / f"report-{found.name}" / "report.html").read_text()
    assert written == (found.folder / f"report-{found.name}" / "report.html").read_text()


def test_a_trial_is_a_run_like_others(found, monkeypatch, capsys):
    """It can be trained again by its id; its checkpoints are where a run's are."""
    monkeypatch.chdir(found.folder)
    row = found.rows[0]
    assert found.state(row, 3200)["images_seen"] == 3200
    assert cli.main(["train", "--from-run", found.run.info.run_id, "--print-config"]) == 2
    assert "is a sweep; take its best.yaml" in capsys.readouterr().err
    assert cli.main(["train", "--from-run", row.run_id, "--print-config"]) == 0
    assert "name: hinge" in capsys.readouterr().out


def test_a_sweep_goes_on_with_the_settings_it_began_with(found, monkeypatch, capsys):
    monkeypatch.chdir(found.folder)
    assert cli.main(["sweep", "--resume", found.name, "total_kimg=9"]) == 2
    assert "total_kimg: a sweep goes on with the settings it began with; what may change: ray., mlflow., " in capsys.readouterr().err
    assert cli.main(["sweep", "--resume", f"{found.name}x"]) == 2
    assert f"no sweep '{found.name}x' in sqlite:///" in (said := capsys.readouterr().err)
    assert f"(did you mean '{found.name}'?); known: {found.name}" in said


def test_a_finished_sweep_resumed_runs_nothing_again(found, folder):
    before = {row.run_id: found.client.get_run(row.run_id).info.end_time for row in found.rows}
    again, out, err = sweep(folder, "--resume", found.name)
    assert {row.run_id: again.client.get_run(row.run_id).info.end_time for row in again.rows} == before
    assert "trials  " not in err
    assert "nothing was left to do" in out
    assert len(again.client.search_model_versions("name = 'winner'")) == 1
    assert ledger.find(again.tracker, again.name).info.status == "FINISHED"
