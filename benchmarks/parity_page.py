"""docs/PARITY.md, whose sections are written by different programs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from report import ROOT

PAGE = ROOT / "docs" / "PARITY.md"


def write_section(name: str, text: str) -> None:
    """Replace what stands between the marks of a section; the rest of the page stays as it is."""
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    page = PAGE.read_text(encoding="utf-8")
    changed, count = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}{text}{end}", page, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"{PAGE.name} has {count} sections {name}, not one")
    aside = PAGE.with_name(PAGE.name + ".new")
    aside.write_text(changed, encoding="utf-8")
    os.replace(aside, PAGE)


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
