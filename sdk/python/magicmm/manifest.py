"""`manifest.json` of a bundle as frozen data, with errors that name the offending key (docs/FORMAT.md, part 1)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from magicmm.errors import ErrorCode, MagicError

FORMAT = "magicmm-bundle"
FORMAT_VERSION = 1
ARCHITECTURES = ("dual_encoder", "vision_language")
VIEWS = ("crop", "squash")
COMPOSED = "composed"
"""Name of the part of a dual encoder, and of the role, that read photo and text together."""
MAX_DIM = 1 << 14
_MAX_SIDE = 4096
# Plain ASCII names: no way out of the folder, and the same file on every system.
_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.+-]*/)*[A-Za-z0-9_][A-Za-z0-9_.+-]*")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the bundle: its size in bytes and the SHA-256 of its content in hex."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """How a photo becomes pixels: each view is one `side` x `side` RGB picture, bicubic, in this order."""

    side: int
    views: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TextSpec:
    """The tokenizer file, the longest sequence (ids of the role included) and the id that fills short rows."""

    tokenizer: str
    max_tokens: int
    pad_id: int


@dataclass(frozen=True, slots=True)
class TokenTable:
    """The token table of a vision-language bundle: int8 rows, then one float32 scale a row (64-byte aligned)."""

    file: str
    rows: int
    dim: int


@dataclass(frozen=True, slots=True)
class Role:
    """One way to ask the model for a vector: constant ids around the photo and the text.

    The sequence is head + [image_before + visual tokens + image_after] + [text] + tail; a part without its
    input leaves its ids out. `prefix`, when given, holds the keys and values of `head`, which then is not run again.
    """

    head: tuple[int, ...]
    image_before: tuple[int, ...]
    image_after: tuple[int, ...]
    text: str
    tail: tuple[int, ...]
    prefix: str | None
    max_tiles: int


@dataclass(frozen=True, slots=True)
class ConfidenceSpec:
    """What turns scores of a search by words into a probability (docs/FORMAT.md, "Confidence").

    Attributes:
        quantile: Of the library's scores for a query; how far the best match stands above it is its excess.
        intercept: Of the logit.
        excess: Logits for a cosine of excess.
        log_photos: Logits for each factor e of photos searched.
        least_photos: Libraries that are smaller get no confidence.
        threshold: Below it, probably nothing matches.
    """

    quantile: float
    intercept: float
    excess: float
    log_photos: float
    least_photos: int
    threshold: float


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a bundle says of itself; `raw` keeps what only people read (licence, quality, source).

    `composed_text_weight` is None when photo and text go through the model in one pass and nothing is added: always in
    a vision-language bundle, and in a dual encoder with a `composed` graph that does not say otherwise.
    """

    id: str
    architecture: str
    dim: int
    weights: str
    image: ImageSpec
    text: TextSpec
    tokens: TokenTable | None
    roles: Mapping[str, Role]
    composed_text_weight: float | None
    graphs: Mapping[str, Mapping[str, str]]
    packed: Mapping[str, Mapping[str, str]]
    alternatives: Mapping[str, Mapping[str, str]]
    quantisation: Mapping[str, str]
    golden: str
    files: Mapping[str, FileEntry]
    confidence: ConfidenceSpec | None
    raw: Mapping[str, Any]

    @property
    def has_composed_graph(self) -> bool:
        """Whether a dual encoder reads photo and text together."""
        return any(COMPOSED in parts for parts in self.graphs.values())


def parse_manifest(text: str) -> Manifest:
    """Read and check the text of a `manifest.json`.

    Raises:
        MagicError: `bundle_too_new` for a later format, `bundle_invalid` for anything else that is wrong.
    """
    try:
        raw = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"manifest.json is not JSON: {error}.") from None
    top = _Section(raw, "manifest")
    if top.get("format", str) != FORMAT:
        raise _invalid(f"manifest.json says format {raw['format']!r}, not {FORMAT!r}.")
    version = top.get("format_version", int)
    if version > FORMAT_VERSION:
        raise MagicError(
            ErrorCode.BUNDLE_TOO_NEW,
            f"The bundle has format version {version}, this SDK reads up to {FORMAT_VERSION}.",
            "Update it: pip install -U magicmm.",
        )
    if version < 1:
        raise _invalid(f"manifest.json says format_version {version}.")
    return _manifest(top, raw)


