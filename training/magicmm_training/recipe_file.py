"""Recipe files: YAML with `extends`, overrides from the command line, and errors that say what to change where.

In a file, `stages` maps names to options, in order:

    extends: magicmm-2b
    model: {compression: 1}
    stages:
      warmup: {batch: {per_device: 72}}
      judge: null

A file that extends another replaces single values: mappings merge, lists and values replace, null for a stage drops
it. Overrides do the same, `--stages.warmup.optimiser.lr 1e-4`. They are not parsed by tyro: it addresses stages, which
are a tuple of a union, by number and as nested subcommands; a name that stays right when a stage is added needs few
lines, and pydantic checks the types of whatever comes in.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from magicmm.errors import ErrorCode, MagicError
from magicmm_training import recipe as contract
from magicmm_training.recipe import Recipe, Strict
from magicmm_training.recipe_yaml import Document, Key, read_value, read_yaml, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RECIPES = Path(__file__).with_name("recipes")
"""Recipes of the package, known by name without folder and ending."""
_COMMAND_LINE = "the command line"
_DEPTH = 8
"""How many files may extend each other; more is a circle or a maze."""


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: A YAML file, or the name of a recipe of the package, such as "magicmm-2b".
        overrides: Words such as "--stages.warmup.optimiser.lr", "1e-4" or "--model.base=DIR".

    Returns:
        The recipe. `data_root` is absolute: relative to the file that names it, or to the current folder when it comes
        from the command line or nobody names it. So is a `model.base` from the command line; other paths stay relative
        to `data_root`.

    Raises:
        MagicError: `argument_invalid`, with file, line and key of each mistake.
    """
    file = find_recipe(path)
    document = _extended(file, 0)
    values = _with_overrides(document, overrides)
    _resolve_paths(values, document)
    try:
        return Recipe.model_validate(_listed(values))
    except ValidationError as error:
        raise _explained(error, document, values, file) from None


def find_recipe(path: Path | str) -> Path:
    """Return the file of a recipe given by path or by name.

    Raises:
        MagicError: `argument_invalid` when there is none.
    """
    file = Path(path)
    if file.is_file():
        return file
    known = known_recipes()
    if str(path) in known:
        return known[str(path)]
    raise MagicError(
        ErrorCode.ARGUMENT_INVALID,
        f"There is no recipe {str(path)!r}.",
        f"Give a YAML file, or one of {', '.join(known)}.",
    )


def known_recipes() -> dict[str, Path]:
    """Return the recipes of the package by name."""
    return {file.stem: file for file in sorted(RECIPES.glob("*/*.yaml"))}


def _extended(file: Path, depth: int) -> Document:
    document = read_yaml(file)
    parent = document.values.pop("extends", None)
    if parent is None:
        return document
    if not isinstance(parent, str) or depth == _DEPTH:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"{document.places[('extends',)]}: extends is {parent!r}, which leads nowhere.",
            "Name one recipe that does not extend this one: a file, relative to this one, or one of the package.",
        )
    beside = file.parent / parent
    base = _extended(beside if beside.is_file() else known_recipes().get(parent, beside), depth + 1)
    merged = _merged(base.values, document.values)
    return Document(merged, base.places | document.places)


