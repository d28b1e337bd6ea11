"""Which unit is rounded how: ordered rules from names to schemes, and the bytes that they come to."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.naming import tensor_shapes
from magicmm_quant.schemes import FLOAT32, INT4, INT8, Scheme
from magicmm_quant.units import PATCHES, TOKENS, unit_plans, unit_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from magicmm_model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a recipe.

    Attributes:
        pattern: Regular expression for the whole name of a unit.
        scheme: What it is rounded to.

    Raises:
        MagicError: `argument_invalid` when the pattern is no regular expression.
    """

    pattern: str
    scheme: Scheme

    def __post_init__(self) -> None:
        """Refuse patterns that do not compile."""
        try:
            re.compile(self.pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"The pattern {self.pattern!r} is no regular expression: {error}.",
                "Correct the rule of the recipe.",
            ) from None


@dataclass(frozen=True, slots=True)
class Recipe:
    """Rules in order: the first that matches a unit's whole name decides.

    Attributes:
        name: For reports and the manifest.
        rules: At least one.
    """

    name: str
    rules: tuple[Rule, ...]

    def scheme_for(self, unit: str) -> Scheme:
        """Return how a unit is rounded.

        Raises:
            MagicError: `argument_invalid` when no rule matches, or when one asks for what the unit cannot be: the
                patches are always float32, the token table always int8.
        """
        scheme = next((rule.scheme for rule in self.rules if re.fullmatch(rule.pattern, unit)), None)
        if scheme is None:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"No rule of the recipe {self.name} matches the unit {unit}.",
                'End the recipe with a rule for all others, pattern ".*".',
            )
        fixed = _FIXED.get(unit)
        if fixed and scheme != fixed:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"The recipe {self.name} makes {unit} {scheme.kind}; it can only be {fixed.kind}.",
                f"Put a rule for {unit} with {fixed.kind} in front.",
            )
        return scheme

    def with_units(self, schemes: Mapping[str, Scheme]) -> Recipe:
        """Return a recipe of the same name in which these units, by their exact names, have these schemes."""
        exact = tuple(Rule(re.escape(unit), scheme) for unit, scheme in schemes.items())
        return Recipe(self.name, exact + self.rules)

    def to_json(self) -> str:
        """Return the recipe as a JSON text that `from_json` reads."""
        rules = [
            {"pattern": rule.pattern, "kind": rule.scheme.kind}
            | ({} if rule.scheme.group is None else {"group": rule.scheme.group})
            for rule in self.rules
        ]
        return json.dumps({"name": self.name, "rules": rules}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read a recipe.

        Raises:
            MagicError: `argument_invalid`, which lists everything that is wrong.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _broken([f"it is no JSON ({error})"]) from None
        if not isinstance(data, dict):
            raise _broken(["it is no object with name and rules"])
        problems = [f"it has the unknown key {key!r}" for key in sorted(data.keys() - {"name", "rules"})]
        name, entries = data.get("name"), data.get("rules")
        if not (isinstance(name, str) and name):
            problems.append("name is no text")
        if not (isinstance(entries, list) and entries):
            problems.append("rules is no list of rules")
            entries = []
        rules: list[Rule] = []
        for place, entry in enumerate(entries):
            try:
                rules.append(_rule(entry))
            except MagicError as error:
                problems.append(f"rules[{place}]: {error.message.rstrip('.')}")
        if problems:
            raise _broken(problems)
        return cls(str(name), tuple(rules))


def bytes_of(shape: tuple[int, int], scheme: Scheme) -> int:
    """Return the bytes of a matrix [out, in] with its scales and multipliers.

    Raises:
        MagicError: `argument_invalid` when the groups do not divide the inputs.
    """
    outputs, inputs = shape
    if scheme.kind == FLOAT32:
        return 4 * outputs * inputs
    if scheme.group is None:
        return outputs * inputs + 4 * outputs
    if inputs % scheme.group:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"Groups of {scheme.group} do not divide {inputs} inputs.",
            "Take another group, or int8.",
        )
    return outputs * inputs // 2 + outputs * (inputs // scheme.group) + 4 * outputs


def recipe_bytes(config: ModelConfig, recipe: Recipe) -> int:
    """Return the bytes of all weights of a model that is exported with a recipe, without graph structure and tokenizer.

    Biases, positions and the closing matrix [dim, dim] stay float32. A unit whose producer is a norm with a bias has
    one itself.
    """
    shapes, names = unit_shapes(config), tensor_shapes(config).keys()
    matrices = sum(bytes_of(shape, recipe.scheme_for(unit)) for unit, shape in shapes.items())
    biased = (
        shapes[unit][0]
        for unit, plan in unit_plans(config).items()
        if f"{plan.parts[0]}.bias" in names or f"{plan.norm}.bias" in names
    )
    positions = (config.vision.grid**2 + 1) * config.vision.hidden_size
    return matrices + 4 * (sum(biased) + positions + config.dim**2)


def _rule(entry: Any) -> Rule:
    if not (isinstance(entry, dict) and {"pattern", "kind"} <= entry.keys() <= {"pattern", "kind", "group"}):
        raise MagicError(ErrorCode.ARGUMENT_INVALID, "a rule has pattern, kind and, for int4, group.", "")
    pattern, kind, group = entry["pattern"], entry["kind"], entry.get("group")
    if not (isinstance(pattern, str) and isinstance(kind, str) and (group is None or type(group) is int)):
        raise MagicError(ErrorCode.ARGUMENT_INVALID, "pattern and kind are texts, group is a number.", "")
    return Rule(pattern, Scheme(kind, group))


def _broken(problems: list[str]) -> MagicError:
    return MagicError(
        ErrorCode.ARGUMENT_INVALID, f"The recipe is broken: {'; '.join(problems)}.", "Correct it; see `Recipe.to_json`."
    )


_FIXED = {PATCHES: Scheme(FLOAT32), TOKENS: Scheme(INT8)}
_PATCHES_AND_TOKENS = tuple(Rule(re.escape(unit), scheme) for unit, scheme in _FIXED.items())

RECIPES = {
    "float32": Recipe("float32", (*_PATCHES_AND_TOKENS, Rule(".*", Scheme(FLOAT32)))),
    "int8": Recipe("int8", (*_PATCHES_AND_TOKENS, Rule(".*", Scheme(INT8)))),
    "int4": Recipe(
        "int4",
        (
            *_PATCHES_AND_TOKENS,
            Rule(r"language\.layers\.\d+\.(qkv|o|gate_up|down)", Scheme(INT4, 128)),
            Rule(r"vision\.layers\.\d+\.(qkv|fc1)", Scheme(INT4, 128)),
            Rule(".*", Scheme(INT8)),
        ),
    ),
}
"""What most people take.

At 2B, language in int4 beside vision and connector in int8 is 1.23 GB with groups of 128 and 1.26 GB with groups of 32.
To stay below 1.2 GB with the prefixes of eight roles (3 MB each with the published tokenizer), `int4` takes groups of
128, and of the vision tower qkv and fc1, half of it, in int4, too: their inputs come from a norm, so that smoothing can
even them out, and the error of fc1 passes through a GELU before it reaches the residual stream.
"""
