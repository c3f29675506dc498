"""Shared by all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import pytest


class Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


@pytest.fixture
def closing() -> Iterator[Callable[[C], C]]:
    """`env = closing(parallel_env(...))`: closed after the test, as one process holds one MetaDrive engine."""
    made: list[Closable] = []

    def remember(thing: C) -> C:
        made.append(thing)
        return thing

    yield remember
    for thing in made:
        thing.close()
