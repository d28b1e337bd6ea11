"""YAML to plain values, with the place of each value, so that errors can name file, line and key."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from pathlib import Path

Key = tuple[str, ...]
"""Way to a value: names of mappings and places in lists."""


class _Loader(yaml.SafeLoader):
    """PyYAML reads 1e-4 as a text, because YAML 1.1 asks for a point; people mean a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass(frozen=True)
class Document:
    """A YAML file.

    Attributes:
        values: What it says.
        places: Key -> "FILE, line N".
    """

    values: dict[str, Any]
    places: dict[Key, str] = field(default_factory=dict)


def read_yaml(path: Path) -> Document:
    """Read a file whose top is a mapping.

    Raises:
        MagicError: `argument_invalid` for a file that cannot be read, is no YAML of plain values, names a key twice, or
            refers to itself.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID, f"{path} cannot be read: {reason}.", "Give a recipe, a YAML file."
        ) from None
    try:
        node = yaml.compose(text, _Loader)
        places: dict[Key, str] = {}
        if node is not None:
            _walk(node, (), path, places, ())
        values = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader with one more kind of number
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"{where}: {getattr(error, 'problem', None) or error}.",
            "Correct the YAML; recipes hold plain values only.",
        ) from None
    if not isinstance(values, dict):
        raise MagicError(ErrorCode.ARGUMENT_INVALID, f"{path} holds no recipe.", "Its top must be `key: value` lines.")
    return Document(values, places)


def read_value(text: str) -> Any:
    """Return a value of the command line as YAML would read it; what is no YAML is a text."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - as above
    except yaml.YAMLError:
        return text


def shown(key: Key) -> str:
    """Return a key as it is written on the command line, for example `stages.warmup.optimiser.lr`."""
    return ".".join(key)


def _walk(node: yaml.Node, key: Key, path: Path, places: dict[Key, str], above: tuple[int, ...]) -> None:
    """Note where each value is, and refuse keys that are there twice, of which YAML would keep the last."""
    line = f"{path}, line {node.start_mark.line + 1}"
    places[key] = line
    if id(node) in above:
        raise MagicError(ErrorCode.ARGUMENT_INVALID, f"{line}: the value holds itself.", "Remove the alias.")
    above = (*above, id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, part in enumerate(node.value):
            _walk(part, (*key, str(number)), path, places, above)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for name, part in node.value:
            here = (*key, str(name.value))
            if name.value in seen:
                raise MagicError(
                    ErrorCode.ARGUMENT_INVALID,
                    f"{path}, line {name.start_mark.line + 1}: {shown(here)} is there twice.",
                    "Keep one of them.",
                )
            seen.add(str(name.value))
            _walk(part, here, path, places, above)
