"""Plain data to frozen dataclasses, refusing what they don't know."""

from __future__ import annotations

import dataclasses
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from medmoe.errors import ConfigError, unknown

T = TypeVar("T")


def read(kind: type[T], value: Any, where: str) -> T:
    """Make a dataclass of a JSON object, its fields in turn.

    Fields may be `str`, `int`, `float`, `bool`, `Any`, `tuple[X, ...]`, `dict[str, X]`, another dataclass, or one of
    several of these with `|`.

    Args:
        kind: A dataclass.
        value: What `json.loads` gave.
        where: File and key, for errors.

    Raises:
        ConfigError: If a key is unknown or missing, or a value is of another type.

    >>> @dataclasses.dataclass
    ... class Point:
    ...     x: int
    ...     name: str | None = None
    >>> read(Point, {"x": 3}, "here")
    Point(x=3, name=None)
    """
    if not isinstance(value, dict):
        raise _wrong(value, "an object", where)
    fields = {field.name: field for field in dataclasses.fields(cast(Any, kind))}
    for key in value:
        if key not in fields:
            raise ConfigError(unknown("key", str(key), fields), where=where, remedy="correct or remove it")
    for name, field in fields.items():
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and name not in value:
            raise ConfigError(f"the key {name!r} is missing", where=where, remedy="add it")
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], item, f"{where}.{name}") for name, item in value.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    """Check a value against a type, and make tuples and dataclasses of lists and objects."""
    if hint is Any:
        return value
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _one_of(inner, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(value, "a list", where)
        return tuple(_value(inner[0], item, f"{where}[{place}]") for place, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(value, "an object", where)
        return {str(key): _value(inner[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return read(cast(Any, hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _wrong(value, hint.__name__, where)
    return value


def _one_of(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    """Check a value against the first of several types that it fits."""
    if value is None and NoneType in hints:
        return None
    others = [hint for hint in hints if hint is not NoneType]
    for hint in others[:-1]:
        try:
            return _value(hint, value, where)
        except ConfigError:
            continue
    return _value(others[-1], value, where)


def _wrong(value: Any, wanted: str, where: str) -> ConfigError:
    return ConfigError(f"got {value!r}, allowed: {wanted}", where=where, remedy="correct it")
