"""Whether all nodes of a cluster have the same software, see the same storage and can read the data: asked of each node at the start,
and of every rank once its data are loaded.

Imports are inside where they are heavy: Ray's processes load this module too.
"""

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

if TYPE_CHECKING:
    from pipelines.config import JobConfig

Facts = dict[str, str]
ANSWER_SECONDS = 60.0
SOURCES = ("gan_core", "pipelines", "tune_spaces")
# Those that decide which numbers come out; Ray itself refuses nodes of another Ray or Python.
PACKAGES = ("torch", "torchvision", "numpy", "pyarrow", "pillow", "scipy", "safetensors", "torch-fidelity", "mlflow")
DATA = "data"


@lru_cache(maxsize=1)
def facts() -> Facts:
    """Versions of what changes numbers, and a hash of raygan's own source files, as this process imports them."""
    found = {"raygan": _source_hash(), "python": sys.version.split()[0]}
    return found | {package: _version(package) for package in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _source_hash() -> str:
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(path for source in SOURCES for path in (root / source).rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes() + b"\0")
    return f"{_version('raygan')} with the source hash {digest.hexdigest()[:12]}"


def differences(mine: Facts, theirs: Mapping[str, Facts]) -> str:
    """A sentence that names where something differs from `mine`, with both values; empty where nothing does. A fact that one side does not
    have is not compared.
    """
    found = [
        f"{where} has {key} {their[key]}, the driver has {value}"
        for where, their in theirs.items()
        for key, value in mine.items()
        if key in their and their[key] != value
    ]
    if not found:
        return ""
    return f"the nodes do not agree: {'; '.join(found)}. Give all of them the same software and the same data"


def require_agreement(config: "JobConfig") -> None:
    """Check on every node of the connected cluster, if there are several, that it has the driver's software, sees what the driver writes to
    the storage, and can read the data.

    Raises:
        ValueError: a node does not, or does not answer.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    from pipelines import storage

    places = _places(config)
    with storage.probe(config.ray.storage_path) as probe:
        answers = _ask(nodes, config.ray.storage_path, probe, places)
    if sentence := differences(facts(), {where: answer["facts"] for where, answer in answers.items()}):
        raise ValueError(sentence)
    for where, answer in answers.items():
        if not answer["sees_storage"]:
            raise ValueError(
                f"ray.storage_path: {where} does not see the file that the driver has just written to {config.ray.storage_path}; give a "
                f"folder that all nodes share, or an object store"
            )
        for key, path in places.items():
            if not answer["reads"][key]:
                raise ValueError(f"{key}: {where} cannot read {path}; put it there too, or give a place that all nodes share")


def name_of(node: Mapping[str, Any]) -> str:
    """A node in words, from its row of `ray.nodes()`."""
    return f"node {node['NodeManagerAddress']} ({node['NodeID'][:8]})"


def _ask(nodes: Sequence[Mapping[str, Any]], storage_path: str, probe: str, places: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Each node's answer.

    Raises:
        ValueError: one did not come in time, or cannot be given.
    """
    look, asked = ray.remote(num_cpus=0, max_retries=0)(_look), {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[look.options(scheduling_strategy=there).remote(storage_path, probe, dict(places))] = name_of(node)
    _, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
    if late:
        for reference in late:
            ray.cancel(reference, force=True)
        names = ", ".join(sorted(asked[reference] for reference in late))
        raise ValueError(f"no answer from {names} within {ANSWER_SECONDS:g} s; see whether it is overloaded or cut off, or take it away")
    answers = {}
    for reference, where in asked.items():
        try:
            answers[where] = ray.get(reference)
        except Exception as error:  # the node's own: raygan may not even be there
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(f"{where} cannot be used: {reason}; install the same raygan there, or take it away") from None
    return answers


def _look(storage_path: str, probe: str, places: dict[str, str]) -> dict[str, Any]:
    """What a node says of itself."""
    from pipelines import storage

    reads = {key: os.access(path, os.R_OK) for key, path in places.items()}
    return {"facts": facts(), "sees_storage": storage.sees(storage_path, probe), "reads": reads}


def _places(config: "JobConfig") -> dict[str, str]:
    """The files and folders that every node reads, by their keys."""
    tree = config.model_dump()
    found = {f"data.{key}": value for key, value in tree["data"].items() if key in ("path", "root")}
    found |= {f"evaluation.extractor.{key}": value for key, value in tree["evaluation"]["extractor"].items() if key in ("path", "weights")}
    return {
        key: os.path.abspath(os.path.expanduser(value)) for key, value in found.items() if isinstance(value, str) and "://" not in value
    }
