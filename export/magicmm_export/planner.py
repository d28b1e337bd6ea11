"""Who computes what: the plan of a lowered model for one target, whatever the runtime.

A runtime hands every operator to its accelerator or keeps it; what it keeps costs time, copies and battery. A plan
lists both with the reason and an estimate of the work, and says whether too much stays outside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from magicmm import Bundle, ErrorCode, MagicError
from magicmm_export.text_table import text_table

RUN_HERE = "run here"
NOT_RUN = "lowered, not run here"
"""What a plan says of a target whose results this machine cannot produce."""


@dataclass(frozen=True, slots=True)
class PlannedOperator:
    """All nodes of one operator in a part that share a fate.

    Attributes:
        operator: Its name in the runtime's own terms.
        count: Nodes.
        place: The accelerator or delegate that computes them, or None: they stay outside.
        why: The reason, in words; for those inside, too, where there is something to say.
        work: Estimated arithmetic operations of all of them; a product of m x k and k x n counts 2 m k n, everything
            else one for each number that comes out.
    """

    operator: str
    count: int
    place: str | None
    why: str
    work: int


@dataclass(frozen=True, slots=True)
class PartPlan:
    """One graph, method or function.

    Attributes:
        name: Such as "vision" or "language_32".
        pieces: Delegates that the accelerator computes one after the other; 1 is best.
        operators: By work, most first.
    """

    name: str
    pieces: int
    operators: tuple[PlannedOperator, ...]

    @property
    def work(self) -> int:
        """Estimated operations of all nodes."""
        return sum(one.work for one in self.operators)

    @property
    def outside(self) -> tuple[PlannedOperator, ...]:
        """What the accelerator leaves out."""
        return tuple(one for one in self.operators if one.place is None)

    @property
    def outside_share(self) -> float:
        """The share of the work that stays outside, 0 to 1."""
        return sum(one.work for one in self.outside) / max(self.work, 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """All parts of a model for one target.

    Attributes:
        runtime: "executorch" or "coreml".
        target: The accelerator, in the runtime's terms: "xnnpack", "ane".
        status: `RUN_HERE` or `NOT_RUN`.
        parts: In the order of the model.
    """

    runtime: str
    target: str
    status: str
    parts: tuple[PartPlan, ...]

    @property
    def outside_share(self) -> float:
        """The largest share of any part."""
        return max((part.outside_share for part in self.parts), default=0.0)

    def check(self, most: float) -> None:
        """Check that no part leaves more than a share of its work outside the accelerator.

        Raises:
            MagicError: `runtime_failed`, which names part, share and operators.
        """
        wrong = [part for part in self.parts if part.outside_share > most]
        if wrong:
            said = "; ".join(
                f"{part.name} {part.outside_share:.2%} ({', '.join(one.operator for one in part.outside)})"
                for part in wrong
            )
            raise MagicError(
                ErrorCode.RUNTIME_FAILED,
                f"More than {most:.2%} of the work stays outside {self.target}: {said}.",
                "See the plan (magicmm-export inspect), or allow more with --max-outside.",
            )

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values, with the shares."""
        parts = [{**asdict(part), "outside_share": part.outside_share} for part in self.parts]
        return {**asdict(self), "parts": parts, "outside_share": self.outside_share}

    def table(self) -> str:
        """Return a line for each operator, those outside with the reason."""
        rows = [
            (
                part.name,
                one.operator,
                str(one.count),
                one.place or "outside",
                f"{one.work / max(part.work, 1):.2%}",
                one.why,
            )
            for part in self.parts
            for one in part.operators
        ]
        heads = [
            f"{part.name}: {part.pieces} delegate{'' if part.pieces == 1 else 's'}, {part.work / 1e9:.3f} GFLOP, "
            f"{part.outside_share:.2%} outside."
            for part in self.parts
        ]
        table = text_table(("part", "operator", "nodes", "place", "work", "why"), rows)
        return "\n".join([f"{self.runtime} for {self.target}: {self.status}.", table, *heads])


def plan_from_json(data: Mapping[str, Any]) -> Plan:
    """Read what `Plan.to_json` gave.

    Raises:
        MagicError: `bundle_invalid` when something is missing or of another kind.
    """
    try:
        parts = tuple(
            PartPlan(
                str(part["name"]),
                int(part["pieces"]),
                tuple(
                    PlannedOperator(
                        operator=str(one["operator"]),
                        count=int(one["count"]),
                        place=None if one["place"] is None else str(one["place"]),
                        why=str(one["why"]),
                        work=int(one["work"]),
                    )
                    for one in part["operators"]
                ),
            )
            for part in data["parts"]
        )
        return Plan(str(data["runtime"]), str(data["target"]), str(data["status"]), parts)
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(error) from None


def write_plans(path: Path, plans: Sequence[Plan]) -> None:
    """Note plans in a staged bundle, for `read_plans`."""
    noted = json.dumps({"plans": [plan.to_json() for plan in plans]}, indent=1)
    path.write_text(noted + "\n", encoding="utf-8")


def read_plans(bundle: Bundle) -> tuple[Plan, ...]:
    """Return the plans that the exporter noted in a bundle.

    Raises:
        MagicError: `bundle_invalid` for a plan that cannot be read.
    """
    name = bundle.manifest.raw.get("plans")
    if name is None:
        return ()
    try:
        noted = json.loads(bundle.file(str(name)).read_text(encoding="utf-8"))["plans"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(error) from None
    return tuple(map(plan_from_json, noted))


def _unreadable(error: Exception) -> MagicError:
    return MagicError(
        ErrorCode.BUNDLE_INVALID, f"The plan in the bundle cannot be read ({error!r}).", "Export the bundle anew."
    )


def gather_operators(nodes: Sequence[PlannedOperator]) -> tuple[PlannedOperator, ...]:
    """Join nodes of one operator, place and reason; most work first, then by name."""
    found: dict[tuple[str, str | None, str], tuple[int, int]] = {}
    for node in nodes:
        key = (node.operator, node.place, node.why)
        count, work = found.get(key, (0, 0))
        found[key] = (count + node.count, work + node.work)
    joined = (
        PlannedOperator(operator, count, place, why, work) for (operator, place, why), (count, work) in found.items()
    )
    return tuple(sorted(joined, key=lambda one: (-one.work, one.operator, one.place or "")))
