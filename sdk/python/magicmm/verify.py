"""`Bundle.verify`: run the bundle's golden cases here and say how far this machine drifts from where it was made."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from magicmm.embedder import Embedder
from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from magicmm.bundle import Bundle
    from magicmm.embedder import Matrix, Vector

    Query = tuple[str | None, NDArray[np.uint8] | None]
    """Words, and a photo [height, width, 3]; one of them may be None."""

LEAST_COSINE = 0.999
"""A vector further off than this means another model, another resize or a broken runtime, not rounding."""


@dataclass(frozen=True, slots=True)
class GoldenCheck:
    """One golden case.

    Attributes:
        name: The case.
        inputs_equal: Whether the pixels or token ids are exactly those of the golden file.
        cosine: Between this machine's vector and the golden one.
    """

    name: str
    inputs_equal: bool
    cosine: float

    @property
    def passes(self) -> bool:
        """Whether the case is as good as equal."""
        return self.inputs_equal and self.cosine >= LEAST_COSINE


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `Bundle.verify` found; hashes were right, or there would be an error instead of a report."""

    fingerprint: str
    files: int
    bytes: int
    checks: tuple[GoldenCheck, ...]

    @property
    def passes(self) -> bool:
        """Whether every golden case does; a bundle without any proves nothing."""
        return bool(self.checks) and all(check.passes for check in self.checks)

    @property
    def least_cosine(self) -> float:
        """The furthest drift."""
        return min((check.cosine for check in self.checks), default=1.0)


def verify_bundle(
    bundle: Bundle,
    threads: int = 0,
    embed: Callable[[Sequence[Query]], Matrix] | None = None,
    runtime: str = "onnx",
) -> VerifyReport:
    """Hash every file and run every golden case.

    Args:
        bundle: What to verify.
        threads: Of the model; 0 takes all physical cores.
        embed: What runs the queries; None = an `Embedder`, as on a user's machine.
        runtime: As for `Embedder.open`.

    Raises:
        MagicError: `bundle_invalid` for a wrong hash or an unreadable golden file, `runtime_failed`.
    """
    bundle.check_hashes()
    embedder = Embedder.open(bundle, threads, runtime)
    try:
        cases = json.loads(bundle.file(bundle.manifest.golden).read_text(encoding="utf-8"))["cases"]
        queries = [_query(bundle, case) for case in cases]
        vectors = embed(queries) if embed else [embedder.embed_query(*query) for query in queries]
        checks = tuple(map(partial(_check, embedder, runtime), cases, queries, vectors))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MagicError(
            ErrorCode.BUNDLE_INVALID,
            f"The golden cases of {bundle.path} cannot be read ({error!r}).",
            "Export it anew.",
        ) from None
    finally:
        embedder.release()
    return VerifyReport(bundle.fingerprint, len(bundle.manifest.files), bundle.total_bytes, checks)


def golden_case(
    embedder: Embedder, name: str, text: str | None, image: tuple[str, Any] | None, vectors: Mapping[str, Vector]
) -> dict[str, Any]:
    """Return one case for `golden/cases.json`: the inputs, what they become, and the vector.

    Args:
        embedder: The model; the ids and pixels that it makes now are what `verify` will expect.
        name: The case's name.
        text: The words, if any.
        image: The name of a raw RGB file inside the bundle and its uint8 [h, w, 3] content, if any.
        vectors: Of the two, by the same model, by runtime: the first is the bundle's own.
    """
    case: dict[str, Any] = {"name": name}
    if text is not None:
        case |= {"text": text, "ids": embedder.token_ids(text)}
    if image is not None:
        file, rgb = image
        case |= {"image": file, "height": rgb.shape[0], "width": rgb.shape[1], "pixels_sha256": _digest(embedder, rgb)}
    rounded = {runtime: [round(float(value), 7) for value in vector] for runtime, vector in vectors.items()}
    case["vector"] = rounded.pop(next(iter(rounded)))
    return case | ({"alternatives": rounded} if rounded else {})


def _query(bundle: Bundle, case: dict[str, Any]) -> Query:
    if "image" not in case:
        return case.get("text"), None
    raw = np.frombuffer(bundle.file(case["image"]).read_bytes(), np.uint8)
    return case.get("text"), raw.reshape(case["height"], case["width"], 3)


def _check(embedder: Embedder, runtime: str, case: dict[str, Any], query: Query, vector: Vector) -> GoldenCheck:
    (text, rgb), equal = query, True
    if text is not None:
        equal &= embedder.token_ids(text) == case["ids"]
    if rgb is not None:
        equal &= _digest(embedder, rgb) == case["pixels_sha256"]
    golden = np.array(case.get("alternatives", {}).get(runtime, case["vector"]), dtype=np.float64)
    if not np.isfinite(golden).all() or not golden.any():
        raise ValueError(f"the vector of {case['name']!r} has no direction")
    cosine = vector.astype(np.float64) @ golden / np.linalg.norm(golden)
    return GoldenCheck(case["name"], bool(equal), float(cosine))


def _digest(embedder: Embedder, rgb: Any) -> str:
    return hashlib.sha256(embedder.prepare(rgb).tobytes()).hexdigest()
