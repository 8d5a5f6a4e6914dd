"""Every kind of bad input: exit status 2 and a clear sentence, before there is a run or anything in the storage."""

import shutil

import pytest

from pipelines import cli
from tests.support import noise_images, png, write_parquet


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    encoded, _ = noise_images(8)
    write_parquet(tmp_path / "good.parquet", encoded, [0] * 8)
    write_parquet(tmp_path / "empty.parquet", [])
    write_parquet(tmp_path / "unlabelled.parquet", [png()], image="picture")
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    return tmp_path


def refused(capsys, *words):
    assert cli.main(["train", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("raygan train: ")
    assert "Traceback" not in printed.err
    return printed.err


PARQUET = ["data.name=parquet", "network.name=dcgan"]
CASES = [
    (["digits", "totl_kimg=1"], "unknown key 'totl_kimg' (did you mean 'total_kimg'?)"),
    (["digits", "ray.num_wrokers=1"], "unknown key 'ray.num_wrokers' (did you mean 'num_workers'?)"),
    (["digits", "network.name=dcgann"], "unknown network name 'dcgann' (did you mean 'dcgan'?); choices: dcgan, mlp"),
    (["digits", "step_ratio=0:1"], "step_ratio: '0:1' is not d:g"),
    (["digits", "step_ratio=5"], "step_ratio: 5 is not d:g"),
    (["digits", "step_ratio=a:b"], "step_ratio: 'a:b' is not d:g"),
    (["digits", "ray.num_workers=3"], "batch_size 128 is not divisible by 3 ranks; try 126 or 129"),
    (
        ["digits", *PARQUET, "data.path=good.parquet", "data.resolution=32"],
        "good.parquet row 0 is 28x28 and not 32x32; set data.resolution",
    ),
    (["digits", "data.name=ring2d"], "dcgan cannot make resolution 1"),
    (
        ["nothing.yaml"],
        "no config file at 'nothing.yaml'; give a path to a YAML file, or one of: cifar10, digits, images256, images64, "
        "mnist, ring2d, stacked_mnist",
    ),
    (["digit", "total_kimg=1"], "no config file at 'digit' (did you mean 'digits'?)"),
    (["digits", "network.norm=batch"], "unknown key 'network.norm'; did you mean network.generator.norm or network.discriminator.norm?"),
    (["list.yaml"], "must hold keys and values"),
    (["digits", *PARQUET, "data.path=nothing.parquet"], "data.path: nothing at"),
    (["mnist"], "data.path is required and was not given"),
    (["digits", *PARQUET, "data.path=unlabelled.parquet"], "no column 'image'; its columns: picture"),
    (["digits", *PARQUET, "data.path=empty.parquet"], "holds no rows"),
    (["digits", "ray.storage_path=file/runs"], "ray.storage_path: cannot write to"),
    (["digits", "mlflow.tracking_uri=http://127.0.0.1:9"], "mlflow.tracking_uri: http://127.0.0.1:9 cannot be used"),
    (["digits", "mlflow.tracking_uri=sqlite:///nowhere/mlflow.db"], "does not exist; make it, or give another file"),
    (["digits", "mlflow.tracking_uri=http://me:secret@127.0.0.1:9"], "holds a password"),
    (["digits", "ray.storage_path=s3://me:secret@bucket"], "give them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    (["digits", *PARQUET, "data.path=s3://me:secret@bucket"], "give them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    (["digits", "data.name=folder", "data.path=s3://bucket/images"], "only folders of this machine can be used here"),
    (["digits", *PARQUET, "data.path=good.parquet", "data.cache_dir=s3://bucket"], "only folders of this machine can be used here"),
    (["digits", "--local"], "--local is one worker, given 2"),
    (["digits", "--local", "ray.num_workers=1", "ray.storage_path=s3://bucket"], "--local needs a folder on this machine"),
    (["digits", "--local", "ray.num_workers=1", "ray.use_gpu=true"], "ray.use_gpu: this machine has no GPU"),
    (["digits", "ray.num_workers=64"], "ray.num_workers: 64 workers of 1 CPU each do not fit"),
    (
        ["digits", "ray.num_workers=64", "ray.asynchronous_evaluation=true", "schedule.evaluate_kimg=50"],
        "64 workers of 1 CPU each do not fit",
    ),
    (["digits", "ray.asynchronous_evaluation=true"], "with ray.asynchronous_evaluation checkpoints are scored, every 50 kimg, given 25"),
    (["digits", "ray.evaluation_gpus=1"], "ray.evaluation_gpus has no effect without ray.asynchronous_evaluation"),
    (["ring2d", "--local", "ray.asynchronous_evaluation=true", "schedule.evaluate_kimg=500"], "it needs Ray; leave out --local"),
    (["digits", "evaluation.metrics=[fid]"], "unknown metric name 'fid'"),
    (["digits", "evaluation.metrics=[parzen_window]", "diagnostics.held_out=0"], "parzen_window cannot be measured: no images are known"),
    (
        ["digits", "evaluation.metrics=[frechet_distance]", "evaluation.fake_count=50"],
        "50 samples of 64 feature dimensions give a singular covariance",
    ),
    (["digits", "ray.use_gpu=true"], "2 workers of 1 CPU and 1 GPU each do not fit"),
    (["total_kimg=1"], "give a config"),
    (["digits", "total_kimg"], "'total_kimg' is not key=value"),
    (["--from-run", "abc", "digits"], "leave out the config file"),
    (["--resume", "0123"], "no run '0123'"),
]


@pytest.mark.parametrize(("words", "sentence"), CASES, ids=[" ".join(words) for words, _ in CASES])
def test_bad_input_is_refused_with_a_clear_sentence_and_leaves_nothing(here, capsys, words, sentence):
    message = refused(capsys, *words)
    assert sentence in message
    assert "secret" not in message
    assert not any((here / "runs").glob("*")) if (here / "runs").exists() else True
    assert not (here / "mlartifacts").exists()


def test_an_unknown_command_lists_the_commands(capsys):
    assert cli.main(["trian"]) == 2
    assert "unknown command 'trian' (did you mean 'train'?)" in capsys.readouterr().err


def test_print_config_prints_what_would_run(here, capsys):
    assert cli.main(["train", "digits", "--print-config", "step_ratio=5:1"]) == 0
    printed = capsys.readouterr().out
    assert "step_ratio: '5:1'" in printed
    (here / "again.yaml").write_text(printed)
    assert cli.main(["train", "again.yaml", "--print-config"]) == 0
    assert capsys.readouterr().out == printed
    assert not shutil.os.path.exists(here / "runs")
