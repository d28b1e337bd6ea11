"""The SDK's encoder over the packages of a bundle, run by the interpreter: for verification, not for speed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from magicmm import ErrorCode, MagicError
from magicmm.runtime import COREML
from magicmm_export.coreml.facts import PackageFacts
from magicmm_export.coreml.interpreter import MilFunction
from magicmm_export.coreml.package import load_spec, read_metadata
from magicmm_export.observed import OUTPUTS, Inputs, ObservedEncoder, Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magicmm import Bundle
    from magicmm.runtime import Floats


def package_path(bundle: Bundle, part: str) -> Path:
    """Return the package of a part: the folder of the file that the manifest names.

    Raises:
        MagicError: `argument_invalid` for a bundle without packages.
    """
    graphs = bundle.manifest.graphs.get(COREML)
    if graphs is None:
        others = ", ".join(sorted(bundle.manifest.graphs)) or "no runtime"
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"{bundle.path} is no bundle for Core ML: its graphs are for {others}.",
            "Give a bundle that was exported with --runtime coreml.",
        )
    return bundle.file(graphs[part]).parent


def package_facts(bundle: Bundle, part: str) -> PackageFacts:
    """Return what the package of a part says of itself.

    Raises:
        MagicError: As `package_path`; `bundle_invalid` for metadata that are not ours.
    """
    return PackageFacts.from_metadata(read_metadata(load_spec(package_path(bundle, part))))


class CoremlEncoder(ObservedEncoder):
    """Embeds all items with one function of one package in memory at a time.

    Attributes:
        overflowed: By part, the operations whose float16 result became infinite in the last call of `vectors`.
    """

    def __init__(self, bundle: Bundle, watched: Mapping[str, Sequence[str]] | None = None) -> None:
        """Remember what to watch: names of values by part; None = outputs only."""
        super().__init__(bundle, watched, runtime=COREML)
        self.overflowed: dict[str, tuple[str, ...]] = {}

    def _pass(self, part: str, inputs: Sequence[Inputs]) -> list[Floats]:
        self.overflowed[part] = ()
        if not inputs:
            return []
        run = self._run_tiles if part == "vision" else self._run_sequences
        found = run(package_path(self._bundle, part), inputs)
        self.runs[part] = [Run(given, values) for given, values in zip(inputs, found, strict=True)]
        return [np.asarray(values[OUTPUTS[part]], np.float32) for values in found]

    def _run_tiles(self, package: Path, inputs: Sequence[Inputs]) -> list[Inputs]:
        function = MilFunction.load(package)
        found: list[Inputs] = []
        for one in inputs:
            tiles = [self._call(function, "vision", {"pixels": tile[None]}) for tile in one["pixels"]]
            found.append({name: np.concatenate([values[name] for values in tiles]) for name in tiles[0]})
        return found

    def _run_sequences(self, package: Path, inputs: Sequence[Inputs]) -> list[Inputs]:
        facts = package_facts(self._bundle, "language")
        lengths = [one["embeds"].shape[1] for one in inputs]
        found: dict[int, Inputs] = {}
        chosen = [bucket_for(length, facts.buckets) for length in lengths]
        for bucket in sorted(set(chosen)):
            function = MilFunction.load(package, facts.buckets[bucket])
            for place, one in enumerate(inputs):
                if chosen[place] == bucket:
                    values = self._call(function, "language", bucket_inputs(one, bucket, facts.prefix))
                    found[place] = {name: _cut(value, bucket, lengths[place]) for name, value in values.items()}
        return [found[place] for place in range(len(inputs))]

    def _call(self, function: MilFunction, part: str, inputs: Inputs) -> Inputs:
        run = function.run(inputs, self._watched.get(part, ()))
        self.overflowed[part] = tuple(dict.fromkeys((*self.overflowed[part], *run.overflowed)))
        return {name: np.asarray(values, np.float32) for name, values in run.values.items()}


def bucket_for(length: int, buckets: Iterable[int]) -> int:
    """Return the shortest bucket that holds a sequence.

    Raises:
        MagicError: `argument_invalid` when none does.
    """
    fitting = [bucket for bucket in buckets if bucket >= length]
    if not fitting:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"A sequence of {length} tokens fits none of the buckets: {', '.join(map(str, sorted(buckets)))}.",
            f"Shorten the text, or export with --buckets that reach {length}.",
        )
    return min(fitting)


def bucket_inputs(given: Inputs, bucket: int, prefix: int) -> dict[str, NDArray[Any]]:
    """Fill one sequence of the SDK up to what a function of a package reads.

    Args:
        given: `embeds` [1, s, D], `last` [1], and keys and values [1, kv_heads, p, head_dim] of the prefix.
        bucket: Length of the function.
        prefix: Length of the prefix that it takes.

    Raises:
        MagicError: `argument_invalid` for a prefix that is too long.
    """
    embeds = given["embeds"]
    past = {name: values for name, values in given.items() if name.startswith("past_")}
    before = next((values.shape[2] for values in past.values()), 0)
    if before > prefix:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"The prefix has {before} tokens, the package takes {prefix}.",
            "Export the bundle anew: package and prefixes do not belong together.",
        )
    found = {
        "embeds": np.pad(embeds, ((0, 0), (0, bucket - embeds.shape[1]), (0, 0))),
        "last": given["last"].astype(np.int32),
    }
    if prefix:
        filled = ((0, 0), (0, 0), (0, prefix - before), (0, 0))
        found |= {"before": np.array([before], np.int32)} | {name: np.pad(one, filled) for name, one in past.items()}
    return found


def _cut(values: NDArray[Any], bucket: int, length: int) -> NDArray[Any]:
    """Drop the rows that only fill the bucket."""
    return values[:, :length] if values.ndim == 3 and values.shape[1] == bucket else values
