"""One place for versions: constraints.txt. Everything else in infra/ repeats it, and is held to it here."""

import re
import tomllib

import pytest
import yaml

from tests.infra.parts import INFRA, OVERLAYS, PINNED, ROOT, compose, overlay, pins, pod_templates, ray_clusters

DOCKERFILE = (INFRA / "docker/Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LAUNCHER = (INFRA / "ray-cluster/aws.yaml").read_text()
IMAGES = {"raygan": f"{PROJECT['version']}-", "raygan-mlflow": pins()["mlflow"]}


def python_version():
    return re.search(r"^ARG PYTHON_IMAGE=python:([\d.]+)-slim-bookworm$", DOCKERFILE, re.MULTILINE)[1]


def require_our_tag(image):
    name, _, tag = image.partition(":")
    assert PINNED.match(image.replace("${RAYGAN_VARIANT:-cpu}", "cpu")), image
    if name in IMAGES:
        assert tag.startswith(IMAGES[name]), image


def test_python_is_the_one_that_the_pins_were_tested_with_everywhere():
    tested = re.search(r"\(Python (\d+\.\d+),", (ROOT / "constraints.txt").read_text())[1]
    assert python_version().rpartition(".")[0] == tested
    assert re.search(r"venv --seed --python ([\d.]+) ", LAUNCHER)[1] == python_version()


@pytest.mark.parametrize("name", OVERLAYS)
def test_ray_and_the_images_of_an_overlay_are_those_of_constraints_and_pyproject(name):
    manifests = overlay(name)
    assert {spec["rayVersion"] for spec in ray_clusters(manifests).values()} == {pins()["ray"]}
    for template in pod_templates(manifests).values():
        for container in template["spec"]["containers"]:
            require_our_tag(container["image"])


def test_compose_and_the_dockerfile_name_the_same_images_as_the_overlays():
    images = {service["image"] for service in compose()["services"].values()}
    for image in images:
        require_our_tag(image)
    assert f"raygan-mlflow:{pins()['mlflow']}" in images
    for line in re.findall(r"--target \w+ +-t (\S+) ", DOCKERFILE):
        require_our_tag(line)
    in_pods = {c["image"] for t in pod_templates(overlay("cpu-kind")).values() for c in t["spec"]["containers"]}
    assert in_pods <= {image.replace("${RAYGAN_VARIANT:-cpu}", "cpu") for image in images}


def test_everything_that_is_installed_is_pinned():
    for command in re.findall(r"pip install (.*)", DOCKERFILE):
        constrained = "--constraint constraints.txt" in command or "--requirement torch.txt" in command or "--no-deps" in command
        assert constrained or command.endswith('"setuptools==${SETUPTOOLS}"'), command
    named = ["mlflow", "psycopg2-binary", "boto3", "prometheus-flask-exporter", "flask-wtf", "wtforms", "nvidia-ml-py"]
    assert [name for name in named if name not in pins()] == []
    for requirement in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["gpu"] + PROJECT["optional-dependencies"]["server"]:
        assert re.match(r"[\w-]+", requirement)[0].lower().replace("torch-fidelity", "torch_fidelity") in pins(), requirement


def test_what_builds_raygan_is_pinned_too():
    """Constraints do not reach what pip installs to build with."""
    setuptools = re.search(r"^ARG SETUPTOOLS=(\d+)\.\d+\.\d+$", DOCKERFILE, re.MULTILINE)[1]
    (required,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert int(setuptools) >= int(re.match(r"setuptools>=(\d+)$", required)[1])
    ours = [command for command in re.findall(r"pip install (.*)", DOCKERFILE) if re.search(r" '?\.(\[\w+\]')?$", command)]
    assert len(ours) == 4
    assert [command for command in ours if "--no-build-isolation" not in command] == []


def test_the_launchers_machines_install_the_pins():
    (install,) = [command for command in yaml.safe_load(LAUNCHER)["setup_commands"] if "pip install --quiet" in command]
    assert "--constraint constraints.txt" in install


@pytest.mark.parametrize("image", ["raygan", "raygan:latest", "raygan:newest", "registry/raygan:stable"])
def test_an_image_that_moves_is_not_pinned(image):
    assert not PINNED.match(image)