def _manifest(top: _Section, raw: dict[str, Any]) -> Manifest:
    architecture = top.choice("architecture", ARCHITECTURES)
    files = {_inside(name): _file_entry(entry) for name, entry in top.sections("files")}
    graphs = _files_by_part(top, "graphs", files)
    is_dual = architecture == "dual_encoder"
    parts = _parts(architecture, graphs)
    for runtime, parts_given in graphs.items():
        if missing := set(parts) - set(parts_given):
            raise _invalid(f"graphs.{runtime} of this {architecture} bundle lacks {', '.join(sorted(missing))}.")
    packed = _files_by_part(top, "packed", files) if "packed" in top.value else {}
    for runtime, parts_packed in packed.items():
        if unknown := set(parts_packed) - set(graphs.get(runtime, {})):
            raise _invalid(f"packed.{runtime} names {', '.join(sorted(unknown))}, which graphs does not.")
    alternatives = _files_by_part(top, "alternatives", files) if "alternatives" in top.value else {}
    for runtime, parts_given in alternatives.items():
        if unknown := set(parts_given) - set(parts):
            raise _invalid(f"alternatives.{runtime} names {', '.join(sorted(unknown))}, which is no part.")
    roles = {name: _role(entry, files) for name, entry in top.sections("roles")}
    if missing := {"photo", "query"} - set(roles):
        raise _invalid(f"roles lacks {', '.join(sorted(missing))}.")
    is_fused_late = is_dual and COMPOSED not in parts
    if not is_fused_late and COMPOSED not in roles:
        raise _invalid("roles lacks composed.")
    has_weight = is_fused_late or (is_dual and COMPOSED in top.value)
    dim = top.count("dim", MAX_DIM)
    return Manifest(
        id=top.get("id", str),
        architecture=architecture,
        dim=dim,
        weights=top.get("weights", str),
        image=_image_spec(top.section("image")),
        text=_text_spec(top.section("text"), files),
        tokens=None if is_dual else _token_table(top.section("tokens"), files),
        roles=roles,
        composed_text_weight=top.section(COMPOSED).get("text_weight", float) if has_weight else None,
        graphs=graphs,
        packed=packed,
        alternatives=alternatives,
        quantisation={key: str(value) for key, value in top.section("quantisation").value.items()},
        golden=_listed(files, top.get("golden", str)),
        files=files,
        confidence=_confidence(top.section("confidence")) if "confidence" in top.value else None,
        raw=raw,
    )


