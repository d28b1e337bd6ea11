"""A quality report as one HTML page: bars per part and histograms of cosines, without any external resource."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from magicmm_quant.quality import PartQuality, QualityReport

_WIDTH, _LINE, _CHART = 640, 26, 120
_LABEL = 150
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:44em;margin:2em auto;padding:0 1em;color:#222}"
    "svg{width:100%;height:auto}rect{fill:#3a6ea5}.room{fill:#e6ebf1}text{font-size:13px;fill:#222}"
    "pre{overflow-x:auto;background:#f5f5f5;padding:1em}"
    "@media(prefers-color-scheme:dark){body{background:#181818;color:#eee}text{fill:#eee}.room{fill:#333}"
    "pre{background:#222}}"
)


def plot(report: QualityReport) -> str:
    """Return a whole HTML page; names are escaped, nothing is loaded."""
    title = escape(f"Quality of {report.scheme}")
    charts = "".join(f"<h2>Cosines of {escape(part.name)}</h2>{_histogram(part)}" for part in report.parts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f"<p>Measured on {escape(report.sample)}.</p><h2>Cosine lost, by part</h2>{_bars(report)}{charts}"
        f"<h2>Numbers</h2><pre>{escape(report.table())}</pre></body></html>\n"
    )


def _bars(report: QualityReport) -> str:
    """Draw 1 - mean cosine of each part; the longest bar fills the width."""
    losses = [max(0.0, 1 - part.mean) for part in report.parts]
    room = _WIDTH - _LABEL - 90
    scale = room / max(*losses, 1e-12) if len(losses) > 1 else room / max(losses[0], 1e-12)
    rows = []
    for place, (part, loss) in enumerate(zip(report.parts, losses, strict=True)):
        top = place * _LINE
        length = loss * scale
        rows.append(
            f'<text x="{_LABEL - 8}" y="{top + 17}" text-anchor="end">{escape(part.name)}</text>'
            f'<rect class="room" x="{_LABEL}" y="{top + 4}" width="{room}" height="16"/>'
            f'<rect x="{_LABEL}" y="{top + 4}" width="{length:.1f}" height="16"/>'
            f'<text x="{_LABEL + room + 8}" y="{top + 17}">{loss:.2e}</text>'
        )
    return _svg(len(rows) * _LINE, "Cosine lost by part", "".join(rows))


def _histogram(part: PartQuality) -> str:
    """Draw how many vectors have which cosine."""
    most = max(*part.counts, 1)
    step = _WIDTH / len(part.counts)
    bars = "".join(
        f'<rect x="{place * step + 1:.1f}" y="{_CHART * (1 - count / most):.1f}" width="{step - 2:.1f}" '
        f'height="{_CHART * count / most:.1f}"><title>{count}</title></rect>'
        for place, count in enumerate(part.counts)
    )
    scale = (
        f'<text x="0" y="{_CHART + 18}">{part.edges[0]:.6f}</text>'
        f'<text x="{_WIDTH}" y="{_CHART + 18}" text-anchor="end">{part.edges[-1]:.6f}</text>'
    )
    return _svg(_CHART + 24, f"Histogram of cosines of {part.name}", bars + scale)


def _svg(height: int, label: str, content: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">{content}</svg>'
