"""Cases for bundle.json: whole bundles inline (manifest text, files, links), sound and broken in every way."""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from magicmm.bundle import Bundle
from magicmm.errors import MagicError

Json = dict[str, Any]
FILES = {
    "tokenizer.json": b"{}",
    "image.onnx": b"image graph",
    "text.onnx": b"text graph",
    "golden/cases.json": b'{"cases": []}',
}
COMPOSING_FILES = FILES | {"composed.onnx": b"composed graph"}
_TABLE = bytes(range(24)) + bytes(40) + bytes(12)
VLM_FILES = {
    "tokenizer.json": b"{}",
    "vision.onnx": b"vision graph",
    "language.onnx": b"language graph",
    "tokens.bin": _TABLE,
    "prefix/query.safetensors": b"prefix",
    "golden/cases.json": b'{"cases": []}',
}
_UNSAFE = (
    *("../secret", "a/../../secret", "/etc/passwd", "a/./b", "./a", "a//b", "a/", ".", "..", "", "a\\b", "C:/x", "c:x"),
    *(
        "..\\secret",
        "~/x",
        "a\u0000b",
        "a\nb",
        "a b",
        "\u00e9",
        "\ud800",
        "file:///x",
        ".hidden",
        "a/.hidden",
        "a?",
        "-",
    ),
)


def dual() -> Json:
    """Return the smallest sound manifest of a dual encoder."""
    role: Json = {"head": [], "image_before": [], "image_after": [], "text": "{text}", "tail": [], "prefix": None}
    return {
        "format": "magicmm-bundle",
        "format_version": 1,
        "id": "small",
        "architecture": "dual_encoder",
        "dim": 8,
        "weights": "0" * 64,
        "image": {"side": 16, "views": ["crop", "squash"], "resample": "bicubic"},
        "text": {"tokenizer": "tokenizer.json", "max_tokens": 32, "pad_id": 0},
        "roles": {"photo": role | {"max_tiles": 1}, "query": role | {"head": [2], "tail": [3], "max_tiles": 1}},
        "composed": {"text_weight": 1.0},
        "graphs": {"onnx": {"image": "image.onnx", "text": "text.onnx"}},
        "quantisation": {"all": "float32"},
        "golden": "golden/cases.json",
        "files": listed(FILES),
    }


def composing() -> Json:
    """Return the smallest sound manifest of a dual encoder with a composed graph."""
    manifest = dual()
    del manifest["composed"]
    manifest["roles"]["composed"] = manifest["roles"]["query"] | {"image_before": [2], "head": [], "image_after": [3]}
    manifest["graphs"]["onnx"]["composed"] = "composed.onnx"
    return manifest | {"files": listed(COMPOSING_FILES)}


def vision_language() -> Json:
    """Return the smallest sound manifest of a vision-language bundle."""
    manifest = dual()
    photo = manifest["roles"]["photo"]
    manifest |= {
        "architecture": "vision_language",
        "image": {"side": 16, "views": ["squash"], "resample": "bicubic"},
        "tokens": {"file": "tokens.bin", "rows": 3, "dim": 8},
        "roles": {
            "photo": photo | {"image_before": [1], "image_after": [2]},
            "query": photo | {"text": "query: {text}", "prefix": "prefix/query.safetensors"},
            "composed": photo,
        },
        "graphs": {"onnx": {"vision": "vision.onnx", "language": "language.onnx"}},
        "files": listed(VLM_FILES),
    }
    del manifest["composed"]
    return manifest


def listed(files: dict[str, bytes]) -> Json:
    """Return the `files` section."""
    return {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}


def bundles() -> list[Json]:
    """Return the cases of bundle.json."""
    cases = [_case("a dual encoder", dual(), FILES), _case("a vision-language bundle", vision_language(), VLM_FILES)]
    cases += [_case(name, _changed(dual(), *change), FILES) for name, change in _DUAL_CHANGES.items()]
    cases += [_case(name, _changed(vision_language(), *change), VLM_FILES) for name, change in _VLM_CHANGES.items()]
    cases.append(_case("a dual encoder with a composed graph", composing(), COMPOSING_FILES))
    composed = _COMPOSING_CHANGES.items()
    cases += [_case(name, _changed(composing(), *change), COMPOSING_FILES) for name, change in composed]
    for name in _UNSAFE:
        manifest = dual()
        manifest["files"][name] = {"bytes": 1, "sha256": "0" * 64}
        cases.append(_case(f"file name {name!a}", manifest, FILES))
    for key in dual():
        manifest = dual()
        del manifest[key]
        cases.append(_case(f"no {key}", manifest, FILES))
    return cases + _texts() + _folders()


