"""Shared fixtures."""

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as behind a shell: children would be deaf
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before torch is loaded: threads that wait for a core that others have cost minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calm")  # a busy machine is no fault


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """``shared("benchmarks/...")``: a path in the shared data; skips with the reason if absent."""
    root = Path(os.environ.get("STARKILN_DATA", Path(__file__).parents[1] / ".." / "shared"))

    def find(name: str) -> Path:
        path = (root / name).resolve()
        if not path.exists():
            pytest.skip(f"{path} is absent: set STARKILN_DATA to the folder that holds {name}")
        return path

    return find
