"""A fake exchange for each test."""

from collections.abc import Iterator

import pytest

from tests.fakes.exchange import FakeExchange


@pytest.fixture
def exchange() -> Iterator[FakeExchange]:
    with FakeExchange() as running:
        yield running
