"""What a submitted command line asks for, checked here as far as that can be: the same errors as the command's own, before a job starts."""

import importlib
import os
import shlex
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gan_core.overrides import Tree, merge, parse, validate
from gan_core.registry import suggestion
from gan_core.wording import holds_secret
from pipelines.config import EvaluateConfig, JobConfig, load_named, public_uri

COMMANDS = ("train", "sweep", "evaluate", "sample", "prepare", "report")
PLACES = ("path", "storage_path", "weights", "root")  # the last words of keys whose value is a place
ELSEWHERE = "submitted"  # in the package: config files that lie outside the folder
FOR_HERE = ("local", "print_config", "dry_run")


class Order(NamedTuple):
    """A command and its words as they run there; the config `files` that travel for it, by their names there; where it is tracked."""

    command: str
    words: list[str]
    files: dict[str, Path]
    tracking_uri: str | None

    @property
    def entrypoint(self) -> str:
        """The job's shell command."""
        return shlex.join(["python", "-m", f"pipelines.{self.command}", *self.words])


class _Read(NamedTuple):
    """What a command's words say: which config file, the config's tree and the other words that are places, by how they are called."""

    config: str | None
    tree: Tree
    places: dict[str, str]


def read(words: Sequence[str], root: Path) -> Order:
    """The order that `raygan submit`'s words make, for a package of the folder `root`.

    Raises:
        ValueError: no such command; its own checks refuse it; or it means something that is only here.
    """
    if not words or words[0] not in COMMANDS:
        near = suggestion(words[0], COMMANDS) if words else ""
        raise ValueError(f"give a command to submit, given {words[0] if words else 'none'}{near}: {', '.join(COMMANDS)}")
    command, rest = words[0], list(words[1:])
    if shown := next((word for word in rest if holds_secret(word)), None):
        raise ValueError(
            f"{_said_of(shown)}: it holds a password or a key, and a job's command line is shown to all who see the cluster; give it to "
            f"the cluster's own environment (infra/README.md)"
        )
    module = importlib.import_module(f"pipelines.{command}")
    options = module.parser().parse_intermixed_args(rest) if command != "prepare" else module.parser().parse_args(rest)
    if only := next((name for name in FOR_HERE if getattr(options, name, False)), None):
        raise ValueError(f"--{only.replace('_', '-')} is for here; leave it out, or run raygan {command} itself")
    found = _READERS[command](module, options)
    _require_everywhere(found)
    files: dict[str, Path] = {}
    if found.config and Path(found.config).is_file():
        name, path = _travelling(found.config, root)
        files[name] = path
        rest[rest.index(found.config)] = name
    return Order(command, rest, files, _tracking(found.tree))


