"""A dual encoder of the SDK over the packages of a bundle, run by the interpreter: for verification, not for speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from magicmm import Bundle, Embedder
from magicmm.encoders import DualEncoder
from magicmm.runtime import COREML
from magicmm_export.coreml.encoder import bucket_for, package_facts, package_path
from magicmm_export.coreml.interpreter import MilFunction

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magicmm.runtime import Floats, Session


VECTOR = "vector"
"""What every part gives."""


class PackageSession:
    """One part of a bundle; a function of it is read for each item.

    Attributes:
        input_names: Of the part, as every runtime calls them.
        overflowed: The operations whose float16 result became infinite in any run.
    """

    def __init__(self, bundle: Bundle, part: str) -> None:
        """Find the package; nothing is loaded yet.

        Raises:
            MagicError: As `package_path` and `package_facts`.
        """
        self._path, self._facts = package_path(bundle, part), package_facts(bundle, part)
        before = ("visual",) if part == "composed" else ()
        self.input_names = frozenset((*before, "ids", "mask") if self._facts.buckets else ("pixels",))
        self.overflowed: tuple[str, ...] = ()

    def run(self, inputs: Mapping[str, NDArray[Any]], output: str | None = None) -> Floats:
        """Return the vector, or the output that is named, float32, items along the first axis; each runs alone.

        Raises:
            MagicError: `argument_invalid` for a text that is longer than every bucket, else as `MilFunction`.
        """
        name = output or VECTOR
        return self._run_texts(inputs, name) if self._facts.buckets else self._run_photos(inputs["pixels"], name)

    def _run_photos(self, pixels: NDArray[Any], output: str) -> Floats:
        function = MilFunction.load(self._path)
        views = function.inputs["pixels"][0][0]
        rows = [
            self._value(function, {"pixels": pixels[start : start + views].astype(np.float32)}, output)
            for start in range(0, len(pixels), views)
        ]
        return np.concatenate(rows)

    def _run_texts(self, inputs: Mapping[str, NDArray[Any]], output: str) -> Floats:
        length = inputs["ids"].shape[1]
        bucket = bucket_for(length, self._facts.buckets)
        function = MilFunction.load(self._path, self._facts.buckets[bucket])
        given = {name: inputs[name] for name in self.input_names}
        for name in ("ids", "mask"):
            given[name] = np.pad(inputs[name], ((0, 0), (0, bucket - length))).astype(np.int32)
        rows = [
            self._value(function, {name: values[at : at + 1] for name, values in given.items()}, output)
            for at in range(len(inputs["ids"]))
        ]
        return np.concatenate(rows)

    def _value(self, function: MilFunction, inputs: Mapping[str, NDArray[Any]], output: str) -> Floats:
        run = function.run(inputs)
        self.overflowed = tuple(dict.fromkeys((*self.overflowed, *run.overflowed)))
        return np.asarray(run.values[output], np.float32)


class PackageEncoder(DualEncoder):
    """The SDK's dual encoder with interpreted packages for graphs."""

    def __init__(self, bundle: Bundle) -> None:
        """Remember the bundle; nothing is loaded yet."""
        super().__init__(bundle, 0, COREML)
        self._packages: dict[str, PackageSession] = {}

    def session(self, part: str) -> Session:
        """Return a part, opened when it is first asked for."""
        if part not in self._packages:
            self._packages[part] = PackageSession(self._bundle, part)
        return self._packages[part]


def package_embedder(bundle: Bundle) -> Embedder:
    """Return an embedder for a dual encoder in Core ML packages."""
    return Embedder(bundle, PackageEncoder(bundle))