_MISSING = object()
_FINGERPRINTED: Json = {
    "numbers": [0.0, -0.0, 1e16, 9999999999999998.0, 1e15, 1e22, 1e23, 0.1, 0.0001, 0.00001, 1.5e-7, 5e-324, 2.0**-44],
    "extremes": [1.7976931348623157e308, 2.2250738585072014e-308, 2.0**53, 4.35, 123456789.125, -1e100, 1 / 3],
    "whole": [0, -1, 2**53 + 1, 10**30, -(2**63), 2**64],
    "others": [None, True, False, [], {}],
    "letters": 'a"\\/\b\f\n\r\t\x01\x1f\x7f\x80\u00e9\u2028\U0001f600\ud800',
    "\uffff": 1,
    "\U00010000": 2,
    "\ue000": 3,
    "z": 4,
    "": 5,
}
_CONFIDENCE: Json = {
    "quantile": 0.7,
    "intercept": -1.0,
    "excess": 13.0,
    "log_photos": -0.7,
    "least_photos": 50,
    "threshold": 0.08,
}
_DUAL_CHANGES: dict[str, tuple[str, Any]] = {
    "another file format": ("format", "zip"),
    "a future version": ("format_version", 2),
    "a far future version": ("format_version", 1 << 40),
    "version 0": ("format_version", 0),
    "a negative version": ("format_version", -1),
    "version true": ("format_version", True),
    "version 1.0": ("format_version", 1.0),
    "version as text": ("format_version", "1"),
    "an unknown architecture": ("architecture", "gan"),
    "dim 0": ("dim", 0),
    "dim true": ("dim", True),
    "dim too large": ("dim", 16385),
    "dim of 20 digits": ("dim", 10**20),
    "dim null": ("dim", None),
    "id is a number": ("id", 7),
    "side 0": ("image.side", 0),
    "side 4097": ("image.side", 4097),
    "no views": ("image.views", []),
    "an unknown view": ("image.views", ["zoom"]),
    "views as text": ("image.views", "crop"),
    "another resample": ("image.resample", "lanczos"),
    "max_tokens 0": ("text.max_tokens", 0),
    "pad_id -1": ("text.pad_id", -1),
    "tokenizer not listed": ("text.tokenizer", "other.json"),
    "no query role": ("roles.query", _MISSING),
    "no photo role": ("roles.photo", _MISSING),
    "roles as a list": ("roles", []),
    "a role as text": ("roles.query", "x"),
    "a role text without its place": ("roles.query.text", "query"),
    "a role text with two places": ("roles.query.text", "{text} {text}"),
    "a negative token id": ("roles.query.head", [-1]),
    "a token id true": ("roles.query.head", [True]),
    "a token id 1.5": ("roles.query.tail", [1.5]),
    "a huge token id": ("roles.query.tail", [1 << 31]),
    "max_tiles 0": ("roles.photo.max_tiles", 0),
    "max_tiles 41": ("roles.photo.max_tiles", 41),
    "a prefix not listed": ("roles.query.prefix", "prefix/none"),
    "no text graph": ("graphs.onnx.text", _MISSING),
    "a graph not listed": ("graphs.onnx.text", "other.onnx"),
    "graphs for no runtime": ("graphs", {}),
    "a role composed without a graph for it": ("roles.composed", None),
    "an alternative composed graph of no graph": ("alternatives", {"openvino": {"composed": "text.onnx"}}),
    "a second runtime that lacks a graph": ("graphs.coreml", {"image": "image.onnx"}),
    "packed weights": ("packed", {"onnx": {"image": "text.onnx"}}),
    "packed weights of no graph": ("packed", {}),
    "packed weights not listed": ("packed", {"onnx": {"image": "image.q4"}}),
    "packed weights of a part that is no graph": ("packed", {"onnx": {"language": "text.onnx"}}),
    "packed weights for a runtime without graphs": ("packed", {"coreml": {"image": "text.onnx"}}),
    "packed as text": ("packed", "text.onnx"),
    "packed null": ("packed", None),
    "an alternative for another runtime": ("alternatives", {"openvino": {"image": "text.onnx"}}),
    "no alternatives": ("alternatives", {}),
    "an alternative not listed": ("alternatives", {"openvino": {"image": "other.onnx"}}),
    "an alternative of a part that another architecture has": ("alternatives", {"openvino": {"vision": "text.onnx"}}),
    "alternatives as text": ("alternatives", "text.onnx"),
    "alternatives null": ("alternatives", None),
    "golden not listed": ("golden", "golden/none.json"),
    "text_weight as text": ("composed.text_weight", "1"),
    "text_weight true": ("composed.text_weight", True),
    "text_weight of 1e10": ("composed.text_weight", 1e10),
    "text_weight 2": ("composed.text_weight", 2),
    "another dim changes the fingerprint": ("dim", 9),
    "another licence does not": ("licence", "MIT"),
    "numbers and letters of all kinds in the fingerprint": ("image.later", _FINGERPRINTED),
    "keys of later versions are ignored": ("later", {"x": [1, None]}),
    "a calibration does not change the fingerprint": ("confidence", _CONFIDENCE),
    "a calibration of whole numbers": ("confidence", _CONFIDENCE | {"quantile": 1, "intercept": 2, "threshold": 0}),
    "a calibration null": ("confidence", None),
    "a calibration as a list": ("confidence", []),
    "a calibration without threshold": ("confidence", {k: v for k, v in _CONFIDENCE.items() if k != "threshold"}),
    "a quantile above 1": ("confidence", _CONFIDENCE | {"quantile": 1.01}),
    "a quantile true": ("confidence", _CONFIDENCE | {"quantile": True}),
    "an excess below 0": ("confidence", _CONFIDENCE | {"excess": -0.5}),
    "a log_photos of 1e10": ("confidence", _CONFIDENCE | {"log_photos": 1e10}),
    "an intercept as text": ("confidence", _CONFIDENCE | {"intercept": "-1"}),
    "a library of one photo": ("confidence", _CONFIDENCE | {"least_photos": 1}),
    "a fraction of a photo": ("confidence", _CONFIDENCE | {"least_photos": 50.5}),
    "a threshold below 0": ("confidence", _CONFIDENCE | {"threshold": -0.1}),
    "a short hash": ("files.image_onnx.sha256", "00"),
    "a hash in capitals": ("files.image_onnx.sha256", "A" * 64),
    "a negative size": ("files.image_onnx.bytes", -1),
    "a size true": ("files.image_onnx.bytes", True),
    "a wrong size": ("files.image_onnx.bytes", 12),
    "a wrong hash": ("files.image_onnx.sha256", "0" * 64),
    "files as a list": ("files", []),
}
_COMPOSING_CHANGES: dict[str, tuple[str, Any]] = {
    "a composed graph without its role": ("roles.composed", _MISSING),
    "a composed graph and a weight of the text": ("composed", {"text_weight": 1.0}),
    "a composed graph and composed null": ("composed", None),
    "a composed graph and a weight that is text": ("composed", {"text_weight": "1"}),
    "a composed graph that is not listed": ("graphs.onnx.composed", "other.onnx"),
    "a second runtime without the composed graph": ("graphs.coreml", {"image": "image.onnx", "text": "text.onnx"}),
    "a second runtime with a composed graph": (
        "graphs.coreml",
        {"image": "image.onnx", "text": "text.onnx", "composed": "composed.onnx"},
    ),
    "an alternative composed graph": ("alternatives", {"openvino": {"composed": "composed.onnx"}}),
    "a packed composed graph": ("packed", {"onnx": {"composed": "text.onnx"}}),
}
_VLM_CHANGES: dict[str, tuple[str, Any]] = {
    "no token table": ("tokens", _MISSING),
    "a token table of the wrong size": ("tokens.rows", 4),
    "a token table of 0 rows": ("tokens.rows", 0),
    "no composed role": ("roles.composed", _MISSING),
    "no language graph": ("graphs.onnx.language", _MISSING),
    "a document role": ("roles.document", None),
}