def _merged(below: Any, above: Any) -> Any:
    """Return `below` with the values of `above`; keys keep their order."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return below | {key: _merged(below.get(key), value) for key, value in above.items()}


def _with_overrides(document: Document, words: Sequence[str]) -> dict[str, Any]:
    """Apply `--key value` and `--key=value`."""
    values: dict[str, Any] = document.values
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, text = word.partition("=")
        if not name.startswith("--") or len(name) == 2:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"{word!r} is no option.",
                "Change values of the recipe by their path: --stages.warmup.optimiser.lr 1e-4.",
            )
        if not equals:
            if not rest:
                raise MagicError(ErrorCode.ARGUMENT_INVALID, f"{name} has no value.", f"Write {name} VALUE.")
            text = rest.pop(0)
        key = tuple(part.replace("-", "_") if place == 0 else part for place, part in enumerate(name[2:].split(".")))
        _require_known_stage(key, values)
        change: Any = read_value(text)
        for part in reversed(key):
            change = {part: change}
        values = _merged(values, change)
        document.places[key] = _COMMAND_LINE
    return values


def _require_known_stage(key: Key, values: Mapping[str, Any]) -> None:
    stages = values.get("stages")
    if key[0] == "stages" and isinstance(stages, dict) and (len(key) < 2 or key[1] not in stages):
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"--{shown(key)}: the recipe has no such stage.",
            f"Its stages are {', '.join(stages)}.",
        )


def _resolve_paths(values: dict[str, Any], document: Document) -> None:
    root = values.get("data_root", ".")
    if isinstance(root, str):
        place = document.places.get(("data_root",), _COMMAND_LINE)
        folder = Path() if place == _COMMAND_LINE else Path(place.rpartition(", line ")[0]).parent
        values["data_root"] = str((folder / root).resolve())
    model = values.get("model")
    if isinstance(model, dict) and document.places.get(("model", "base")) == _COMMAND_LINE:
        values["model"] = model | {"base": str(Path(str(model["base"])).resolve())}


def _listed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the mapping of stages into the contract's list."""
    stages = values.get("stages")
    if not isinstance(stages, dict):
        return dict(values)
    listed = [
        {**options, "name": name} if isinstance(options, dict) else options
        for name, options in stages.items()
        if options is not None
    ]
    return {**values, "stages": listed}


def _explained(error: ValidationError, document: Document, values: Mapping[str, Any], file: Path) -> MagicError:
    """Say each mistake in the words of the file."""
    stages = values.get("stages")
    names = [name for name, options in stages.items() if options is not None] if isinstance(stages, dict) else []
    lines, remedies = [], []
    for fault in error.errors(include_url=False):
        key = _key_of(fault["loc"], names)
        lines.append(f"{_place(key, document, file)}: {_complaint(fault, key)}")
        remedies.append(_remedy(fault, key))
    return MagicError(
        ErrorCode.ARGUMENT_INVALID,
        "; ".join(lines),
        " ".join(dict.fromkeys(remedies)),
    )


def _key_of(loc: tuple[int | str, ...], names: Sequence[str]) -> Key:
    """Return the key of the file: the stage's name for its number, without the kind that pydantic inserts."""
    parts = [str(part) for part in loc]
    if parts[:1] == ["stages"] and len(parts) > 1 and isinstance(loc[1], int) and loc[1] < len(names):
        parts = ["stages", names[loc[1]], *parts[3 if len(parts) > 2 else 2 :]]
    return tuple(parts)


def _place(key: Key, document: Document, file: Path) -> str:
    """Return the nearest place that the files or the command line give."""
    for length in range(len(key), -1, -1):
        if key[:length] in document.places:
            return document.places[key[:length]]
    return str(file)


def _complaint(fault: Any, key: Key) -> str:
    kind, message = fault["type"], fault["msg"]
    if kind == "extra_forbidden":
        return f"{shown(key)} is no option."
    if kind == "missing":
        return f"{shown(key)} is missing."
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return f"{shown(key)}: kind must be one of {', '.join(sorted(_KINDS))}."
    if kind == "value_error":
        message = str(fault["ctx"]["error"])
        return f"{shown(key)}: {message}." if key else f"{message}."
    return f"{shown(key)} is {fault['input']!r}: {message[0].lower()}{message[1:]}."


def _remedy(fault: Any, key: Key) -> str:
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key[-1], _OPTIONS, n=1)
        return f"Did you mean {near[0]}?" if near else f"Remove {shown(key)}."
    return "Correct the recipe, or override the value on the command line."


_OPTIONS = sorted(
    {
        name
        for model in vars(contract).values()
        if isinstance(model, type) and issubclass(model, Strict)
        for name in model.model_fields
    }
)
_KINDS = ("restoration", "contrastive", "mining", "judge", "reranker", "evaluation")
