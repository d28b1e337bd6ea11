"""The Kotlin side for tests, or the reason to skip them.

Where Maven or its repository is missing, tests skip and say so; with kotlin in REQUIRE_LANGS they fail. A build that
fails is no reason to skip.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import pytest

from kotlin_build import UnavailableError, runner_command


def runner() -> list[str]:
    """Return how to start the Kotlin runner; skips or fails the calling test where there is none."""
    with needed():
        return runner_command()


@contextmanager
def needed() -> Iterator[None]:
    """Skip or fail the calling test when something that Kotlin needs cannot be had."""
    try:
        yield
    except UnavailableError as error:
        absent(str(error))


def absent(reason: str) -> NoReturn:
    """Skip the calling test, or fail it when REQUIRE_LANGS asks for Kotlin."""
    if "kotlin" in os.environ.get("REQUIRE_LANGS", "").split(","):
        pytest.fail(f"REQUIRE_LANGS asks for Kotlin. {reason}")
    pytest.skip(f"No Kotlin here: {reason}")
