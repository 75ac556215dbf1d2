"""The registry on loopback, for every test of collecting."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.loopback import Registry, make_study, serving


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry of 25 studies, served until the test ends."""
    with serving(Registry([make_study(number) for number in range(1, 26)])) as server:
        yield server


@pytest.fixture
def study_maker():
    return make_study
