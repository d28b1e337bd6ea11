"""How weights of a Core ML package are stored, and which units can run that: published rules, not verified here.

| scheme | weights | Neural Engine | from |
| --- | --- | --- | --- |
| float32 | as they are; arithmetic too | no, it computes in float16 | iOS 17 |
| float16 | rounded; arithmetic in float16 | yes | iOS 17 |
| int8 | one scale an output channel | yes | iOS 17 |
| palette6, palette4 | 64 or 16 values for 16 output channels together | yes | iOS 18 |
| int4 | one scale for 32 inputs of an output | no: it falls back to the CPU (apple/coremltools #2510) | iOS 18 |
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from magicmm import ErrorCode, MagicError


class Units(str, Enum):
    """Where an app lets Core ML run a package, in Core ML's own words."""

    ALL = "all"
    """With the Neural Engine."""
    CPU_AND_GPU = "cpu_and_gpu"


class Target(str, Enum):
    """The oldest system that reads a package."""

    IOS17 = "iOS17"
    IOS18 = "iOS18"

    @property
    def number(self) -> int:
        """The version."""
        return int(self.value.removeprefix("iOS"))


@dataclass(frozen=True, slots=True)
class CoremlScheme:
    """One row of the table above.

    Attributes:
        name: What `--recipe` says.
        words: For the manifest.
        precision: Of arithmetic, "float16" or "float32".
        bits: Of a stored weight.
        group: Output channels that share a palette, or inputs that share a scale; 0 = none.
        since: The oldest target.
        off_engine: Why the Neural Engine does not run it; empty = it does.
    """

    name: str
    words: str
    precision: str = "float16"
    bits: int = 16
    group: int = 0
    since: Target = Target.IOS17
    off_engine: str = ""

    @property
    def described(self) -> str:
        """What the manifest says of it."""
        return f"{self.words} ({self.name})"

    def check(self, target: Target, units: Units) -> None:
        """Refuse what a target or its units cannot run.

        Raises:
            MagicError: `argument_invalid` with the reason and what to take instead.
        """
        if target.number < self.since.number:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"{self.name} needs {self.since.value}, the target is {target.value}.",
                f"Take --system {self.since.value}, or --recipe int8.",
            )
        if self.off_engine and units is Units.ALL:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"{self.name} does not run on the Neural Engine: {self.off_engine}.",
                "Take --recipe int8 or palette4, or --compute-units cpu_and_gpu.",
            )


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        CoremlScheme("float32", "float32", precision="float32", bits=32, off_engine="it computes in float16 only"),
        CoremlScheme("float16", "float16"),
        CoremlScheme("int8", "int8, one scale an output channel", bits=8),
        CoremlScheme("palette6", "64 values for 16 output channels", bits=6, group=16, since=Target.IOS18),
        CoremlScheme("palette4", "16 values for 16 output channels", bits=4, group=16, since=Target.IOS18),
        CoremlScheme(
            "int4",
            "int4, one scale for 32 inputs",
            bits=4,
            group=32,
            since=Target.IOS18,
            off_engine="scales by block fall back to the CPU there (apple/coremltools #2510)",
        ),
    )
}


def scheme_named(name: str) -> CoremlScheme:
    """Return a scheme by its name.

    Raises:
        MagicError: `argument_invalid` for another name.
    """
    found = SCHEMES.get(name)
    if found is None:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"Core ML has no recipe {name!r} here.",
            f"Choose {', '.join(SCHEMES)}.",
        )
    return found
