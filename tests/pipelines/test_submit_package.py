"""What travels with a job and what stays: code and configs, not environments, data and secrets."""

import io
import os
import re
import zipfile
from pathlib import Path

import pytest

import pipelines
from pipelines import cli
from pipelines.submitting import package
from tests.pipelines.head import ROOT
from tests.pipelines.sent import CONFIG, STORED, make

pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated")  # Ray gives it to aiohttp

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
    assert out.splitlines()[-1] == f"would travel {package.total(package.collect(project))}"
    assert re.fullmatch(r"\d{3} files, \d\.\d MB", package.total(package.collect(project)))


def test_a_checkout_of_raygan_sends_neither_tests_nor_infra_and_holds_no_secret_to_tell(project):
    content = package.collect(ROOT)
    assert package.held_back(content) == ""
    names = {item.name for item in content.items}
    assert not [name for name in names if name.startswith(("tests/", "infra/"))]
    assert {"pipelines/train.py", "gan_core/steps.py", "tune_spaces/smoke.py", "pyproject.toml"} <= names
