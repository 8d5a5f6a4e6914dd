"""`raygan submit` on this side: what travels, what is refused, how a job is followed, and what its end comes to."""

import io
import json
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

import pipelines
from pipelines import cli, environment
from pipelines.submitting import address, following, orders, package

pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated")  # Ray gives it to aiohttp

STORED = "ray.storage_path=/shared/runs"
CONFIG = "data: {name: digits}\nnetwork: {name: dcgan}\n# own"
SECRETS = (
    *(".env", ".env.local", "prod.env", ".envrc", "server.pem", "tls.key", "id_rsa", "id_ed25519.pub", "credentials.json", ".netrc"),
    *(".aws/credentials", ".ssh/config", "kubeconfig", "kubeconfig.yaml", ".kube/config", "deep/er/.ENV", "deep/Server.PEM", "auth_token"),
)
DATA = (
    "images.parquet",
    "pictures/one.png",
    "set.zip",
    "weights.pt",
    "mlflow.db",
    "mlflow.db-journal",
    "mlruns/0/meta.yaml",
    "runs/a/b.txt",
)
CACHES = (
    ".venv/bin/python",
    "venv/lib/x.py",
    "node_modules/a.js",
    "code/__pycache__/a.pyc",
    "mine/pyvenv.cfg",
    "mine/lib/b.py",
    ".git/config",
)


def make(folder, *names, text="x"):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def own(folder):
    """What of a folder itself travels."""
    return {item.name for item in package.collect(folder).items if not item.name.startswith(package.CODE)}


def test_code_and_configs_travel_and_environments_data_and_secrets_do_not(project):
    make(project, "config.yaml", "lib/mine.py", "notes.md", *SECRETS, *DATA, *CACHES)
    assert own(project) == {"config.yaml", "lib/mine.py", "notes.md"}
    reasons = package.collect(project).stays
    assert {reasons[name] for name in SECRETS if name in reasons} == {"a secret"}
    assert {reasons[name] for name in DATA if name in reasons} == {"data"}
    assert reasons["mine"] == "an environment or a cache"


def test_ignore_files_are_respected_as_git_reads_them(project):
    make(project, "a.txt", "b.txt", "sub/a.txt", "sub/b.txt", "sub/deep/c.txt", "out/x.txt", "keep/out.txt")
    (project / ".gitignore").write_text("/a.txt\nout/\n*.log\nsub/b.txt\n")
    (project / "sub/.gitignore").write_text("!b.txt\ndeep\n")
    (project / ".rayignore").write_text("keep/\n")
    assert own(project) == {"b.txt", "sub/a.txt", "sub/b.txt", ".gitignore", "sub/.gitignore", ".rayignore"}


def test_the_gitignore_of_the_checkout_around_the_folder_counts_too(project):
    make(project, ".git/HEAD", "part/a.txt", "part/b.txt")
    (project / ".gitignore").write_text("b.txt\n/part/c.txt\n")
    make(project, "part/c.txt")
    assert own(project / "part") == {"a.txt"}


def test_links_out_of_the_folder_and_links_to_what_stays_are_not_followed(project, tmp_path):
    make(tmp_path, "outside/private.txt", text="private")
    make(project, "real.txt", ".env", "folder/f.txt")
    (project / "out.txt").symlink_to(tmp_path / "outside/private.txt")
    (project / "outdir").symlink_to(tmp_path / "outside")
    (project / "innocent.txt").symlink_to(project / ".env")
    (project / "twin.txt").symlink_to("real.txt")
    (project / "circle").symlink_to(".")
    (project / "broken").symlink_to("nowhere.txt")
    os.mkfifo(project / "pipe")
    assert own(project) == {"real.txt", "folder/f.txt", "twin.txt"}
    stays = package.collect(project).stays
    assert stays["out.txt"] == stays["outdir"] == "a link that leads out of the folder"
    assert stays["innocent.txt"] == "a secret"
    assert stays["pipe"] == "no plain file"


def test_raygans_own_code_travels_whole_from_elsewhere_and_once_from_its_checkout(project):
    root = Path(pipelines.__file__).parents[1]
    code = {path.relative_to(root).as_posix() for name in package.CODE for path in (root / name).rglob("*.py")}
    configs = {path.relative_to(root).as_posix() for path in (root / "pipelines/configs").glob("*.yaml")}
    for folder in (project, root):
        names = [item.name for item in package.collect(folder).items]
        assert code | configs <= set(names)
        assert len(set(names)) == len(names)