def _parts(architecture: str, graphs: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """Return the parts that every runtime must have; when one has the optional `composed`, all must."""
    if architecture != "dual_encoder":
        return ("vision", "language")
    return ("image", "text", COMPOSED) if any(COMPOSED in given for given in graphs.values()) else ("image", "text")


def _files_by_part(top: _Section, key: str, files: Mapping[str, FileEntry]) -> dict[str, dict[str, str]]:
    """Return runtime -> part -> file."""
    by_runtime = top.sections(key)
    return {name: {part: _listed(files, entry.get(part, str)) for part in entry.value} for name, entry in by_runtime}


def _file_entry(entry: _Section) -> FileEntry:
    digest = entry.get("sha256", str)
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise _invalid(f"{entry.name}.sha256 is not 64 hex digits.")
    size = entry.get("bytes", int)
    if size < 0:
        raise _invalid(f"{entry.name}.bytes is negative.")
    return FileEntry(size, digest)


def _image_spec(entry: _Section) -> ImageSpec:
    views = tuple(entry.items("views", str))
    if not views or not set(views) <= set(VIEWS):
        raise _invalid(f"{entry.name}.views must name some of {', '.join(VIEWS)}, got {list(views)}.")
    entry.choice("resample", ("bicubic",))
    return ImageSpec(entry.count("side", _MAX_SIDE), views)


def _text_spec(entry: _Section, files: Mapping[str, FileEntry]) -> TextSpec:
    pad_id = entry.count("pad_id", least=0)
    return TextSpec(_listed(files, entry.get("tokenizer", str)), entry.count("max_tokens"), pad_id)


def _token_table(entry: _Section, files: Mapping[str, FileEntry]) -> TokenTable:
    table = TokenTable(_listed(files, entry.get("file", str)), entry.count("rows"), entry.count("dim", MAX_DIM))
    if files[table.file].bytes != token_table_bytes(table.rows, table.dim):
        raise _invalid(f"{table.file} has {files[table.file].bytes} bytes, not those of {table.rows} x {table.dim}.")
    return table


def token_table_bytes(rows: int, dim: int) -> int:
    """Return the size of a `tokens.bin`: int8 rows, padded to 64 bytes, then float32 scales."""
    return -(-rows * dim // 64) * 64 + 4 * rows


def _role(entry: _Section, files: Mapping[str, FileEntry]) -> Role:
    text = entry.get("text", str)
    if text.count("{text}") != 1:
        raise _invalid(f"{entry.name}.text must hold {{text}} once, got {text!r}.")
    prefix = entry.value.get("prefix")
    return Role(
        head=entry.ids("head"),
        image_before=entry.ids("image_before"),
        image_after=entry.ids("image_after"),
        text=text,
        tail=entry.ids("tail"),
        prefix=None if prefix is None else _listed(files, entry.get("prefix", str)),
        max_tiles=entry.count("max_tiles", 40),
    )


def _confidence(entry: _Section) -> ConfidenceSpec:
    return ConfidenceSpec(
        quantile=entry.within("quantile", 0, 1),
        intercept=entry.get("intercept", float),
        excess=entry.within("excess", 0),
        log_photos=entry.get("log_photos", float),
        least_photos=entry.count("least_photos", least=2),
        threshold=entry.within("threshold", 0, 1),
    )


def _inside(name: str) -> str:
    """Return `name` when it is a plain relative path that cannot leave the bundle."""
    if not _NAME.fullmatch(name):
        raise _invalid(f"files names {name!r}, which is not a plain path inside the bundle.")
    return name


def _listed(files: Mapping[str, FileEntry], name: str) -> str:
    if name not in files:
        raise _invalid(f"The manifest uses {name!r} but does not list it under files.")
    return name


def _invalid(message: str) -> MagicError:
    return MagicError(ErrorCode.BUNDLE_INVALID, message, "Install the bundle again, or export it anew.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that comes twice: readers in other languages might take the other one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice in one object")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


class _Section:
    """One JSON object of the manifest, read key by key with errors that say where."""

    def __init__(self, value: object, name: str) -> None:
        if not isinstance(value, dict):
            raise _invalid(f"{name} must be an object, got {type(value).__name__}.")
        self.value: dict[str, Any] = value
        self.name = name

    def get(self, key: str, kind: type[T]) -> T:
        return self._check(self.value.get(key), kind, f"{self.name}.{key}")

    def items(self, key: str, kind: type[T]) -> list[T]:
        values = self.get(key, list)
        return [self._check(value, kind, f"{self.name}.{key}[{place}]") for place, value in enumerate(values)]

    def ids(self, key: str) -> tuple[int, ...]:
        ids = tuple(self.items(key, int))
        if not all(0 <= token < 1 << 31 for token in ids):
            raise _invalid(f"{self.name}.{key} holds a number that is no token id.")
        return ids

    def count(self, key: str, most: int = (1 << 31) - 1, least: int = 1) -> int:
        number = self.get(key, int)
        if not least <= number <= most:
            raise _invalid(f"{self.name}.{key} must be {least} to {most}, got {number}.")
        return number

    def within(self, key: str, least: float, most: float = math.inf) -> float:
        number = self.get(key, float)
        if not least <= number <= most:
            raise _invalid(f"{self.name}.{key} must be {least:g} to {most:g}, got {number:g}.")
        return number

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.get(key, str)
        if value not in choices:
            raise _invalid(f"{self.name}.{key} must be one of {', '.join(choices)}, got {value!r}.")
        return value

    def section(self, key: str) -> _Section:
        return _Section(self.value.get(key), f"{self.name}.{key}")

    def sections(self, key: str) -> list[tuple[str, _Section]]:
        inner = self.section(key)
        return [(name, inner.section(name)) for name in inner.value]

    @staticmethod
    def _check(value: object, kind: type[T], name: str) -> T:
        accepts: Callable[[object], bool] = _ACCEPTS.get(kind, lambda item: isinstance(item, kind))
        if not accepts(value):
            raise _invalid(f"{name} must be {kind.__name__}, got {value!r:.60}.")
        return kind(value) if kind is float else value  # type: ignore[call-arg, return-value]


# bool is an int in Python and NaN is a float: neither is a number that a manifest may hold.
_ACCEPTS: dict[type, Callable[[object], bool]] = {
    int: lambda item: isinstance(item, int) and not isinstance(item, bool) and abs(item) < 1 << 53,
    float: lambda item: isinstance(item, (int, float)) and not isinstance(item, bool) and abs(item) < 1e9,
}
