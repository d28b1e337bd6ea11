"""Several results side by side: one page that needs nothing else, or markdown."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from magicmm_training.evaluation import report_plots
from magicmm_training.evaluation.report_rows import (
    Row,
    Table,
    best_places,
    count_table,
    grid_table,
    mean_rows,
    metric_table,
    model_names,
    model_table,
    task_rows,
    value_table,
    warnings_of,
)
from magicmm_training.storage import write_aside

if TYPE_CHECKING:
    from pathlib import Path

    from magicmm_training.evaluation.result import EvaluationResult

LEAD = (
    "Values in percent. Ranges hold 95 % of the scores over resampled queries. Equal scores count as the mean over all "
    "their orders, except where a task calls them wrong."
)
_STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --soft: #6e6e73; --paper: #fbfbfd; --card: #fff; --line: #e3e3e8;
  --c0: #3a6ea5; --c1: #c2622d; --c2: #3f8f5f; --c3: #8a5aa8; --c4: #a88a1f; --c5: #5b6b7a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #f5f5f7; --soft: #a1a1a6; --paper: #161618; --card: #232326; --line: #38383c;
    --c0: #7fb2e8; --c1: #f0a06e; --c2: #7fcf9f; --c3: #c79be3; --c4: #e0c65c; --c5: #a9b8c6; }
}
body { margin: 2.5rem auto; max-width: 70rem; padding: 0 1.5rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; font-weight: 600; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; font-weight: 600; margin: 2.2rem 0 .6rem; }
.lead { color: var(--soft); margin: .3rem 0 1.6rem; max-width: 46rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: .8rem 1.1rem;
  overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr:last-child td { border-bottom: 0; }
th { font-weight: 600; color: var(--soft); }
td.best { font-weight: 650; }
.warn { border-left: 4px solid var(--c1); padding-left: .8rem; margin: .5rem 0; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .2rem 0 .8rem; }
.key { display: inline-flex; align-items: center; gap: .4rem; }
.key svg { width: 12px; height: 12px; }
.card > svg { width: 100%; height: auto; display: block; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg text.soft { fill: var(--soft); }
svg .grid { stroke: var(--line); }
details summary { cursor: pointer; color: var(--soft); margin: 2.2rem 0 .6rem; }
"""


def write_report(path: Path, results: Sequence[EvaluationResult], title: str = "Evaluation") -> None:
    """Write a report, whole or not at all: markdown for a name that ends in `.md`, else a page.

    Raises:
        MagicError: `storage_failed` when it cannot be written, `argument_invalid` without results.
    """
    text = markdown(results, title) if path.suffix == ".md" else html(results, title)
    with write_aside(path) as file:
        file.write(text.encode("utf-8", "replace"))


def html(results: Sequence[EvaluationResult], title: str = "Evaluation") -> str:
    """Return the page; names are escaped, nothing is loaded.

    Raises:
        MagicError: `argument_invalid` without results.
    """
    names = model_names(results)
    legend = report_plots.legend(names)
    parts = [f'<p class="warn">{escape(line)}</p>' for line in warnings_of(results)]
    for heading, rows in (("Means", mean_rows(results)), ("Tasks", task_rows(results))):
        if rows:
            parts.append(f'<h2>{heading}</h2>\n<div class="card">{legend}{report_plots.bars(rows)}</div>')
            parts.append(_html_table(value_table(heading, rows, names), rows))
    for name, result in zip(names, results, strict=True):
        if result.grid:
            precisions = report_plots.legend(list(dict.fromkeys(cell.precision for cell in result.grid)))
            table = grid_table(name, result)
            plot = f'<div class="card">{precisions}{report_plots.grid(result.grid)}</div>'
            parts.append(f"<h2>{escape(table.title)}</h2>\n{plot}\n{_html_table(table)}")
    for table in (model_table(results), count_table(results)):
        parts.append(f"<h2>{escape(table.title)}</h2>\n{_html_table(table)}")
    every = metric_table(results)
    parts.append(f"<details><summary>{escape(every.title)}</summary>\n{_html_table(every)}</details>")
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n'
        f'<h1>{escape(title)}</h1>\n<p class="lead">{LEAD}</p>\n' + "\n".join(parts) + "\n</html>\n"
    )


def markdown(results: Sequence[EvaluationResult], title: str = "Evaluation") -> str:
    """Return the numbers of the page as markdown.

    Raises:
        MagicError: `argument_invalid` without results.
    """
    names = model_names(results)
    tables = [
        value_table(heading, rows, names)
        for heading, rows in (("Means", mean_rows(results)), ("Tasks", task_rows(results)))
        if rows
    ]
    tables += [grid_table(name, result) for name, result in zip(names, results, strict=True) if result.grid]
    tables += [model_table(results), count_table(results), metric_table(results)]
    warnings = [f"> {_escaped(line)}" for line in warnings_of(results)]
    return "\n\n".join([f"# {title}", LEAD, *warnings, *map(_markdown_table, tables)]) + "\n"


def _html_table(table: Table, rows: Sequence[Row] | None = None) -> str:
    """Return a table; with the values that it shows, the best of each row is marked."""
    head = "".join(f"<th>{escape(name)}</th>" for name in table.head)
    lines = []
    for place, cells in enumerate(table.rows):
        best = best_places(rows[place]) if rows is not None else set()
        shown = "".join(
            f"<td{' class=best' if column - 1 in best else ''}>{escape(text)}</td>" for column, text in enumerate(cells)
        )
        lines.append(f"<tr>{shown}</tr>")
    return f'<div class="card"><table><tr>{head}</tr>\n' + "\n".join(lines) + "</table></div>"


def _markdown_table(table: Table) -> str:
    lines = [table.head, ("---", *["---:"] * (len(table.head) - 1)), *table.rows]
    body = "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)
    return f"## {_escaped(table.title)}\n\n{body}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