def tracking_here() -> str | None:
    """Where runs are tracked, as far as the environment says.

    Raises:
        ValueError: the address holds a secret, and a job's environment is shown to all who see the cluster.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    return public_uri(uri, "$MLFLOW_TRACKING_URI") if uri else None


def _tracking(tree: Tree) -> str | None:
    """Where the job's runs are tracked. What is given with a run to go on with is checked here first.

    Raises:
        ValueError: the address holds a secret.
    """
    uri = (tree.get("mlflow") or {}).get("tracking_uri")
    return public_uri(str(uri)) if uri else tracking_here()


def _train(_: Any, options: Namespace) -> _Read:
    words = list(options.words)
    named = words.pop(0) if words and "=" not in words[0] else None
    overrides = dict(parse(word) for word in words)
    if options.resume or options.from_run:  # the rest of its config is in MLflow, which the job asks
        return _Read(named, merge(load_named(named) if named else {}, overrides), {})
    if named is None:
        raise ValueError("give a config: a YAML file, or the name of a packaged one such as digits")
    tree = merge(load_named(named), overrides)
    validate(tree, JobConfig)
    return _Read(named, _with_storage(tree), {})


def _sweep(_: Any, options: Namespace) -> _Read:
    from pipelines.sweeps import space
    from pipelines.sweeps.config import SweepJobConfig

    words = list(options.words)
    if options.resume:
        return _Read(None, merge({}, dict(parse(word) for word in words)), {})
    if len(words) < 2 or "=" in words[0] or "=" in words[1]:
        raise ValueError("give a config and a space, such as digits loss_x_ratio")
    searched, overrides = space.keys(words[1]), dict(parse(word) for word in words[2:])
    tree = merge(load_named(words[0]), {key: value for key, value in overrides.items() if key not in searched})
    validate(tree, SweepJobConfig)
    return _Read(words[0], _with_storage(tree), {})


def _evaluate(module: Any, options: Namespace) -> _Read:
    targets = [word for word in options.words if module.is_target(word)]
    if not targets:
        raise ValueError("give something to judge: a run id, a checkpoint, a models:/ address, a folder of images or a Parquet file")
    tree = merge({}, dict(parse(word) for word in options.words if not module.is_target(word)))
    validate(tree, EvaluateConfig)
    return _Read(None, tree, {f"the target {target}": target for target in targets if _lies_here(target)})


def _sample(module: Any, options: Namespace) -> _Read:
    module.deed_of(options)
    given = {f"--{name}": getattr(options, name) for name in ("out", "grid", "project", "export")}
    places = {option: str(place) for option, place in given.items() if place}
    here = {"the target": options.target} if _lies_here(options.target) else {}
    return _Read(None, _tracked(module.tracking_uri(options.words)), places | here)


def _prepare(_: Any, options: Namespace) -> _Read:
    ends = {"SRC": options.source, "DST": options.destination, "--root": options.root or ""}
    return _Read(None, {}, {name: place for name, place in ends.items() if place and not place.startswith("torchvision:")})


def _report(module: Any, options: Namespace) -> _Read:
    uri = module.tracking_uri(dict(parse(word) for word in options.words))
    return _Read(None, _tracked(uri), {"--out": str(options.out)} if options.out else {})


_READERS: Mapping[str, Callable[[Any, Namespace], _Read]] = {
    "train": _train,
    "sweep": _sweep,
    "evaluate": _evaluate,
    "sample": _sample,
    "prepare": _prepare,
    "report": _report,
}


def _tracked(uri: str | None) -> Tree:
    return {"mlflow": {"tracking_uri": uri}}


def _with_storage(tree: Tree) -> Tree:
    """With the storage that a config has which does not name one."""
    return {**tree, "ray": {"storage_path": "runs", **(tree.get("ray") or {})}}


def _require_everywhere(found: _Read) -> None:
    """Check that no place is one of this folder: the job runs in a temporary copy of it, and data do not travel; nor do secrets.

    Raises:
        ValueError: one is, or its address, in a config file that travels, holds a secret.
    """
    for name, place in {**_places(found.tree), **found.places}.items():
        if holds_secret(place):
            raise ValueError(f"{name}: it holds a password or a key, and the config travels; give it to the cluster's own environment")
        if "://" not in place and not Path(place).expanduser().is_absolute():
            raise ValueError(
                f"{name}: {place} is a place in this folder, and the job runs in a temporary copy of its code; give a place that all nodes "
                f"reach, such as /shared/... or s3://bucket/..."
            )
    uri = _tracking(found.tree) or ""
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        raise ValueError(f"mlflow.tracking_uri: {uri} is in this folder, which the job does not see; give a server's URL")


def _places(tree: Tree, above: str = "") -> dict[str, str]:
    """The values of a tree that are places, by dotted key."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= _places(value, f"{above}{key}.")
        elif key in PLACES and isinstance(value, str):
            found[f"{above}{key}"] = value
    return found


def _travelling(config: str, root: Path) -> tuple[str, Path]:
    """A config file's name in the package, and where it lies."""
    path = Path(config).resolve()
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else f"{ELSEWHERE}/{path.name}"
    return name, path


def _lies_here(word: str) -> bool:
    """Whether a word is a file or folder of this machine, by a path that means another one elsewhere."""
    return "://" not in word and not Path(word).is_absolute() and Path(word).exists()


def _said_of(word: str) -> str:
    """How a message names a word that is not to be repeated."""
    key, equals, _ = word.partition("=")
    return key[:40] if equals and "://" not in key else "an address among the command's words"
