"""The Dockerfile: linted, with nothing secret in it; its install steps run in an empty folder, for which no container engine is needed."""

import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from pip._internal.models.index import PyPI

from tests.infra.parts import INFRA, ROOT

DOCKERFILE = INFRA / "docker/Dockerfile"
IGNORE = (ROOT / ".dockerignore").read_text().splitlines()


def stages():
    """Name -> (parent, instructions as (word, rest))."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found, current = {}, []
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            parent, _, name = rest.partition(" AS ")
            current = []
            found[name] = (parent, current)
        else:
            current.append((word, rest.strip()))
    return found


def steps(target):
    """All instructions that make a target, the oldest first."""
    made = []
    while target in stages():
        target, instructions = stages()[target]
        made = instructions + made
    return made


def run_install_steps(target, folder, environment):
    """Do what the target's COPY, `RUN pip` and `RUN python` instructions do, with /opt and the context elsewhere."""
    context = folder / "context"
    for name in (line[1:] for line in IGNORE if line.startswith("!")):
        destination = context / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, destination)
    build = folder / "build"
    build.mkdir()
    for word, rest in steps(target):
        if word == "COPY":
            *sources, destination = rest.split()
            place = Path(destination.replace("/opt/build", str(build)))
            for source in sources:
                if (context / source).is_dir():
                    shutil.copytree(context / source, place)
                else:
                    shutil.copy(context / source, place)
        elif word == "RUN" and re.search(r"\b(pip|python) ", rest):
            command = re.sub(r"--mount=\S+", "", rest).replace("/opt/venv", str(folder / "venv"))
            ran = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=build, env=environment, capture_output=True, text=True)
            assert ran.returncode == 0, f"{command}\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}"


def answers(address):
    try:
        with urllib.request.urlopen(address, timeout=10):
            return True
    except OSError:
        return False


def test_hadolint_finds_nothing():
    result = subprocess.run([str(Path(sys.executable).with_name("hadolint")), str(DOCKERFILE)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("target", ["cpu", "gpu", "mlflow"])
def test_an_image_does_not_run_as_root_and_installs_before_it_copies_code(target):
    made = steps(target)
    assert [rest for word, rest in made if word == "USER"] == ["1000:1000"]
    assert made.index(("USER", "1000:1000")) > max(n for n, (word, _) in enumerate(made) if word in ("RUN", "COPY"))
    heavy = next(n for n, (word, rest) in enumerate(made) if word == "RUN" and "--constraint constraints.txt" in rest)
    assert all(n > heavy for n, (word, rest) in enumerate(made) if word == "COPY" and "gan_core" in rest)


def test_nothing_secret_is_built_in():
    for target in ("cpu", "gpu", "mlflow"):
        for word, rest in steps(target):
            assert not (word in ("ENV", "ARG") and re.search(r"TOKEN|PASSWORD|SECRET|_KEY", rest)), rest
    assert "**/.env*" in IGNORE
    assert IGNORE[1] == "*"  # what is not named does not travel


def test_all_that_is_copied_is_sent_to_the_builder():
    allowed = [line[1:] for line in IGNORE if line.startswith("!")]
    for target in ("cpu", "gpu", "mlflow"):
        for word, rest in steps(target):
            if word == "COPY":
                for source in rest.split()[:-1]:
                    assert source in allowed, source
                    assert (ROOT / source).exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_install_steps_of_the_cpu_target_make_an_environment_that_runs_raygan(tmp_path):
    """From PyPI where PyTorch's own index is not reached: its wheels bring CUDA's libraries, which takes 7 GB and minutes."""
    venv = tmp_path / "venv"
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS")}
    arguments = dict(rest.split("=", 1) for word, rest in steps("cpu") if word == "ARG")
    index = arguments["TORCH_INDEX"]
    path = f"{venv}/bin:{tmp_path}/python:{kept['PATH']}"
    (tmp_path / "python").mkdir()
    (tmp_path / "python/python").symlink_to(Path(sys.executable).resolve())
    arguments["TORCH_INDEX"] = index if answers(index) else PyPI.simple_url
    environment = {**kept, **arguments, "PATH": path, "HOME": str(tmp_path)}
    try:
        run_install_steps("cpu", tmp_path, environment)
        where = "import gan_core, pipelines, tune_spaces, sys; print(pipelines.__file__, sys.version_info[:2])"
        found = subprocess.run([f"{venv}/bin/python", "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert found.stdout.startswith(str(venv)), found.stderr
        helped = subprocess.run([f"{venv}/bin/raygan", "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert helped.returncode == 0
        assert "train a GAN through Ray Train" in helped.stdout
        version = subprocess.run(
            [f"{venv}/bin/python", "-c", "import torch; print(torch.__version__)"], env=environment, capture_output=True
        )
        assert version.stdout.decode().startswith("2."), version.stderr
        built = (next(venv.glob("lib/*/site-packages/raygan-*.dist-info")) / "WHEEL").read_text()
        assert f"Generator: setuptools ({arguments['SETUPTOOLS']})" in built
    finally:
        shutil.rmtree(tmp_path, ignore_errors=True)
