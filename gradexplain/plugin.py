"""The pytest plugin: the fixtures `assert_gradients` and `assert_same_gradients`, wherever gradexplain is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def assert_gradients() -> Callable[..., Any]:
    """`gradexplain.assert_gradients`: fails the test where a gradient is not right, naming the wrong operation."""
    from gradexplain.api import assert_gradients as asserted

    return asserted


@pytest.fixture
def assert_same_gradients() -> Callable[..., Any]:
    """`gradexplain.assert_same_gradients`: fails the test where two ways do not give one gradient, saying where."""
    from gradexplain.api import assert_same_gradients as asserted

    return asserted
