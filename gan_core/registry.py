"""A name in a config is a file in a folder: finding those files, and listing them when a name is misspelt."""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType

from gan_core.wording import brief


def choices(package: str) -> list[str]:
    """Names of the modules in `package` that a config may name; a leading underscore marks a helper."""
    folder = importlib.import_module(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules(folder) if not module.name.startswith("_"))


def find(package: str, name: str) -> ModuleType:
    """The module `package.name`.

    Raises:
        ValueError: no such module; the message lists the choices.
    """
    require_choice(package.rpartition(".")[2].removesuffix("s"), name, choices(package))
    return importlib.import_module(f"{package}.{name}")


def require_choice(kind: str, given: str, known: Iterable[str]) -> None:
    """Raise ValueError, with the nearest name first and all names after it, unless `given` is in `known`."""
    known = sorted(known)
    if given in known:
        return
    raise ValueError(f"unknown {kind} name {brief(given)}{suggestion(given, known)}; choices: {', '.join(known)}")


def suggestion(given: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` when one of `known` is close to `given`, else an empty string."""
    near = difflib.get_close_matches(given, list(known), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""
