"""Configs as dotted keys: load a YAML file, merge `key=value` overrides, validate, and flatten back to the same spelling."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from gan_core.config import FREE_ON_RESUME, GanConfig
from gan_core.schema import Section, explain
from gan_core.variants import OWNED
from gan_core.wording import brief

Tree = dict[str, Any]

# Which keys of a section belong to the name chosen in it; None is all but those that belong to no name.
OPTIONS_OF_NAME: dict[str, frozenset[str] | None] = {
    "data.name": None,
    "network.name": frozenset({"generator", "discriminator"}),
    "extractor.name": None,
    "augment.name": None,
}
OF_NO_NAME = {"mirror"}
MOST_VALUES, DEEPEST = 1_000_000, 50
NOT_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")  # control characters, and halves of characters
Config = TypeVar("Config", bound=Section)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: in YAML 1.1 a step ratio of 5:1 is the base-60 number 301, 2e-4 is text, and `no` is false. A key that is given
    twice is an error, as YAML says.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node."""
        counts = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and counts[key.value] > 1]:
            raise yaml.MarkedYAMLError(problem=f"the key '{twice[-1].value}' is given twice", problem_mark=twice[-1].start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"null|~|", ["n", "~", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


class _Dumper(yaml.SafeDumper):
    """Writes scalars that _Loader reads back as the same value, with no more quotes than that needs."""


class _FileDumper(yaml.SafeDumper):
    """Also puts quotes around text that a YAML 1.1 reader would take for something else, such as 5:1."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers
_FileDumper.yaml_implicit_resolvers = {
    first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, []) + _Loader.yaml_implicit_resolvers.get(first, [])
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}


def load(path: str | Path) -> Tree:
    """The tree in a YAML file.

    Raises:
        ValueError: no such file, not YAML, or not keys and values at the top.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"config file {path} does not exist")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 (at byte {error.start}); save it as such") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None
    return loads(text, str(path))


def loads(text: str, source: str = "config") -> Tree:
    """The tree in YAML text; errors as for `load`, naming `source`."""
    tree = _value(text, source)
    if not isinstance(tree, dict):
        raise ValueError(f"{source} must hold keys and values, found {type(tree).__name__}")
    return tree


def _value(text: str, source: str) -> Any:
    """What YAML text holds, found to be plain: it may come from a stranger."""
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 - _Loader is a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"{source} is not valid YAML: {error}") from None
    except RecursionError:
        raise ValueError(f"{source} nests brackets or keys too deeply") from None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:  # of a tag such as !!int before other text
        raise ValueError(f"{source} is not valid YAML: a value is not what its tag says ({str(error)[:80]})") from None
    _require_plain(value, source)
    return value


def _require_plain(tree: Any, source: str) -> None:
    """Check that a tree holds text, numbers, lists and mappings with text for keys, and not too many: a few references in YAML may stand
    for billions of values, or for themselves.
    """
    waiting, count = [(tree, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if count > MOST_VALUES or depth > DEEPEST:
            raise ValueError(f"{source} nests too deeply, or stands for more than {MOST_VALUES:,} values by references to itself")
        if isinstance(value, dict):
            if wrong := [key for key in value if not isinstance(key, str)]:
                raise ValueError(f"{source}: keys are text, given {brief(wrong[0])}; put it in quotes")
            waiting += [(key, depth) for key in value] + [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list):
            waiting += [(inner, depth + 1) for inner in value]
        elif isinstance(value, str):
            if NOT_TEXT.search(value):
                raise ValueError(f"{source}: {brief(value)} holds characters that are no text")
        elif not isinstance(value, int | float | None):
            raise ValueError(f"{source}: values are text, numbers, true, false, null, lists and mappings, given a {type(value).__name__}")


def dumps(tree: Mapping[str, Any]) -> str:
    """YAML text that `loads` reads back as the same tree."""
    return yaml.dump(dict(tree), Dumper=_FileDumper, sort_keys=False, allow_unicode=True, width=120)


def parse(override: str) -> tuple[str, Any]:
    """`"loss.name=minimax"` as ("loss.name", "minimax"); the value is read as YAML.

    Raises:
        ValueError: no `=`, an empty key, or a value that is not YAML.
    """
    key, equals, text = override.partition("=")
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise ValueError(f"{brief(override)} is not key=value, such as step_ratio=5:1 or network.generator.width=64")
    return key, _value(text, f"the value of '{brief(override)[1:-1]}'")


def merge(tree: Tree, overrides: Mapping[str, Any]) -> Tree:
    """`tree` with dotted keys replaced; sections that are missing are made. The tree given is left as it is.

    Choosing another data set, network or variant drops the options that belonged to the old one; overrides for the new one stay.
    """
    merged = _copied(tree)
    if "variant" in overrides and overrides["variant"] != merged.get("variant"):
        for key in OWNED:
            _drop(merged, key.split("."))
    for dotted, value in sorted(overrides.items(), key=lambda item: item[0] not in OPTIONS_OF_NAME):
        *sections, last = dotted.split(".")
        place = merged
        for section in sections:
            if place.get(section) is None:
                place[section] = {}
            if not isinstance(place[section], dict):
                raise ValueError(f"'{dotted}': '{section}' holds the value {brief(place[section])} and not keys")
            place = place[section]
        if dotted in OPTIONS_OF_NAME and place.get("name") != value:
            owned = OPTIONS_OF_NAME[dotted]
            for option in [key for key in place if (owned is None and key not in OF_NO_NAME) or key in (owned or ())]:
                del place[option]
        place[last] = value
    return merged


def validate(tree: Mapping[str, Any], model: type[Config]) -> Config:
    """The one place where a tree becomes a config.

    Raises:
        ValueError: one line for each problem.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ValueError("\n".join(explain(error, model))) from None


def flatten(config: GanConfig) -> dict[str, str]:
    """Dotted keys and text values: MLflow's params. `parse` reads each `key=text` back as the same value."""
    return dict(_leaves(config.model_dump(), ""))


def unflatten(flat: Mapping[str, str]) -> Tree:
    """The tree that `flatten` was made from."""
    return merge({}, dict(parse(f"{key}={text}") for key, text in flat.items()))


def differences_that_matter(before: Mapping[str, str], after: Mapping[str, str], free: Iterable[str] = FREE_ON_RESUME) -> list[str]:
    """`key: old -> new` for each flattened key that a resumed run may not change."""
    free = tuple(free)
    keys = sorted(key for key in {*before, *after} if before.get(key) != after.get(key) and not key.startswith(free))
    return [f"{key}: {before.get(key, 'unset')} -> {after.get(key, 'unset')}" for key in keys]


def _leaves(value: Any, key: str) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else name)
    else:
        text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10**9, allow_unicode=True)
        yield key, text.removesuffix("\n").removesuffix("\n...")


def _drop(tree: Tree, path: list[str]) -> None:
    if len(path) == 1:
        tree.pop(path[0], None)
    elif isinstance(tree.get(path[0]), dict):
        _drop(tree[path[0]], path[1:])


def _copied(tree: Mapping[str, Any]) -> Tree:
    return {key: _copied(value) if isinstance(value, dict) else value for key, value in tree.items()}
