"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(condition: Callable[[], object], seconds: float = 180) -> None:
    """Return once the condition holds; fail if it does not in time. That is for a machine that is
    busy with other things: nothing waits so long where it works."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