def test_a_package_is_the_same_bytes_again_and_holds_what_was_listed(project):
    make(project, "a.sh", "b.txt", text="words")
    (project / "a.sh").chmod(0o755)
    content = package.collect(project)
    packed = package.pack(content)
    os.utime(project / "b.txt", (0, 0))
    assert package.pack(package.collect(project)) == packed
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.namelist() == [item.name for item in content.items]
        assert archive.read("b.txt") == b"words"
        assert archive.getinfo("a.sh").external_attr >> 16 == 0o100755
        assert archive.getinfo("b.txt").external_attr >> 16 == 0o100644


def test_what_is_too_large_is_refused_with_the_largest_named(project, capsys):
    make(project, "small.txt")
    make(project, "dumps/large.txt", text="y" * 3_000_000)
    assert cli.main(["submit", "--size-limit", "2", "train", "digits", STORED]) == 2
    err = capsys.readouterr().err
    assert "3.00 MB  dumps/large.txt" in err
    assert "the limit is 2 MB" in err
    assert ".rayignore" in err


def test_a_folder_with_other_code_of_the_same_name_is_refused(project, capsys):
    make(project, "pipelines/__init__.py")
    assert cli.main(["submit", "train", "digits", STORED]) == 2
    assert "holds a pipelines of its own" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["/", "~"])
def test_a_whole_machine_does_not_travel(project, capsys, monkeypatch, folder):
    where = str(Path(folder).expanduser())
    monkeypatch.setattr(package, "NOT_WHOLE", (Path("/"), Path(where)))
    Path(where).mkdir(exist_ok=True)
    assert cli.main(["submit", "--working-dir", where, "train", "digits", STORED]) == 2
    assert "is too much to send" in capsys.readouterr().err


