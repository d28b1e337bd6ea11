"""Write tests/vectors/, the contract that every language is held to: run with --check to compare instead.

    python tests/tools/generate_vectors.py [--check]

Every file is {"schema": 1, "generated_by", "cases": [{"name", "input", "expect" or "error", "tolerance"}]}.
`index_v1.*` is written only when it is missing (SQLite files differ between SQLite versions); tests compare content.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import magicmm
from magicmm.errors import ErrorCode, SkipReason
from tools import bundle_cases, image_cases, index_cases, number_cases, packed_cases, signal_cases, text_cases

VECTORS = Path(__file__).parents[1] / "vectors"
_COMMAND = "python tests/tools/generate_vectors.py"

ERRORS = {
    "bundle_invalid": "The bundle is missing, incomplete, altered, or breaks the format.",
    "bundle_too_new": "The bundle's format_version is higher than this SDK reads.",
    "checkpoint_invalid": "The checkpoint that a model is made from is broken or of another family (desktop tools).",
    "model_mismatch": "The index holds vectors of another model.",
    "image_invalid": "A photo cannot be embedded; a skip reason says why.",
    "text_invalid": "A text is empty, too long, or no text.",
    "argument_invalid": "A caller asked for something that cannot be.",
    "index_corrupt": "The index file is damaged or belongs to another program.",
    "index_too_new": "The index has a higher version than this SDK reads.",
    "index_locked": "Another process writes to the index.",
    "storage_failed": "The disk is full, read-only or failing.",
    "runtime_failed": "The inference runtime refused a graph or gave no usable vector.",
    "source_unavailable": "An index, folder or drive is not there.",
    "cancelled": "The caller stopped the work.",
}
SKIPS = {
    "empty_file": "The file has no bytes.",
    "truncated": "The file ends before its picture does.",
    "not_an_image": "The content is no format that the SDK reads, whatever the name says.",
    "unsupported_pixels": "The samples have no known range: floating point, or 32-bit integers.",
    "heic_support_missing": "The optional HEIC decoder is not there.",
    "too_many_pixels": "The header announces more pixels than any camera makes, or than fit in memory.",
    "file_too_large": "The file is larger than any photo.",
    "decode_failed": "The decoder stopped on broken content.",
    "permission_denied": "The file may not be read.",
    "read_failed": "Reading the file failed.",
    "broken_link": "A link whose target does not exist.",
    "vanished": "The file disappeared between listing and reading.",
    "embedding_failed": "The model failed on this photo.",
}


def build() -> dict[str, bytes]:
    """Return every generated file by name, except those of the committed index."""
    cases: dict[str, list[dict[str, Any]]] = {
        "resize.json": image_cases.resizes(),
        "views.json": image_cases.views(),
        "tiling.json": image_cases.tilings(),
        "quantise.json": number_cases.quantising(),
        "search.json": number_cases.searches(),
        "bundle.json": bundle_cases.bundles(),
        "packed.json": packed_cases.packed(),
        "errors.json": errors(),
        "api.json": api(),
        "tokenizer.json": text_cases.texts(),
        "signals.json": signal_cases.signals(),
    }
    files = {name: _encode({"cases": rows}) for name, rows in cases.items()}
    files["tiny_tokenizer.json"] = text_cases.tiny_tokenizer()
    files["bpe_tokenizer.json"] = text_cases.bpe_tokenizer()
    return files


def errors() -> list[dict[str, Any]]:
    """List the codes of `MagicError` and the reasons of skipped photos."""
    rows = [
        {"name": code.value, "input": {"kind": "code"}, "expect": {"meaning": ERRORS[code.value]}} for code in ErrorCode
    ]
    return rows + [
        {
            "name": reason.value,
            "input": {"kind": "skip_reason"},
            "expect": {"meaning": SKIPS[reason.value], "is_transient": reason.is_transient},
        }
        for reason in SkipReason
    ]


def api() -> list[dict[str, Any]]:
    """List the public names with their members, parameters and defaults, as `inspect` sees them."""
    names = sorted(name for name in magicmm.__all__ if name != "__version__")
    return [{"name": name, "input": {}, "expect": _describe_type(getattr(magicmm, name))} for name in names]


def _describe_type(kind: type[Any]) -> dict[str, Any]:
    if issubclass(kind, Enum):
        return {"kind": "enum", "members": [{"name": item.name.lower(), "value": item.value} for item in kind]}
    members: list[dict[str, Any]] = []
    if is_dataclass(kind):
        members += [_describe_field(field) for field in fields(kind) if not field.name.startswith("_")]
    names = {field["name"] for field in members}
    for name, value in vars(kind).items():
        if not name.startswith("_") and name not in names and (found := _describe_member(name, value)) is not None:
            members.append(found)
    facts: dict[str, Any] = {"kind": _kind(kind), "members": members}
    if "__init__" in vars(kind) and not is_dataclass(kind) and not getattr(kind, "_is_protocol", False):
        facts["parameters"] = _parameters(kind.__init__)
    return facts


def _kind(kind: type[Any]) -> str:
    if getattr(kind, "_is_protocol", False):
        return "protocol"
    if issubclass(kind, Exception):
        return "error"
    return "record" if is_dataclass(kind) else "class"


def _describe_field(field: Any) -> dict[str, Any]:
    fact: dict[str, Any] = {"name": field.name, "kind": "field"}
    if field.default is not MISSING:
        fact["default"] = _plain(field.default)
    elif field.default_factory is not MISSING:
        fact["default"] = _plain(field.default_factory())
    return fact


def _describe_member(name: str, value: object) -> dict[str, Any] | None:
    if isinstance(value, classmethod):
        return {"name": name, "kind": "constructor", "parameters": _parameters(value.__func__)}
    if isinstance(value, property) or type(value).__name__ == "cached_property":
        return {"name": name, "kind": "property"}
    if inspect.isfunction(value):
        return {"name": name, "kind": "method", "parameters": _parameters(value)}
    return None


def _parameters(function: Callable[..., Any]) -> list[dict[str, Any]]:
    rows = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        row: dict[str, Any] = {"name": parameter.name}
        if parameter.default is not inspect.Parameter.empty:
            row["default"] = _plain(parameter.default)
        rows.append(row)
    return rows


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _encode(content: dict[str, Any]) -> bytes:
    """Return JSON with one case a line, so that a diff shows which case changed."""
    head = json.dumps({"schema": 1, "generated_by": _COMMAND})[:-1]
    rest = {key: value for key, value in content.items() if key != "cases"}
    parts = [head, *(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in rest.items())]
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in content["cases"])
    return (", ".join(parts) + ', "cases": [\n' + lines + "\n]}\n").encode()


def main() -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    check = parser.parse_args().check
    differing = []
    for name, data in build().items():
        path = VECTORS / name
        if check and (not path.exists() or path.read_bytes() != data):
            differing.append(name)
        elif not check:
            path.write_bytes(data)
    if not (VECTORS / "index_v1.db").exists():
        differing += ["index_v1.db"] if check else []
        if not check:
            index_cases.write_index(VECTORS)
    if not check:
        (VECTORS / "index_v1.json").write_bytes(_encode(index_cases.describe(VECTORS / "index_v1.db")))
    sys.stderr.write("".join(f"tests/vectors/{name} differs; run: {_COMMAND}\n" for name in differing))
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