def _changed(manifest: Json, key: str, value: Any) -> Json:
    if key == "roles.composed" and value is None:
        value = manifest["roles"]["photo"]
    if key == "roles.document":
        value = manifest["roles"]["photo"] | {"max_tiles": 4}
    *path, last = (part.replace("_onnx", ".onnx") for part in key.split("."))
    inner = manifest
    for part in path:
        inner = inner[part]
    if value is _MISSING:
        del inner[last]
    else:
        inner[last] = value
    return manifest


def _texts() -> list[Json]:
    sound = json.dumps(dual())
    texts = {
        "an empty manifest": "",
        "no JSON": "format: magicmm-bundle",
        "JSON that stops": sound[: len(sound) // 2],
        "a list": "[]",
        "null": "null",
        "text_weight NaN": sound.replace('"text_weight": 1.0', '"text_weight": NaN'),
        "text_weight infinite": sound.replace('"text_weight": 1.0', '"text_weight": Infinity'),
        "text_weight 1e999": sound.replace('"text_weight": 1.0', '"text_weight": 1e999'),
        "NaN in a key that nobody reads": sound[:-1] + ', "quality": {"recall": NaN}}',
        "a key that comes twice": sound.replace('"dim": 8', '"dim": 8, "dim": 16'),
    }
    return [_finish(name, {"manifest_text": text, "files": _hex(FILES)}) for name, text in texts.items()]


def _folders() -> list[Json]:
    whole = {"manifest_text": json.dumps(dual())}
    without = {name: data for name, data in FILES.items() if name != "text.onnx"}
    outside, inside = {"text.onnx": "../outside.bin"}, {"text.onnx": "real"}
    return [
        _finish("no manifest", {"files": _hex(FILES)}),
        _finish("a file missing", whole | {"files": _hex(without)}),
        _finish("a file too long", whole | {"files": _hex(FILES | {"text.onnx": b"text graph and more"})}),
        _finish("a file empty", whole | {"files": _hex(FILES | {"text.onnx": b""})}),
        _finish("a file with other content", whole | {"files": _hex(FILES | {"text.onnx": b"TEXT GRAPH"})}),
        _finish("a file more than listed", whole | {"files": _hex(FILES | {"notes.txt": b"hello"})}),
        _finish("a folder in place of a file", whole | {"files": _hex(without | {"text.onnx/inner": b"x"})}),
        _finish("a link out of the bundle", whole | {"files": _hex(without), "links": outside}),
        _finish(
            "a link within it",
            whole | {"files": _hex(without | {"real": b"text graph"}), "links": inside},
        ),
        _finish("a link that goes round", whole | {"files": _hex(without), "links": {"text.onnx": "text.onnx"}}),
    ]


def write_folder(given: Json, folder: Path) -> Path:
    """Make the bundle of a case as a folder; `outside.bin` lies beside it, with the bytes of text.onnx."""
    bundle = folder / "case.magicmm"
    bundle.mkdir(parents=True)
    (folder / "outside.bin").write_bytes(FILES["text.onnx"])
    for name, data in given["files"].items():
        path = bundle / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes.fromhex(data))
    for name, target in given.get("links", {}).items():
        (bundle / name).symlink_to(target)
    if "manifest_text" in given:
        (bundle / "manifest.json").write_text(given["manifest_text"], encoding="utf-8", newline="")
    return bundle


