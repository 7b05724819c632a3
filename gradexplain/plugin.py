"""The pytest plugin: the fixture `assert_gradients`, there wherever gradexplain is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def assert_gradients() -> Callable[..., Any]:
    """`gradexplain.assert_gradients`: fails the test where a gradient is not right, naming the wrong operation."""
    from gradexplain.api import assert_gradients as asserted

    return asserted
