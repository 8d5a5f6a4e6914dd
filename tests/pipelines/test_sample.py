"""`raygan sample` on one small run: whatever way images are drawn, seed i is image i."""

import io
import json
import os
import signal
import time
from contextlib import nullcontext

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageSequence

from gan_core import portable
from gan_core.data import folder, parquet
from gan_core.networks import mlp
from pipelines import cli, storage
from pipelines.drawing import many, painter
from tests.pipelines.command import finish, start, train, write_config
from tests.support import tiny_config

COUNT = 100


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a run of a class-conditional generator, whose model is registered, and its run."""
    where = tmp_path_factory.mktemp("sample")
    config = write_config(where, network__conditional=True, mlflow__registered_model="maker")
    run, out, _ = train(where, config, "--local", "total_kimg=1.6")
    assert "model        models:/maker/1 (models:/m-" in out
    return where, run


@pytest.fixture
def here(made, monkeypatch, tmp_path):
    monkeypatch.chdir(made[0])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("RAYGAN_CACHE", str(tmp_path / "cache"))
    return made[1]


def sample(capsys, *words, status=0):
    assert cli.main(["sample", *map(str, words)]) == status, capsys.readouterr().err
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return printed.out if status == 0 else printed.err


def rows(path):
    return pq.read_table(path).to_pylist()


def decoded(row):
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_parquet_file_holds_the_seeds_in_order_with_labels_and_says_where_from(here, capsys, tmp_path):
    out = sample(capsys, here.run_id, "--num", COUNT, "--first-seed", 7, "--out", tmp_path / "a.parquet")
    assert "100 images in" in out and "in this process" in out
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column("seed").to_pylist() == list(range(7, 107))
    assert table.column("label").to_pylist() == [seed % 10 for seed in range(7, 107)]
    assert table.column("image")[3]["path"].as_py() == "seed0000000010_label0.png"
    about = json.loads(table.schema.metadata[b"raygan"])
    assert (about["run_id"], about["images_seen"], about["network"], about["truncation"]) == (here.run_id, 1600, "mlp", None)
    assert json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["image"] == {"_type": "Image"}
    assert pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(0).compression == "ZSTD"
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ""] == ["a.parquet"]


def test_images_are_the_same_whatever_the_count_the_first_seed_and_the_batch_size(here, capsys, tmp_path):
    sample(capsys, here.run_id, "--num", COUNT, "--out", tmp_path / "a.parquet")
    sample(capsys, here.run_id, "--num", COUNT, "--out", tmp_path / "b.parquet", "--batch-size", 17)
    sample(capsys, here.run_id, "--num", 30, "--first-seed", 41, "--out", tmp_path / "c.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    whole = rows(tmp_path / "a.parquet")
    assert rows(tmp_path / "c.parquet") == whole[41:71]
    assert len({row["image"]["bytes"] for row in whole}) == COUNT


def test_run_checkpoint_model_version_and_export_are_one_generator(here, capsys, tmp_path):
    sample(capsys, here.run_id, "--export", tmp_path / "exported")
    assert sorted(path.name for path in (tmp_path / "exported").iterdir()) == [
        "checksums.json",
        "config.yaml",
        "generator.pt2",
        "generator.safetensors",
    ]
    (model,) = [output.model_id for output in here.run.outputs.model_outputs]
    with storage.latest(str(here.folder / "runs"), here.run_id) as checkpoint:
        places = [here.run_id, checkpoint, tmp_path / "exported", f"models:/{model}", f"runs:/{here.run_id}/generator"]
        for number, place in enumerate([*places, "models:/maker/1", "models:/maker/latest", "models:/maker@latest"]):
            sample(capsys, place, "--num", 20, "--out", tmp_path / f"{number}.parquet")
    assert all(rows(tmp_path / f"{number}.parquet") == rows(tmp_path / "0.parquet") for number in range(8))


def test_two_workers_write_the_bytes_that_one_process_writes(here, capsys, tmp_path):
    words = [here.run_id, "--num", "3000", "--batch-size", "256", "--first-seed", "5"]
    sample(capsys, *words, "--out", tmp_path / "a.parquet", "--workers", 0)
    status, out, err = finish(start(here.folder, *words, "--out", f"{tmp_path}/b.parquet", "--workers", "2", command="sample"))
    assert status == 0, err
    assert "by 2 workers" in out
    assert "Warning" not in err
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    groups = pq.ParquetFile(tmp_path / "b.parquet").metadata
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [1024, 1024, 952]


@pytest.mark.parametrize(
    ("limit", "told", "means"),
    [(1000.0, (), "in this process"), (0.0, (), "by 3 workers"), (1000.0, ("--gpus-per-worker", 0.5), "by 3 workers")],
)
def test_unless_told_this_process_draws_what_takes_it_little_time(here, capsys, tmp_path, monkeypatch, limit, told, means):
    def pooled(work, *parts, workers, gpus):
        return (painter.Painter(*parts).draw(*task) for task in work)

    monkeypatch.setattr(many, "ALONE_SECONDS", limit)
    monkeypatch.setattr(many, "connected", lambda dashboard: nullcontext())
    monkeypatch.setattr(painter, "require_workers", lambda workers, gpus: (3, 0.0))
    monkeypatch.setattr(painter, "pooled", pooled)
    assert means in sample(capsys, here.run_id, "--num", 50, "--out", tmp_path / "a.parquet", *told)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_the_bytes_are_the_same(here, tmp_path):
    words = [here.run_id, "--num", "60000", "--batch-size", "1024"]
    status, _, err = finish(start(here.folder, *words, "--out", str(tmp_path / "a.parquet"), "--workers", "1", command="sample"))
    assert status == 0, err
    process = start(here.folder, *words, "--out", str(tmp_path / "b.parquet"), "--workers", "2", command="sample")
    import psutil

    victim, give_up_at = None, time.monotonic() + 60
    while victim is None and time.monotonic() < give_up_at:
        if any(part.stat().st_size > 0 for part in tmp_path.glob("b.parquet.writing-*")):
            found = [child for child in psutil.Process(process.pid).children(recursive=True) if "_Actor" in "".join(child.cmdline())]
            victim = found[0] if found else None
        time.sleep(0.05)
    assert victim is not None
    victim.kill()
    status, out, err = finish(process)
    assert status == 0, err
    assert "60,000 images" in out
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_an_interruption_leaves_no_file(here, tmp_path, workers):
    words = [here.run_id, "--num", "5000000", "--out", str(tmp_path / "a.parquet"), "--workers", workers]
    process = start(here.folder, *words, command="sample")
    give_up_at = time.monotonic() + 60
    while not any(part.stat().st_size > 10_000 for part in tmp_path.glob("a.parquet.writing-*")) and time.monotonic() < give_up_at:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process, timeout=60)
    assert status == 130, err
    assert "images  " not in out  # Ray itself says there that its actors died
    assert "interrupted; nothing was written" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_parquet_of_samples_is_a_data_set_and_can_be_judged(here, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYGAN_CACHE", str(tmp_path / "cache"))
    sample(capsys, here.run_id, "--num", COUNT, "--out", tmp_path / "fakes" / "a.parquet")
    dataset = parquet.load(path=str(tmp_path / "fakes" / "a.parquet"))
    assert (len(dataset), dataset.num_classes, dataset.resolution, dataset.channels) == (COUNT, 10, 8, 1)
    expected = [decoded(row) for row in rows(tmp_path / "fakes" / "a.parquet")]
    assert (dataset.images[:, 0].numpy() == np.stack(expected)).all()
    settings = ["data.name=digits", "extractor.name=pixels", "metrics=[kernel_distance]", "name=fakes"]
    assert cli.main(["evaluate", str(tmp_path / "fakes" / "a.parquet"), *settings]) == 0
    assert "100 fakes against 1,797 images of digits" in capsys.readouterr().out


def test_a_folder_gets_a_file_for_each_seed(here, capsys, tmp_path):
    sample(capsys, here.run_id, "--num", 20, "--out", tmp_path / "pictures")
    sample(capsys, here.run_id, "--num", 20, "--out", tmp_path / "a.parquet")
    files = sorted((tmp_path / "pictures").iterdir())
    assert [file.name for file in files[:2]] == ["seed0000000000_label0.png", "seed0000000001_label1.png"]
    assert [file.read_bytes() for file in files] == [row["image"]["bytes"] for row in rows(tmp_path / "a.parquet")]
    assert len(folder.load(path=str(tmp_path / "pictures"))) == 20
    assert "not empty" in sample(capsys, here.run_id, "--num", 20, "--out", tmp_path / "pictures", status=2)


def test_an_address_of_a_file_system_is_written_to(here, capsys, tmp_path):
    sample(capsys, here.run_id, "--num", 5, "--out", f"file://{tmp_path}/deep/a.parquet")
    assert [row["seed"] for row in rows(tmp_path / "deep" / "a.parquet")] == list(range(5))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.parquet"]


def test_a_fixed_label_and_a_truncation_change_images_as_they_should(here, capsys, tmp_path):
    sample(capsys, here.run_id, "--num", 60, "--out", tmp_path / "a.parquet")
    sample(capsys, here.run_id, "--num", 60, "--label", 3, "--out", tmp_path / "b.parquet")
    sample(capsys, here.run_id, "--num", 60, "--label", 3, "--truncation", "0.3", "--out", tmp_path / "c.parquet")
    mixed, third, narrow = (rows(tmp_path / f"{name}.parquet") for name in "abc")
    assert {row["label"] for row in third} == {3}
    assert [row["seed"] for row, other in zip(mixed, third, strict=True) if row["image"] == {**other["image"]}] == list(range(3, 60, 10))
    variance = [np.stack([decoded(row) for row in table]).astype(float).var(0).mean() for table in (third, narrow)]
    assert 0.0 < variance[1] < 0.2 * variance[0]


def test_the_grid_has_a_row_for_each_class_and_a_column_for_each_seed(here, capsys, tmp_path):
    sample(capsys, here.run_id, "--grid", tmp_path / "grid.png", "--columns", 4, "--first-seed", 2)
    sample(capsys, here.run_id, "--num", 4, "--first-seed", 2, "--label", 6, "--out", tmp_path / "a.parquet")
    shown = pixels_of(tmp_path / "grid.png")
    assert shown.shape == (2 + 10 * 50, 2 + 4 * 50, 3)
    for column, row in enumerate(rows(tmp_path / "a.parquet")):
        tile = shown[2 + 6 * 50 : 50 + 6 * 50, 2 + column * 50 : 50 + column * 50, 0]
        assert (tile[::6, ::6] == decoded(row)).all()
    sample(capsys, here.run_id, "--grid", tmp_path / "one.png", "--columns", 3, "--label", 2)
    assert pixels_of(tmp_path / "one.png").shape == (2 + 3 * 50, 2 + 3 * 50, 3)


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_a_film_begins_at_the_first_seed_and_passes_the_others(here, capsys, tmp_path, kind):
    sample(capsys, here.run_id, "--interpolate", "5,9", "--label", 1, "--frames", 6, "--loop", "--out", tmp_path / f"film.{kind}")
    sample(capsys, here.run_id, "--num", 5, "--first-seed", 5, "--label", 1, "--out", tmp_path / "a.parquet")
    ends = rows(tmp_path / "a.parquet")
    with Image.open(tmp_path / f"film.{kind}") as film:
        assert (film.n_frames, film.info["loop"]) == (6, 0)
        frames = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(film)]
    for pixels, row in ((frames[0], ends[0]), (frames[3], ends[4])):
        step = pixels.shape[0] / 52 * 6
        shown = [[int(pixels[int((y + 0.8) * step), int((x + 0.8) * step)]) for x in range(8)] for y in range(8)]
        assert np.abs(np.array(shown) - decoded(row)).max() <= 1


def test_a_strip_has_a_column_for_each_frame(here, capsys, tmp_path):
    sample(capsys, here.run_id, "--interpolate", "5,9,11", "--out", tmp_path / "strip.png")
    assert pixels_of(tmp_path / "strip.png").shape == (2 + 10 * 50, 2 + 17 * 50, 3)


def test_an_image_of_its_own_is_projected_and_noise_is_not(here, capsys, tmp_path):
    sample(capsys, here.run_id, "--num", 1, "--first-seed", 30_004, "--out", tmp_path / "own")
    (own,) = (tmp_path / "own").iterdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / "noise.png")
    errors = {}
    for name, picture in (("own", own), ("noise", tmp_path / "noise.png")):
        out = sample(capsys, here.run_id, "--project", picture, "--out", tmp_path / f"{name}.png", "--steps", 300)
        record = json.loads((tmp_path / f"{name}.json").read_text())
        errors[name] = record["rmse_grey_levels"]
        assert f"{record['rmse_grey_levels']:.2f} grey levels RMSE" in out
        assert record["rmse_grey_levels"] < record["random_rmse_grey_levels"]
        assert len(record["latent"]) == 8
        assert pixels_of(tmp_path / f"{name}.png").shape == (156, 456, 3)
    assert errors["own"] < 1.5
    assert 20.0 < errors["noise"] < 150.0


CASES = [
    (["RUN"], "give one of --num, --grid, --interpolate, --project, --export"),
    (["RUN", "--num", "5", "--grid", "g.png"], "given 2"),
    (["RUN", "--num", "5"], "--num needs --out"),
    (["RUN", "--num", "5", "--out", "x", "--columns", "3"], "--columns has no effect with --num; it is for --grid"),
    (["RUN", "--num", "5", "--out", "x.zip"], "give a folder, for PNG files, or a file that ends in .parquet"),
    (["RUN", "--num", "5", "--out", "s3://bucket/x"], "let it end in .parquet"),
    (["RUN", "--num", "5", "--out", "x", "--label", "10"], "--label: 0 to 9, or all, given 10"),
    (["RUN", "--num", "5", "--out", "x", "--truncation", "0"], "cut at so many standard deviations, above 0"),
    (["RUN", "--num", "5", "--out", "x", "--workers", "0", "--gpus-per-worker", "1"], "no effect with --workers 0"),
    (["RUN", "--num", "5", "--out", "tiny.yaml/x.parquet"], "tiny.yaml is a file"),
    (["RUN", "--num", "5", "--out", "s3:/x.parquet"], "write s3://x.parquet, or ./s3:/x.parquet for a path"),
    (["RUN", "--num", "5", "--out", "."], "not empty"),
    (["RUN", "--grid", "s3://bucket/g.png"], "--grid: s3://bucket/g.png is an address, and only the images of --num go to one"),
    (["RUN", "--interpolate", "1,2", "--out", "gs://bucket/f.gif"], "--out: gs://bucket/f.gif is an address"),
    (["RUN", "--project", "tiny.yaml", "--out", "s3://bucket/p.png"], "--out: s3://bucket/p.png is an address"),
    (["RUN", "--export", "s3://bucket/generator"], "--export: s3://bucket/generator is an address"),
    (["RUN", "--export", "tiny.yaml/generator"], "tiny.yaml is a file"),
    (["RUN", "--grid", "runs"], "--grid: runs is a folder"),
    (["RUN", "--grid", "g.png", "--workers", "0"], "--workers has no effect with --grid"),
    (["RUN", "--export", "e", "--truncation", "0"], "--truncation has no effect with --export"),
    (["RUN", "--export", "e", "--first-seed", "0"], "--first-seed has no effect with --export"),
    (["models:/maker/1", "--best", "--grid", "g.png"], "--best chooses a checkpoint of a run, and has no effect on models:/maker/1"),
    (["RUN", "--grid", "g.jpg"], "--grid: g.jpg must end in .png"),
    (["RUN", "--interpolate", "1,2", "--out", "f.mp4"], "--out: f.mp4 must end in .gif or .webp or .png"),
    (["RUN", "--project", "nothing.png", "--out", "p.png"], "nothing.png cannot be read"),
    (["RUN", "--project", "tiny.yaml", "--out", "p.png"], "tiny.yaml cannot be decoded"),
    (["RUN", "--project", "nothing.png", "--space", "w", "--out", "p.png"], "this generator has no w"),
    (["RUN", "--grid", "g.png", "mlflow.experiment=x"], "sampling has one setting, mlflow.tracking_uri"),
    (["nothing-here", "--grid", "g.png"], "'nothing-here' is no path, models:/ address or run"),
    (["runs", "--grid", "g.png"], "runs is not one of raygan's generators"),
    (["models:/maker/7", "--grid", "g.png"], "the model models:/maker/7 cannot be loaded"),
    (["models:/nobody/latest", "--grid", "g.png"], "the model models:/nobody/latest cannot be loaded"),
    (["models:/maker@champion", "--grid", "g.png"], "the model models:/maker@champion cannot be loaded"),
    (["models:/a/b/c", "--grid", "g.png"], "write models:/ID, models:/NAME/VERSION"),
    (["runs:/RUN/other", "--grid", "g.png"], "the run has no model 'other'; its models: runs:/RUN/generator"),
]


@pytest.mark.parametrize(("words", "reason"), CASES)
def test_bad_input_is_refused_and_nothing_is_written(here, capsys, words, reason):
    before = sorted(os.listdir())
    error = sample(capsys, *(word.replace("RUN", here.run_id) for word in words), status=2)
    assert reason in error.replace(here.run_id, "RUN")
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("words", [["--num", "0"], ["--num", "x"], ["--interpolate", "1"], ["--frames", "1"], ["--gpus-per-worker", "-1"]])
def test_numbers_that_are_none_are_refused_by_the_parser(here, capsys, words):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["sample", here.run_id, *words])
    assert stopped.value.code == 2
    assert "given" in capsys.readouterr().err


def test_points_are_no_pictures_but_can_be_exported(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = tiny_config(data__name="ring2d", network__generator__output="linear")
    shape = portable.Shape(resolution=1, channels=2, num_classes=0, points=True)
    generator = mlp.generator(resolution=1, channels=2, num_classes=0, z_dim=8, **config.network.generator)
    (tmp_path / "made").mkdir()
    about = portable.Description(shape=shape, images_seen=0, content_hash="", gan=config)
    portable.save(tmp_path / "made", portable.Portable(generator, about))
    assert "2-D points, which are no pictures" in sample(capsys, "made", "--grid", "g.png", status=2)
    sample(capsys, "made", "--export", "exported")
    assert portable.read(tmp_path / "exported").description == about
