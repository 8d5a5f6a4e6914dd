"""Whether the cluster's nodes can hold the workers, each node by itself; and what a run waits for that has lost its machines."""

from collections.abc import Mapping, Sequence
from typing import Any

import ray

from pipelines.agreement import name_of
from pipelines.config import JobConfig

Resources = Mapping[str, float]
ROUNDING = 1e-6  # 1.0 // 0.2 is 4
NODES_NAMED = 8


def room(node: Resources, bundle: Resources) -> int:
    """How many such bundles a node holds."""
    return int(min((node.get(kind, 0.0) + ROUNDING) // amount for kind, amount in bundle.items() if amount > 0))


def fits(nodes: Sequence[Resources], bundle: Resources, count: int, placement: str) -> bool:
    """Whether `count` bundles can be placed so."""
    rooms = [room(node, bundle) for node in nodes]
    if placement == "strict_pack":
        return max(rooms, default=0) >= count
    if placement == "strict_spread":
        return sum(there > 0 for there in rooms) >= count
    return sum(rooms) >= count


def fit_beside(nodes: Sequence[Resources], bundle: Resources, count: int, placement: str, task: Resources) -> bool:
    """Whether a task has room on some node beside the bundles."""
    for index, node in enumerate(nodes):
        rest = {kind: there - task.get(kind, 0.0) for kind, there in node.items()}
        if min(rest.get(kind, -amount) for kind, amount in task.items() if amount > 0) < -ROUNDING:
            continue
        if fits([*nodes[:index], rest, *nodes[index + 1 :]], bundle, count, placement):
            return True
    return False


def uses_gpu(config: JobConfig) -> bool:
    """`ray.use_gpu`, or where that is open, whether the cluster has a GPU for each worker, and those that the evaluation asks for."""
    if config.ray.use_gpu is not None:
        return config.ray.use_gpu
    beside = config.ray.evaluation_gpus if config.ray.asynchronous_evaluation else 0.0
    return bool(ray.cluster_resources().get("GPU", 0.0) >= config.ray.fewest_workers + beside)


def bundle_of(config: JobConfig, on_gpu: bool) -> dict[str, float]:
    """What each worker is given."""
    return {"CPU": config.ray.cpus_per_worker, **({"GPU": 1.0} if on_gpu else {})}


def require_room(config: JobConfig) -> None:
    """Check that the nodes of the connected cluster can hold the workers, and the evaluation beside them. A cluster that an autoscaler
    grows is Ray's to judge.

    Raises:
        ValueError: they cannot; with what each node has.
    """
    if _grows():
        return
    asked, bundle = config.ray, bundle_of(config, uses_gpu(config))
    nodes = {name_of(node): node["Resources"] for node in _alive()}
    there, fewest = list(nodes.values()), asked.fewest_workers
    if not fits(there, bundle, fewest, asked.placement):
        raise ValueError(
            f"ray.num_workers: {demand(config, bundle)} do not fit; {_listed(nodes, bundle)}. Lower "
            f"{'ray.min_workers' if asked.min_workers else 'ray.num_workers'} or ray.cpus_per_worker, "
            f"{'set ray.use_gpu=false, ' if 'GPU' in bundle else ''}"
            f"{'choose ray.placement=pack, ' if asked.placement.startswith('strict') else ''}or add machines"
        )
    task = {"CPU": asked.evaluation_cpus, "GPU": asked.evaluation_gpus}
    if asked.asynchronous_evaluation and any(task.values()) and not fit_beside(there, bundle, fewest, asked.placement, task):
        raise ValueError(
            f"ray.asynchronous_evaluation: {demand(config, bundle)} and the evaluation beside them with {_amounts(task)} do not fit; "
            f"{_listed(nodes, {**bundle, **task})}. Lower ray.num_workers, ray.evaluation_cpus or ray.evaluation_gpus, or add machines"
        )


def demand(config: JobConfig, bundle: Resources) -> str:
    """What a run asks for, in words."""
    fewest, most = config.ray.fewest_workers, config.ray.num_workers
    workers = f"{fewest} to {most}" if fewest < most else f"{most}"
    strictly = f" ({config.ray.placement.replace('_', ' ')})" if config.ray.placement.startswith("strict") else ""
    return f"{workers} worker{'s' if most > 1 else ''} of {_amounts(bundle)}{' each' if most > 1 else ''}{strictly}"


def present(bundle: Resources) -> str:
    """What the cluster's nodes have, in words."""
    return _listed({name_of(node): node["Resources"] for node in _alive()}, bundle)


def _listed(nodes: Mapping[str, Resources], bundle: Resources) -> str:
    kinds = [kind for kind, amount in bundle.items() if amount > 0]
    named = [f"{name} has {_amounts({kind: has.get(kind, 0.0) for kind in kinds})}" for name, has in nodes.items()]
    more = f", and {len(named) - NODES_NAMED} more nodes" if len(named) > NODES_NAMED else ""
    return f"{', '.join(named[:NODES_NAMED])}{more}" if named else "there is no node"


def _amounts(resources: Resources) -> str:
    return " and ".join(f"{amount:g} {kind}" for kind, amount in resources.items() if amount > 0) or f"0 {next(iter(resources))}"


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _grows() -> bool:
    """Whether an autoscaler says how large the cluster may become."""
    from ray._private.state import state

    return bool(state.get_max_resources_from_cluster_config())
