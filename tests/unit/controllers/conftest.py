from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from controllers_world import World, running_world


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Three ready nodes, namespace default, every loop running."""
    async with running_world() as made:
        yield made
