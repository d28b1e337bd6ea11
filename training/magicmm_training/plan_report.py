"""What a plan says, as data, as JSON and as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from magicmm_training.plan_memory import Memory


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the recipe needs and the machine lacks, or that a person must decide.

    Attributes:
        kind: "missing", "licence" or "memory".
        where: Stage, source or key of the recipe.
        what: What was found.
        blocks: Whether a run would stop.
    """

    kind: str
    where: str
    what: str
    blocks: bool


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage; None where nothing can be said.

    Attributes:
        name: Of the stage.
        kind: Of the stage.
        devices: Accelerators that work on it.
        steps: Optimiser steps.
        batch: Samples of a step over all devices.
        samples: Samples that are read, all epochs together.
        text_tokens: Of them, without padding.
        visual_tokens: Of them.
        flops: All operations, those of recomputation too.
        hours: Device-hours at the assumed utilisation.
        known_hours: Device-hours that the recipe says were measured elsewhere.
        implied_utilisation: Share of the device's peak at which `flops` take `known_hours`.
        memory: Of one device; None for stages without gradients.
        fits: Whether that is less than the device has.
        disk: Bytes that stay, and bytes that are needed meanwhile.
        notes: Assumptions of this stage's numbers.
    """

    name: str
    kind: str
    devices: int
    steps: int | None = None
    batch: int | None = None
    samples: int | None = None
    text_tokens: float | None = None
    visual_tokens: float | None = None
    flops: float | None = None
    hours: float | None = None
    known_hours: float | None = None
    implied_utilisation: float | None = None
    memory: Memory | None = None
    fits: bool | None = None
    disk: tuple[float, float] = (0.0, 0.0)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the facts; memory in GB, disk in bytes."""
        facts = asdict(self) | {"memory": None if self.memory is None else self.memory.to_json()}
        facts["disk"] = {"stays": self.disk[0], "meanwhile": self.disk[1]}
        return facts


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe before anything is run.

    Attributes:
        recipe: Its name.
        model: What the shapes are of.
        parameters: Of the model, with head.
        tile_tokens: Visual tokens of a tile.
        stages: In order.
        findings: What is missing or undecided.
        assumptions: What all numbers rest on.
    """

    recipe: str
    model: str
    parameters: int
    tile_tokens: int
    stages: tuple[StagePlan, ...]
    findings: tuple[Finding, ...]
    assumptions: tuple[str, ...] = field(default_factory=tuple)

    @property
    def is_ready(self) -> bool:
        """Whether a run could start."""
        return not any(finding.blocks for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return the facts."""
        return {
            "recipe": self.recipe,
            "model": self.model,
            "parameters": self.parameters,
            "tile_tokens": self.tile_tokens,
            "ready": self.is_ready,
            "stages": [stage.to_json() for stage in self.stages],
            "findings": [asdict(finding) for finding in self.findings],
            "assumptions": list(self.assumptions),
        }

    def table(self) -> str:
        """Return it as text."""
        size = f"{self.parameters:,}" if self.parameters < _MANY else f"{self.parameters / 1e9:.3f} B"
        lines = [f"{self.recipe}: {self.model}, {size} parameters, {self.tile_tokens} visual tokens a tile", ""]
        lines += _columns([_HEAD, *(_row(stage) for stage in self.stages)])
        lines += ["", "Memory of one device in GB (estimated):"]
        lines += _columns([_MEMORY_HEAD, *(_memory_row(stage) for stage in self.stages if stage.memory)])
        compared = [stage for stage in self.stages if stage.known_hours]
        for stage in compared:
            lines += [
                "",
                f"{stage.name}: {stage.hours:,.0f} device-hours planned, {stage.known_hours:,.0f} measured elsewhere;"
                f" the plan's operations in those hours are {stage.implied_utilisation:.1%} of the devices' peak.",
            ]
        lines += ["", "Assumed:", *(f"  - {text}" for text in self.assumptions)]
        lines += [f"  - {stage.name}: {note}" for stage in self.stages for note in stage.notes]
        return "\n".join([*lines, "", *self._found()])

    def _found(self) -> list[str]:
        """Return one line for each finding that stops a run, and one for all licences."""
        lines = [f"{one.kind.upper()}  {one.where}: {one.what}" for one in self.findings if one.blocks]
        licences = [one.where for one in self.findings if one.kind == "licence"]
        if licences:
            lines.append(f"LICENCE  look up, and state in the recipe: {', '.join(licences)}")
        return lines or ["Everything is there."]


_MANY = 10**8
_HEAD = ("stage", "kind", "devices", "steps", "batch", "samples", "text", "visual", "FLOPs", "hours", "disk GB")
_MEMORY_HEAD = ("stage", "weights", "gradients", "optimiser", "activations", "reserve", "total", "fits")


def _row(stage: StagePlan) -> tuple[str, ...]:
    return (
        stage.name,
        stage.kind,
        str(stage.devices),
        _count(stage.steps),
        _count(stage.batch),
        _short(stage.samples),
        _short(stage.text_tokens),
        _short(stage.visual_tokens),
        "-" if stage.flops is None else f"{stage.flops:.2e}",
        "-" if stage.hours is None else _hours(stage.hours),
        f"{sum(stage.disk) / 1e9:,.1f}",
    )


def _memory_row(stage: StagePlan) -> tuple[str, ...]:
    parts = stage.memory.to_json() if stage.memory else {}
    fits = {None: "-", True: "yes", False: "NO"}[stage.fits]
    return (stage.name, *(f"{parts[name]:,.2f}" for name in _MEMORY_HEAD[1:-1]), fits)


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return f"{value:.0f}"


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