def test_a_dry_run_lists_what_travels_and_what_stays_and_starts_nothing(project, capsys, monkeypatch):
    make(project, "mine.yaml", text=CONFIG)
    make(project, ".env")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert cli.main(["submit", "--dry-run", "train", "mine.yaml", STORED, "loss.name=hinge"]) == 0
    out = capsys.readouterr().out
    assert f"{len(CONFIG):>12}  mine.yaml" in out
    assert "stays  .env  (a secret)" in out
    assert "entrypoint   python -m pipelines.train mine.yaml ray.storage_path=/shared/runs loss.name=hinge" in out
    assert "RAY_JOB_STOP_WAIT_TIME_S=60 MLFLOW_TRACKING_URI=http://tracking:5000" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "digits", STORED, "total_kmg=1"], "unknown key 'total_kmg' (did you mean 'total_kimg'?)"),
        (["train", "digits", STORED, "batch_size=-1"], "batch_size"),
        (["train", "digts", STORED], "did you mean 'digits'?"),
        (["train"], "give a config"),
        (["trian", "digits"], "did you mean 'train'?"),
        ([], "give a command to submit"),
        (["theory"], "give a command to submit, given theory"),
        (["train", "digits", STORED, "--local"], "--local is for here"),
        (["sweep", "digits", "loss_x_ratio", "--dry-run", STORED], "--dry-run is for here"),
        (["train", "digits"], "ray.storage_path: runs is a place in this folder"),
        (["train", "digits", "ray.storage_path=../runs"], "ray.storage_path: ../runs is a place in this folder"),
        (["train", "mnist", STORED, "data.path=mnist.parquet"], "data.path: mnist.parquet is a place in this folder"),
        (["train", "digits", STORED, "mlflow.tracking_uri=sqlite:///here.db"], "mlflow.tracking_uri: sqlite:///here.db is in this folder"),
        (["train", "digits", STORED, "mlflow.tracking_uri=http://u:p4ss@host"], "it holds a password"),
        (["train", "--resume", "some", "ray.storage_path=runs"], "ray.storage_path: runs is a place"),
        (["sweep", "digits", "loss_x_rato", STORED], "loss_x_ratio"),
        (["sweep", "digits", "loss_x_ratio", STORED, "sweep.trails=3"], "did you mean 'trials'?"),
        (["sweep", "digits", "loss_x_ratio"], "ray.storage_path: runs is a place"),
        (["evaluate"], "give something to judge"),
        (["evaluate", "samples"], "the target samples: samples is a place in this folder"),
        (["evaluate", "models:/m/1", "fake_cout=3"], "did you mean 'fake_count'?"),
        (["sample", "run", "--num", "3", "--out", "here.parquet"], "--out: here.parquet is a place in this folder"),
        (["sample", "run"], "give one of --num"),
        (["prepare", "/images", "prepared", "--resolution", "8"], "DST: prepared is a place in this folder"),
        (["report", "some", "--out", "page"], "--out: page is a place in this folder"),
        (["--pass-env", "HF_TOKEN", "train", "digits", STORED], "--pass-env: HF_TOKEN is not set here"),
        (["--submission-id", "../up", "train", "digits", STORED], "--submission-id: '../up' is no job's id"),
        (["--stop", "a/b"], "--stop: 'a/b' is no job's id"),
        (["--stop", "some", "train", "digits"], "leave out the command train"),
        (["--no-wait", "--logs", "some"], "--no-wait has no effect with --logs"),
        (["--address", "ray://head:10001", "train", "digits", STORED], "ray://head:10001 is no dashboard's address"),
        (["--address", "http://u:p4ss@head", "train", "digits", STORED], "--address: it holds a password"),
        (["--address", "http://127.0.0.1:9", "train", "digits", STORED], "no Ray dashboard answers at http://127.0.0.1:9"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(project, capsys, words, sentence):
    make(project, "samples/x.txt")
    assert cli.main(["submit", *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert "p4ss" not in err


@pytest.mark.parametrize(
    ("variables", "given", "expected"),
    [
        ({}, None, "http://127.0.0.1:8265"),
        ({"RAY_ADDRESS": "auto"}, None, "http://127.0.0.1:8265"),
        ({"RAY_ADDRESS": "https://a/ray/"}, None, "https://a/ray"),
        ({"RAY_ADDRESS": "http://a:1", "RAY_API_SERVER_ADDRESS": "b:2"}, None, "http://b:2"),
        ({"RAY_ADDRESS": "http://a:1", "RAY_API_SERVER_ADDRESS": "http://b:2"}, "c:3", "http://c:3"),
    ],
)
def test_the_address_given_comes_before_those_of_the_environment(project, monkeypatch, variables, given, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert address.resolve(given) == expected


@pytest.mark.parametrize("value", ["head:6379", "ray://head:10001"])
def test_an_address_that_is_no_dashboards_is_refused_with_its_source(project, monkeypatch, value):
    monkeypatch.setenv("RAY_ADDRESS", value)
    with pytest.raises(ValueError, match=f"RAY_ADDRESS: {value} is no dashboard's address"):
        address.resolve(None)


def test_a_config_file_from_elsewhere_or_ignored_travels_too(project, tmp_path):
    make(tmp_path, "far.yaml", text=CONFIG)
    make(project, "near.yaml", text=CONFIG)
    (project / ".gitignore").write_text("near.yaml\n")
    far = orders.read(["train", str(tmp_path / "far.yaml"), STORED], project)
    assert (far.words[0], list(far.files)) == ("submitted/far.yaml", ["submitted/far.yaml"])
    near = orders.read(["train", "near.yaml", STORED], project)
    assert near.words[0] == "near.yaml"
    assert "near.yaml" in {item.name for item in package.collect(project, near.files).items}


def submitted(server):
    (job,) = server.jobs.values()
    return job


def test_the_job_gets_code_store_and_time_to_stop_and_no_secret(server, project, monkeypatch, capsys):
    make(project, "hello.txt")
    for name in ("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "planted-7731")
    server.token = "planted-7731"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    assert cli.main(["submit", "--pass-env", "GLOO_SOCKET_IFNAME", "train", "digits", STORED]) == 0
    asked = submitted(server)
    assert asked["entrypoint"] == "python -m pipelines.train digits ray.storage_path=/shared/runs"
    variables = asked["runtime_env"]["env_vars"]
    assert variables == {"RAY_JOB_STOP_WAIT_TIME_S": "60", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "GLOO_SOCKET_IFNAME": "eth0"}
    assert asked["metadata"]["raygan.tracking_uri"] == "http://127.0.0.1:9"
    assert "entrypoint_num_cpus" not in asked
    (packed,) = server.packages.values()
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert {"hello.txt", "pipelines/train.py", "gan_core/steps.py", "tune_spaces/loss_x_ratio.py"} <= set(archive.namelist())
    out, err = capsys.readouterr()
    assert "MLFLOW_TRACKING_PASSWORD, AWS_SECRET_ACCESS_KEY: set here and not sent" in err
    assert "planted-7731" not in json.dumps(asked) + out + err
    assert b"planted-7731" not in packed


@pytest.mark.parametrize("name", ["MY_API_KEY", "DB_PASSWORD", "github_token", "AWS_PROFILE"])
def test_a_variable_that_looks_like_a_secret_is_not_passed(project, monkeypatch, capsys, name):
    monkeypatch.setenv(name, "planted-7731")
    assert cli.main(["submit", "--pass-env", name, "train", "digits", STORED]) == 2
    err = capsys.readouterr().err
    assert f"{name} looks like a secret" in err
    assert "planted-7731" not in err


@pytest.mark.parametrize(
    ("token", "source", "sentence"),
    [
        (None, None, "asks for a token (401)"),
        ("wrong", "RAY_AUTH_TOKEN", "refuses the token from RAY_AUTH_TOKEN (403)"),
        ("right", "RAY_AUTH_TOKEN", ""),
        ("right", "RAY_AUTH_TOKEN_PATH", ""),
        ("right", "~/.ray/auth_token", ""),
    ],
)
def test_a_token_is_found_where_ray_looks_for_it_and_sent_where_it_is_asked_for(
    server, tmp_path, monkeypatch, capsys, token, source, sentence
):
    server.token = "right"
    if source == "RAY_AUTH_TOKEN":
        monkeypatch.setenv(source, token)
    elif source:
        path = tmp_path / "home/.ray/auth_token"
        make(path.parent, "auth_token", text=f"{token}\n")
        if source == "RAY_AUTH_TOKEN_PATH":
            monkeypatch.setenv(source, str(path.rename(tmp_path / "elsewhere")))
    assert cli.main(["submit", "train", "digits", STORED]) == (2 if sentence else 0)
    err = capsys.readouterr().err
    assert sentence in err
    assert len(server.jobs) == (0 if sentence else 1)
    assert "Bearer" not in err


def test_the_address_given_is_the_one_that_is_asked(server, monkeypatch):
    """Ray's own client would take that of the environment."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    assert cli.main(["submit", "--address", server.address, "train", "digits", STORED]) == 0
    assert len(server.jobs) == 1
    assert os.environ["RAY_ADDRESS"] == os.environ["RAY_API_SERVER_ADDRESS"] == "http://127.0.0.1:9"


def test_a_token_is_not_sent_to_a_cluster_that_does_not_ask(server, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "for-another-cluster")
    assert cli.main(["submit", "train", "digits", STORED]) == 0
    assert not any(headers.get("Authorization") for headers in server.headers)
    assert len(server.headers) > 4


@pytest.mark.parametrize(("cuts", "told"), [([], 0), ([1], 0), ([2, 0, 1, 2], 1)])
def test_the_output_is_printed_once_however_often_the_connection_breaks(server, capsys, cuts, told):
    server.cuts = list(cuts)
    assert cli.main(["submit", "train", "digits", STORED]) == 0
    out, err = capsys.readouterr()
    assert out.count("first\nsecond\nthird\n") == 1
    assert [out.count(word) for word in ("first", "second", "third")] == [1, 1, 1]
    assert err.count("the connection is lost") == told


def test_a_connection_that_is_silent_does_not_hide_the_end(server, monkeypatch, capsys):
    monkeypatch.setattr(following, "QUIET_SECONDS", 0.2)
    server.silent, server.cuts = True, [1]
    assert cli.main(["submit", "train", "digits", STORED]) == 0
    assert capsys.readouterr().out.count("first\nsecond\nthird\n") == 1


def test_a_cluster_that_forgets_the_job_is_told(server, capsys):
    server.forgets = True
    assert cli.main(["submit", "train", "digits", STORED]) == 1
    assert "what became of job" in capsys.readouterr().err


def test_a_cluster_that_goes_away_for_good_is_given_up(monkeypatch, capsys):
    monkeypatch.setattr(following, "AWAY_SECONDS", 0.2)
    monkeypatch.setattr(following, "PAUSES", (0.05,))

    def refused(_):
        raise ConnectionRefusedError("refused")

    client = SimpleNamespace(tail_job_logs=refused, get_job_info=refused)
    with pytest.raises(following.LostError, match="http://gone has not answered for"):
        following.follow(address.Cluster(client, "http://gone"), "some", following.Output())
    assert capsys.readouterr().err.count("the connection is lost") == 1


def test_a_server_that_says_nothing_is_an_error_and_no_endless_wait(server, monkeypatch, capsys):
    monkeypatch.setattr(address, "ANSWER_SECONDS", 0.5)
    server.hangs = True
    assert cli.main(["submit", "train", "digits", STORED]) == 2
    assert "has not answered within 0.5 s" in capsys.readouterr().err


def test_a_job_that_arrived_is_followed_though_the_answer_was_lost(server, capsys):
    server.loses_answer = True
    assert cli.main(["submit", "train", "digits", STORED]) == 0
    assert len(server.jobs) == 1
    assert "third" in capsys.readouterr().out


def test_an_id_is_taken_once(server, capsys):
    words = ["submit", "--submission-id", "mine", "train", "digits", STORED]
    assert cli.main(words) == 0
    assert cli.main(words) == 2
    assert "--submission-id: the cluster has a job mine" in capsys.readouterr().err
    assert len(server.packages) == 1  # the same bytes are sent once


@pytest.mark.parametrize(
    ("ending", "status", "sentence"),
    [
        ({"status": "SUCCEEDED", "driver_exit_code": 0}, 0, "succeeded"),
        ({"status": "FAILED", "driver_exit_code": 1, "message": "log"}, 1, "failed with exit status 1"),
        ({"status": "FAILED", "driver_exit_code": 2}, 2, "failed with exit status 2"),
        ({"status": "FAILED", "driver_exit_code": 143}, 143, "failed with exit status 143"),
        ({"status": "FAILED", "driver_exit_code": -9}, 137, "failed with exit status 137"),
        ({"status": "FAILED", "error_type": "RUNTIME_ENV_SETUP_FAILURE", "message": "no disk"}, 1, "(RUNTIME_ENV_SETUP_FAILURE): no disk"),
        ({"status": "FAILED", "error_type": "JOB_SUPERVISOR_ACTOR_DIED", "message": "died"}, 1, "(JOB_SUPERVISOR_ACTOR_DIED): died"),
        ({"status": "STOPPED"}, 143, "stopped"),
    ],
)
def test_the_jobs_end_is_the_commands(server, capsys, ending, status, sentence):
    server.ending = ending
    assert cli.main(["submit", "--submission-id", "some", "train", "digits", STORED]) == status
    assert f"job some {sentence}" in capsys.readouterr().err.replace("failed in Ray ", "")
    assert cli.main(["submit", "--logs", "some"]) == status
    assert "third" in capsys.readouterr().out


def test_without_waiting_the_id_is_printed_and_the_job_can_be_asked_for_and_stopped(server, capsys):
    server.cuts = [1, 1, 1]
    assert cli.main(["submit", "--no-wait", "--submission-id", "some", "train", "digits", STORED]) == 0
    assert "job some at" in capsys.readouterr().out
    assert cli.main(["submit", "--status", "some"]) == 0
    assert "some RUNNING: python -m pipelines.train digits" in capsys.readouterr().out
    assert cli.main(["submit", "--stop", "some"]) == 0
    assert server.stops == ["some"]
    assert "job some stopped" in capsys.readouterr().err
    assert cli.main(["submit", "--status", "other"]) == 2
    assert "knows no job other" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "stops"), [([], []), (["--stop-on-interrupt"], ["some"])])
def test_ctrl_c_leaves_the_job_or_stops_it(server, monkeypatch, capsys, words, stops):
    real, calls = following.follow, []

    def interrupted_once(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(following, "follow", interrupted_once)
    assert cli.main(["submit", *words, "--submission-id", "some", "train", "digits", STORED]) == 130
    err = capsys.readouterr().err
    assert server.stops == stops
    assert ("--logs some" in err, "job some stopped" in err) == (not stops, bool(stops))


def test_a_job_knows_the_commit_of_its_code_which_travels_without_history(server, monkeypatch):
    here = environment.git()
    assert cli.main(["submit", "--submission-id", "some", "train", "digits", STORED]) == 0
    metadata = server.jobs["some"]["metadata"] | {"job_submission_id": "some"}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": metadata}))
    monkeypatch.setattr(environment, "_output", lambda *_: None)  # no git there
    assert environment.git() == here
    assert environment.describe()["ray_job"] == "some"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "http://localhost:5000", "sqlite:////abs/mlflow.db"])
def test_a_store_on_this_machine_is_refused_for_a_cluster_that_is_elsewhere(uri):
    from pipelines.submitting import sending

    order = orders.Order("train", [], {}, uri)
    with pytest.raises(ValueError, match="is on this machine, and the cluster is at http://10.0.0.1:8265"):
        sending.require_reached(order, SimpleNamespace(address="http://10.0.0.1:8265"))
    sending.require_reached(order, SimpleNamespace(address="http://127.0.0.1:8265"))
    sending.require_reached(order._replace(tracking_uri="http://tracking:5000"), SimpleNamespace(address="http://10.0.0.1:8265"))
