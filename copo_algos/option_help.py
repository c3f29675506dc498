"""The sentences below settings in the code, as --help shows them."""

from __future__ import annotations

import ast
import inspect
from contextlib import suppress
from itertools import pairwise
from typing import Annotated, TypeVar, get_type_hints

import tyro

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

    tyro finds them by itself, but ends a line wherever one ends in the code.
    """
    kinds = get_type_hints(section, include_extras=True)
    with suppress(OSError):
        for name, sentences in descriptions(section).items():
            section.__annotations__[name] = Annotated[kinds[name], tyro.conf.arg(help=sentences)]
    return section
