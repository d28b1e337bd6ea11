"""Modules of this package that run as processes of their own, and the errors that they hand back."""

from __future__ import annotations

import json
import subprocess
import sys

from magicmm import ErrorCode, MagicError


def run_module(module: str, *arguments: str, what: str, hint: str) -> str:
    """Run `python -m module` and return what it wrote to stdout.

    Args:
        module: Its name; it ends with `hand_back` when a `MagicError` stops it.
        arguments: Of its command line.
        what: The process, in words, for the message when it is killed.
        hint: The remedy then.

    Raises:
        MagicError: What the child handed back; `runtime_failed` when it ended in any other way.
    """
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode == 0:
        return done.stdout
    try:
        error = json.loads(done.stdout)
        raise MagicError(ErrorCode(error["code"]), error["message"], error["remedy"])
    except (ValueError, KeyError):
        raise MagicError(
            ErrorCode.RUNTIME_FAILED, f"{what} ended with {done.returncode}: {done.stderr[-500:].strip()}.", hint
        ) from None


def hand_back(error: MagicError) -> int:
    """Write an error to stdout for the parent, and return the exit code that goes with it."""
    sys.stdout.write(json.dumps({"code": error.code.value, "message": error.message, "remedy": error.remedy}))
    return 1
