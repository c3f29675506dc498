"""How settings stand on the command line: the sentences below them in the code, one default each, whole numbers."""

from __future__ import annotations

import ast
import inspect
from contextlib import suppress
from itertools import pairwise
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import PrimitiveConstructorSpec

T = TypeVar("T")


def descriptions(section: type) -> dict[str, str]:
    """Setting -> the sentences below it in the code, in one line.

    Raises:
        OSError: the code is not there.
    """
    (node,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(node, ast.ClassDef)
    return {
        ast.unparse(field.target): " ".join(ast.literal_eval(text.value).split())
        for field, text in pairwise(node.body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def with_help(section: type[T]) -> type[T]:
    """A decorator for a class of settings: their sentences fill the lines of --help.

    tyro finds them by itself, but ends a line wherever one ends in the code. It also shows None as a value that can be
    given and as a second default beside the one in the sentences, and reads whole numbers as Python does, without 1e5.
    """
    kinds = get_type_hints(section, include_extras=True)
    with suppress(OSError):
        for name, sentences in descriptions(section).items():
            told = (*_spelling(kinds[name], getattr(section, name, ...)), tyro.conf.arg(help=sentences))
            section.__annotations__[name] = Annotated[(kinds[name], *told)]
    settings: Any = section  # its own settings before those that it shares with another command
    settings.__dataclass_fields__ = dict(
        sorted(settings.__dataclass_fields__.items(), key=lambda item: item[0] not in section.__annotations__)
    )
    return section


def _spelling(kind: Any, default: Any) -> list[Any]:
    """What tyro is to be told about a setting of this type."""
    kind, *extras = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    optional = NoneType in get_args(kind)
    (plain,) = (other for other in get_args(kind) if other is not NoneType) if optional else (kind,)
    told: list[Any] = [_number(plain, optional)] if plain in (int, float) else []
    if optional and default is None:  # which stands for what the sentences say, and is nothing to be given
        told.append(tyro.conf.arg(help_behavior_hint=_hint))
        if tyro.conf.Positional not in extras:  # those have a name of their own there
            told.append(tyro.conf.arg(metavar=_metavar(plain)))
    return told


def _hint(default: str) -> str:
    return "" if default == "None" else f"(default: {default})"


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"{{{','.join(map(str, get_args(kind)))}}}"
    return kind.__name__.upper()


def _number(kind: type, optional: bool) -> PrimitiveConstructorSpec[Any]:
    def read(words: list[str]) -> float | None:
        if optional and words[0] == "None":
            return None
        return whole_number(words[0]) if kind is int else _number_of(words[0])

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{None}}|{_metavar(kind)}" if optional else _metavar(kind),
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, (int, kind)) or (optional and value is None),
        str_from_instance=lambda value: [str(value)],
    )


def whole_number(word: str) -> int:
    """The whole number that a word stands for, 1e5 and 100000.0 among them.

    Raises:
        ValueError: none.
    """
    with suppress(ValueError):
        return int(word)
    with suppress(ValueError):
        number = float(word)
        if number.is_integer():
            return int(number)
    raise ValueError(f"{word!r} is no whole number; use one such as 100000 or 1e5")


def _number_of(word: str) -> float:
    try:
        return float(word)
    except ValueError as error:
        raise ValueError(f"{word!r} is no number; use one such as 0.5 or 3e-4") from error
