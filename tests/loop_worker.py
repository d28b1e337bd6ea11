"""What each process of a training test runs: the jobs in the first argument, as JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    import torch

    from loop_runs import Job

    torch.set_num_threads(1)
    for settings in json.loads(sys.argv[1]):
        run(Job(**settings))


def run(job: Any) -> None:
    """Run a job; an error that a user would see goes to a file of this process."""
    from magicmm.errors import MagicError
    from magicmm_training.loop import resume

    def progress(done: int, total: int, loss: float) -> None:
        if done == job.kill_after:
            die()

    complete = resume._complete

    def cut(aside: Any, target: Any, facts: Any) -> None:
        if facts["step"] == job.kill_saving:
            die()
        complete(aside, target, facts)

    if job.kill_saving is not None:
        resume._complete = cut
    try:
        job.run(progress)
    except MagicError as error:
        path = Path(job.out) / f"error-{os.environ.get('RANK', '0')}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{error.code.value}: {error}", encoding="utf-8")


if __name__ == "__main__":
    main()
