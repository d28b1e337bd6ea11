"""Progress of a sync on stderr: a bar on a terminal, one line at the end elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from magicmm.cli import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from magicmm.results import Progress


def show_progress(events: Iterable[Progress]) -> Progress | None:
    """Consume a sync, showing how it goes; return its last event."""
    last: Progress | None = None
    bar = None
    try:
        for last in events:
            if bar is None and last.total and sys.stderr.isatty():
                from tqdm import tqdm  # only when there is something to show

                bar = tqdm(total=last.total, unit=" photos", desc="indexing", file=sys.stderr, dynamic_ncols=True)
            if bar is not None:
                for skip in last.skips:
                    bar.write(f"skipped {printable(skip.uri)}: {printable(skip.detail)}", file=sys.stderr)
                bar.update(last.done - bar.n)
    finally:
        if bar is not None:
            bar.close()
    if last is not None:
        _summarise(last)
    return last


def _summarise(last: Progress) -> None:
    for uri in last.unavailable:
        sys.stderr.write(
            f"magicmm: cannot read {printable(uri)} (missing, empty or forbidden); its photos stay in the index."
            " If they are gone for good: magicmm forget DIR\n"
        )
    if last.done or last.removed:
        sys.stderr.write(
            f"{last.embedded:,} photos embedded, {last.reused:,} reused, {last.removed:,} removed,"
            f" {last.skipped:,} skipped ({last.rate:.0f} files/s)\n"
        )