def outcome(given: Json, folder: Path) -> Json:
    """Load the bundle of a case and say what it is, or the error code."""

    def attempt(action: Callable[[], Any]) -> tuple[Any, str | None]:
        try:
            return action(), None
        except MagicError as error:
            return None, error.code.value

    bundle, code = attempt(lambda: Bundle.load(write_folder(given, folder)))
    if bundle is None:
        return {"error": code}
    manifest = bundle.manifest
    facts = {
        "id": manifest.id,
        "architecture": manifest.architecture,
        "dim": manifest.dim,
        "roles": sorted(manifest.roles),
        "fingerprint": bundle.fingerprint,
        "total_bytes": bundle.total_bytes,
        "check_hashes": attempt(bundle.check_hashes)[1],
    }
    return {"expect": facts, "tolerance": 0}


def _case(name: str, manifest: Json, files: dict[str, bytes]) -> Json:
    return _finish(name, {"manifest_text": json.dumps(copy.deepcopy(manifest)), "files": _hex(files)})


def _finish(name: str, given: Json) -> Json:
    with tempfile.TemporaryDirectory() as folder:
        return {"name": name, "input": given, **outcome(given, Path(folder))}


def _hex(files: dict[str, bytes]) -> dict[str, str]:
    return {name: data.hex() for name, data in files.items()}
