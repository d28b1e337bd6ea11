"""Charts of a report as SVG, drawn by hand: no library, nothing to load."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from magicmm_training.evaluation.report_rows import Row
    from magicmm_training.evaluation.result import GridCell, Value

COLOURS = 6
"""Variables --c0 to --c5 of the page's style."""
_WIDTH, _LABEL, _BAR, _GAP = 960, 330, 12, 12
_VALUE = 60
_TICKS = (0, 25, 50, 75, 100)


def bars(rows: Sequence[Row]) -> str:
    """Draw one bar a model in each row, with the range of its value."""
    room = _WIDTH - _LABEL - _VALUE
    marks, top = [], 0.0
    for row in rows:
        shown = [(place, value) for place, value in enumerate(row.values) if value is not None]
        height = len(shown) * _BAR
        label = escape(row.label)
        marks.append(f'<text x="{_LABEL - 10}" y="{top + height / 2 + 3:.1f}" text-anchor="end">{label}</text>')
        for line, (place, value) in enumerate(shown):
            marks.append(_bar(top + line * _BAR, value, place, label))
        top += height + _GAP
    lines = "".join(
        f'<path class="grid" d="M{_LABEL + room * tick / 100:.1f} 0V{top:.1f}"/>'
        f'<text class="soft" x="{_LABEL + room * tick / 100:.1f}" y="{top + 12:.1f}" text-anchor="middle">{tick}</text>'
        for tick in _TICKS
    )
    return _svg(top + 18, "Bars of values in percent", lines + "".join(marks))


def _bar(top: float, value: Value, place: int, label: str) -> str:
    """Draw a bar, the range of its value, and the value."""
    room = _WIDTH - _LABEL - _VALUE
    length = room * value.score
    low, high = _LABEL + room * value.low, _LABEL + room * value.high
    said = f"{label}: {100 * value.score:.2f} [{100 * value.low:.2f}, {100 * value.high:.2f}]"
    return (
        f'<rect x="{_LABEL}" y="{top:.1f}" width="{length:.1f}" height="{_BAR - 2}" fill="{_colour(place)}">'
        f"<title>{said}</title></rect>"
        f'<path d="M{low:.1f} {top + _BAR / 2 - 1:.1f}H{high:.1f}M{low:.1f} {top + 1:.1f}v{_BAR - 4}M{high:.1f} '
        f'{top + 1:.1f}v{_BAR - 4}" stroke="var(--ink)" fill="none"/>'
        f'<text x="{max(_LABEL + length, high) + 6:.1f}" y="{top + _BAR - 2:.1f}">{100 * value.score:.1f}</text>'
    )


def grid(cells: Sequence[GridCell]) -> str:
    """Draw quality over the bytes of a stored vector, a line a precision; bytes double from mark to mark."""
    left, height, below = 50, 260, 40
    room = _WIDTH - left - _VALUE
    least = math.log2(min(cell.bytes for cell in cells))
    span = max(math.log2(max(cell.bytes for cell in cells)) - least, 1)
    marks = [
        f'<path class="grid" d="M{left} {_down(tick / 100, height):.1f}H{left + room}"/>'
        f'<text class="soft" x="{left - 8}" y="{_down(tick / 100, height) + 4:.1f}" text-anchor="end">{tick}</text>'
        for tick in _TICKS
    ]
    for power in range(math.ceil(least), math.floor(least + span) + 1):
        x = left + room * (power - least) / span
        marks.append(
            f'<text class="soft" x="{x:.1f}" y="{height + 30}" text-anchor="middle">{1 << power:,} B</text>'
            f'<path class="grid" d="M{x:.1f} {_down(1, height):.1f}V{_down(0, height):.1f}"/>'
        )
    for place, precision in enumerate(dict.fromkeys(cell.precision for cell in cells)):
        own = sorted((cell for cell in cells if cell.precision == precision), key=lambda cell: cell.bytes)
        points = [(left + room * (math.log2(cell.bytes) - least) / span, _down(cell.score, height)) for cell in own]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        marks.append(f'<path d="M{path}" fill="none" stroke="{_colour(place)}" stroke-width="2"/>')
        marks += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_colour(place)}"><title>{escape(precision)}, '
            f"{cell.dim:,} dimensions, {cell.bytes:,} bytes: {100 * cell.score:.2f}</title></circle>"
            for (x, y), cell in zip(points, own, strict=True)
        ]
    return _svg(height + below, "Quality over bytes of a vector", "".join(marks))


def legend(names: Sequence[str]) -> str:
    """Return the colours of names, as a line of text."""
    parts = (
        f'<span class="key"><svg viewBox="0 0 12 12" aria-hidden="true"><rect width="12" height="12" rx="3" '
        f'fill="{_colour(place)}"/></svg>{escape(name)}</span>'
        for place, name in enumerate(names)
    )
    return f'<p class="legend">{"".join(parts)}</p>'


def _down(score: float, height: int) -> float:
    """Return the place of a score from the top; 12 pixels above the highest stay free."""
    return 12 + (1 - score) * height


def _colour(place: int) -> str:
    return f"var(--c{place % COLOURS})"


def _svg(height: float, label: str, content: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">{content}</svg>'
