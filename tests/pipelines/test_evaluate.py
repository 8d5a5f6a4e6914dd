"""`raygan evaluate` on everything that it takes, in one folder where one run was made."""

import json

import pytest
from PIL import Image

from gan_core import portable
from gan_core.data import digits
from gan_core.networks import mlp
from pipelines import cli, storage
from tests.pipelines.command import TrackedRun, train, write_config
from tests.support import tiny_config, write_parquet

COUNT = 200
SETTINGS = [f"fake_count={COUNT}", "extractor.name=pixels", "metrics=[frechet_distance,kernel_distance,precision_recall]"]
DIGITS = "data.name=digits"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a run, and its run."""
    folder = tmp_path_factory.mktemp("evaluate")
    run, _, _ = train(folder, write_config(folder), "--local", "total_kimg=1.6")
    (folder / "pictures").mkdir()
    encoded = []
    for number, image in enumerate(digits.load().images[:COUNT]):
        path = folder / "pictures" / f"{number:04}.png"
        Image.fromarray(image[0].numpy()).save(path)
        encoded.append(path.read_bytes())
    write_parquet(folder / "pictures.parquet", encoded)
    return folder, run


@pytest.fixture
def here(made, monkeypatch, tmp_path):
    monkeypatch.chdir(made[0])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("RAYGAN_CACHE", str(tmp_path / "cache"))
    return made[1]


def evaluate(capsys, *words, status=0):
    assert cli.main(["evaluate", *words]) == status, capsys.readouterr().err
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return printed.out if status == 0 else printed.err


def logged(folder, out):
    run = TrackedRun(folder, out.rsplit("/runs/", 1)[1].split("?")[0])
    return run, {key.partition("/")[2]: value for key, value in run.run.data.metrics.items() if key.startswith("evaluate/")}


def test_a_run_gets_its_scores_its_provenance_and_a_table(here, capsys):
    out = evaluate(capsys, here.run_id, *SETTINGS)
    run, scores = logged(here.folder, out)
    assert run.run_id == here.run_id
    assert run.steps("evaluate/kid_pixels") == [1600]
    assert {"fd_pixels", "fd_pixels_error", "kid_pixels", "kid_pixels_error", "precision_pixels", "recall_pixels"} <= scores.keys()
    came = json.loads(run.run.data.tags["raygan.provenance.evaluate"])
    assert (came["extractor"], came["fake_count"], came["real_count"], came["split"]) == ("pixels", COUNT, 1708, "train")
    assert f"kid_pixels                 {scores['kid_pixels']:<12.5g}" in out
    assert "lower is better" in out


def test_run_checkpoint_and_model_are_one_generator(here, capsys):
    found = [logged(here.folder, evaluate(capsys, here.run_id, *SETTINGS))[1]]
    with storage.latest(str(here.folder / "runs"), here.run_id) as path:
        run, scores = logged(here.folder, evaluate(capsys, str(path), *SETTINGS))
        assert run.run_id == here.run_id
        found.append(scores)
    model = here.client.search_logged_models([here.run.info.experiment_id])[0].model_id
    logged(here.folder, evaluate(capsys, f"models:/{model}", *SETTINGS, "name=model"))
    assert found[0] == found[1]
    model_scores = {
        key.removeprefix("model/"): value
        for key, value in TrackedRun(here.folder, here.run_id).run.data.metrics.items()
        if key.startswith("model/")
    }
    assert model_scores == pytest.approx(found[0], rel=1e-6)


@pytest.mark.parametrize("name", ["pictures", "pictures.parquet", "file://{here}/pictures.parquet"])
def test_images_in_files_are_judged_in_a_run_of_their_own(here, capsys, name):
    out = evaluate(capsys, name.format(here=here.folder), DIGITS, *SETTINGS)
    run, scores = logged(here.folder, out)
    assert run.run_id != here.run_id
    assert run.run.info.status == "FINISHED"
    assert abs(scores["kid_pixels"]) < 0.1
    assert scores["precision_pixels"] == 1.0  # they are among the real images


def test_scores_measured_otherwise_are_refused_under_the_same_name(here, capsys):
    evaluate(capsys, here.run_id, *SETTINGS, "name=once")
    before = TrackedRun(here.folder, here.run_id).run.data.metrics["once/kid_pixels"]
    error = evaluate(capsys, here.run_id, *SETTINGS, "name=once", "real_count=500", status=2)
    assert "real_count: 1708 and 500" in error
    assert "another name" in error
    assert TrackedRun(here.folder, here.run_id).run.data.metrics["once/kid_pixels"] == before


def test_a_metric_that_fails_is_told_and_the_status_says_so(here, capsys):
    words = [here.run_id, "extractor.name=pixels", "metrics=[frechet_distance,kernel_distance]", "fake_count=50", "name=few"]
    assert cli.main(["evaluate", *words]) == 1
    out = capsys.readouterr().out
    assert "frechet_distance could not be measured" in out
    assert "kid_pixels" in out


CASES = [
    ([], "give something to judge"),
    (["nothing-here"], "'nothing-here' is no path, models:/ address or run"),
    (["pictures", "fake_count=50"], "pictures does not say what it was trained on; give data.name"),
    (["pictures", DIGITS, "fake_count=201"], "pictures holds 200 images, fewer than 201"),
    (["pictures", DIGITS, "fake_cuont=5"], "unknown key 'fake_cuont' (did you mean 'fake_count'?)"),
    (["pictures", DIGITS, "mlflow.registered_model=x"], "mlflow.registered_model has no effect in an evaluation"),
    (["pictures", DIGITS, "mlflow.run_name=x"], "mlflow.run_name has no effect in an evaluation"),
    (["pictures", DIGITS, "--best"], "--best chooses a checkpoint of a run, and has no effect on pictures"),
    (["pictures", DIGITS, "extractor.name=lenett"], "(did you mean 'lenet'?)"),
    (["pictures", DIGITS, *SETTINGS[:2], "metrics=[class_coverage]"], "the extractor pixels has no classes"),
    (["pictures", DIGITS, *SETTINGS, "real_count=5000"], "has 1797 images in its split all, fewer than 5000"),
    (["pictures", DIGITS, *SETTINGS[:1], "extractor.name=inception", "extractor.weights=nowhere.pth"], "cannot read nowhere.pth"),
    (["models:/m-nothing", DIGITS, *SETTINGS], "the model models:/m-nothing cannot be loaded"),
]


@pytest.mark.parametrize("num_classes", [3, 12])
def test_a_generator_of_other_classes_than_the_data_is_refused_with_both_numbers(tmp_path, monkeypatch, capsys, num_classes):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = tiny_config(network__conditional=True)
    shape = portable.Shape(resolution=8, channels=1, num_classes=num_classes, points=False)
    generator = mlp.generator(resolution=8, channels=1, num_classes=num_classes, z_dim=8, **config.network.generator)
    (tmp_path / "made").mkdir()
    about = portable.Description(shape=shape, images_seen=0, content_hash="", gan=config)
    portable.save(tmp_path / "made", portable.Portable(generator, about))
    error = evaluate(capsys, "made", "data.name=digits", *SETTINGS, status=2)
    assert f"the generator was trained on {num_classes} classes, and the data set digits has 10" in error


@pytest.mark.parametrize(("words", "reason"), CASES)
def test_bad_input_is_refused_before_anything_is_logged(here, capsys, words, reason):
    runs = len(here.client.search_runs([here.run.info.experiment_id]))
    assert reason in evaluate(capsys, *words, status=2)
    assert len(here.client.search_runs([here.run.info.experiment_id])) == runs


def test_without_settings_a_folder_is_judged_whole_and_what_is_left_out_is_said(here, capsys):
    out = evaluate(capsys, "pictures", DIGITS, "extractor.name=pixels")
    assert "200 fakes against 1,797 images of digits (all)" in out
    assert "left out: memorisation: no images are known that training did not see" in out
    assert "mode_coverage" not in out
    assert "could not be measured" not in out


def test_points_are_judged_as_they_are(tmp_path, monkeypatch, capsys):
    data = {"data__name": "ring2d", "data__count": 500, "network__generator__output": "linear"}
    run, _, _ = train(tmp_path, write_config(tmp_path, **data), "--local", "total_kimg=0.8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = evaluate(capsys, run.run_id, "fake_count=300")
    assert "extractor pixels" in out
    assert "good_points" in out
