"""Config schemas read off function signatures, and pydantic's errors in the words of a config file."""

import inspect
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from gan_core.registry import suggestion
from gan_core.wording import brief


class Section(BaseModel):
    """A part of the config: frozen, and any key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def keyword_schema(function: Callable[..., Any], *, supplied: frozenset[str] = frozenset()) -> type[Section]:
    """A pydantic model with one field for each keyword-only argument of `function` that is not in `supplied`."""
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {
        name: (hints[name], ... if argument.default is argument.empty else argument.default)
        for name, argument in inspect.signature(function).parameters.items()
        if argument.kind is argument.KEYWORD_ONLY and name not in supplied
    }
    return create_model(function.__name__, __base__=Section, **fields)


def checked_keywords(
    where: str, function: Callable[..., Any], given: dict[str, Any], *, supplied: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """`given` completed with the defaults of `function`'s keyword arguments and checked against their types.

    Raises:
        ValueError: an argument is unknown, missing or of a wrong type; keys are named below `where`.
    """
    schema = keyword_schema(function, supplied=supplied)
    try:
        return schema.model_validate(given).model_dump()
    except ValidationError as error:
        raise ValueError("\n".join(explain(error, schema, where))) from None


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> list[str]:
    """One line for each problem in `error`: the dotted key, what is wrong, what was given, what would be right."""
    lines: list[str] = []
    for problem in error.errors():
        path = [str(part) for part in problem["loc"]]
        key = ".".join([prefix, *path] if prefix else path)
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            known = _keys_beside(model, path)
            lines.append(f"unknown key '{key}'{suggestion(path[-1], known)}; keys here: {', '.join(known)}")
        elif problem["type"] == "missing":
            lines.append(f"{key} is required and was not given")
        elif problem["type"] == "value_error":
            # A section that serves in several places speaks of itself by its own name.
            lines.extend(line.replace(f"{path[-1]}.", f"{key}.") if path and key not in line else line for line in message.splitlines())
        else:
            lines.append(f"{key}: {message[0].lower()}{message[1:]}, given {brief(problem['input'])}")
    return lines


def _keys_beside(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that the section holding `path` knows."""
    for part in path[:-1]:
        field = model.model_fields.get(part)
        nested = [kind for kind in _kinds(field.annotation) if issubclass(kind, BaseModel)] if field else []
        if not nested:
            break
        model = nested[0]
    return list(model.model_fields)


def _kinds(annotation: Any) -> list[type]:
    return [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
