"""A plan adds up, says what is outside and why, and survives JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from magicmm import ErrorCode, MagicError
from magicmm_export.planner import NOT_RUN, PartPlan, Plan, PlannedOperator, gather_operators, plan_from_json

PLAN = Plan(
    "executorch",
    "xnnpack",
    NOT_RUN,
    (
        PartPlan(
            "vision",
            1,
            (PlannedOperator("linear", 2, "xnnpack", "", 950), PlannedOperator("cast", 1, None, "uint8", 50)),
        ),
        PartPlan("language_8", 2, (PlannedOperator("linear", 2, "xnnpack", "", 10),)),
    ),
)


def test_shares_are_those_of_the_work() -> None:
    assert [part.outside_share for part in PLAN.parts] == [0.05, 0.0]
    assert PLAN.outside_share == 0.05
    assert PLAN.parts[0].work == 1000


def test_the_threshold_names_part_share_and_operator() -> None:
    PLAN.check(0.05)
    with pytest.raises(MagicError, match=r"vision 5\.00% \(cast\)") as caught:
        PLAN.check(0.049)
    assert caught.value.code is ErrorCode.RUNTIME_FAILED and "--max-outside" in caught.value.remedy


def test_an_empty_plan_leaves_nothing_outside() -> None:
    Plan("executorch", "xnnpack", NOT_RUN, ()).check(0.0)
    assert PartPlan("vision", 0, ()).outside_share == 0.0


def test_the_table_has_a_line_an_operator() -> None:
    lines = PLAN.table().splitlines()
    assert NOT_RUN in lines[0]
    (line,) = (line for line in lines if "cast" in line)
    assert "outside" in line and "uint8" in line and "5.00%" in line


def test_json_gives_the_plan_back() -> None:
    data = json.loads(json.dumps(PLAN.to_json()))
    assert data["outside_share"] == 0.05 and data["parts"][0]["outside_share"] == 0.05
    assert plan_from_json(data) == PLAN


@pytest.mark.parametrize(
    "broken", [{}, {"parts": 3}, {"parts": [{"name": "vision"}]}, {**PLAN.to_json(), "parts": [None]}]
)
def test_a_broken_plan_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(MagicError, match="plan in the bundle") as caught:
        plan_from_json(broken)
    assert caught.value.code is ErrorCode.BUNDLE_INVALID


def test_nodes_of_one_fate_are_joined() -> None:
    nodes = [PlannedOperator("add", 1, place, "", 5) for place in ("xnnpack", None, "xnnpack")]
    nodes.append(PlannedOperator("linear", 1, "xnnpack", "", 100))
    assert gather_operators(nodes) == (
        PlannedOperator("linear", 1, "xnnpack", "", 100),
        PlannedOperator("add", 2, "xnnpack", "", 10),
        PlannedOperator("add", 1, None, "", 5),
    )
