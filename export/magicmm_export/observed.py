"""The SDK's encoder over graphs that run piece by piece, for many items at once, with values from inside if wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from magicmm import Bundle
from magicmm.encoders import VisionLanguageEncoder
from magicmm.openvino_runtime import OpenvinoSession
from magicmm.runtime import EXECUTORCH, alternative_graph, open_session, unit_vectors
from magicmm_export.piecewise import PIECE_BYTES, PiecewiseGraph

if TYPE_CHECKING:
    from magicmm.manifest import Role
    from magicmm.runtime import Floats

Inputs = Mapping[str, NDArray[Any]]
OUTPUTS = {"vision": "visual", "language": "vector"}
"""Names of what the parts give."""


@dataclass(frozen=True, slots=True)
class Item:
    """What becomes one vector.

    Attributes:
        role: How the model is asked.
        text: Words, or None.
        pixels: uint8 [tiles, side, side, 3] as `prepare` gives them, or None.
    """

    role: Role
    text: str | None = None
    pixels: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a graph: its inputs, and the watched values and outputs by name."""

    inputs: Inputs
    values: Inputs


class ObservedEncoder(VisionLanguageEncoder):
    """Embeds all items through one piece of a graph before the next one is opened.

    Attributes:
        runs: By part ("vision", "language"), the runs of the last call of `vectors`.
    """

    def __init__(
        self,
        bundle: Bundle,
        watched: Mapping[str, Sequence[str]] | None = None,
        threads: int = 0,
        piece_bytes: int = PIECE_BYTES,
        runtime: str = "onnx",
    ) -> None:
        """Remember what to watch.

        Args:
            bundle: A vision-language bundle.
            watched: Names of values by part; None = outputs only.
            threads: 0 takes all physical cores.
            piece_bytes: Most bytes of weights in memory at once.
            runtime: As for `Embedder.open`. A graph that runs on another one than onnxruntime is opened as a whole.
        """
        super().__init__(bundle, threads, runtime)
        self.runs: dict[str, list[Run]] = {}
        self._watched = watched or {}
        self._threads, self._piece_bytes, self._runtime = threads, piece_bytes, runtime

    def vectors(self, items: Sequence[Item], truncate: bool = False) -> Floats:
        """Return float32 [n, dim], unit rows.

        Raises:
            MagicError: `text_invalid`, `runtime_failed`, and `bundle_invalid` for graphs that cannot be read.
        """
        pixels: list[Inputs] = [{"pixels": one.pixels} for one in items if one.pixels is not None]
        seen = iter(self._pass("vision", pixels))
        visual = [None if one.pixels is None else next(seen).reshape(-1, self._table_spec.dim) for one in items]
        inputs: list[Inputs] = []
        for item, tokens in zip(items, visual, strict=True):
            sequence = self._sequence(item.role, tokens, self._ids(item, tokens, truncate))
            last = np.array([len(sequence) - 1], np.int64)
            inputs.append({"embeds": sequence[None], "last": last, **self._prefix(item.role)})
        rows = self._pass("language", inputs)
        return unit_vectors(np.concatenate(rows), len(items), self.manifest.dim, "language")

    def _ids(self, item: Item, visual: Floats | None, truncate: bool) -> list[int]:
        if item.text is None:
            return []
        role, photo = item.role, visual is not None
        around = (role.head, role.tail, *((role.image_before, role.image_after) if photo else ()))
        reserved = sum(map(len, around)) + (0 if visual is None else len(visual))
        return self.text_ids(item.text, role, reserved, truncate)

    def _pass(self, part: str, inputs: Sequence[Inputs]) -> list[Floats]:
        """Run a graph on all inputs and return its output of each."""
        if not inputs:
            return []
        watched = self._watched.get(part, ())
        if self._runtime == EXECUTORCH:  # a program shows nothing but its output
            session = open_session(self._bundle, part, self._threads, self._runtime)
            output = OUTPUTS[part]
            self.runs[part] = [Run(one, {output: session.run(one)}) for one in inputs]
            return [run.values[output] for run in self.runs[part]]
        whole = alternative_graph(self._bundle, part, self._runtime)
        if whole is None:
            graph = PiecewiseGraph(self._bundle, part, self._threads, self._piece_bytes)
            output, found = graph.output, graph.run(inputs, watched)
        else:
            observed = OpenvinoSession(whole, self._threads, watched)
            output = observed.output_name
            found = [dict(zip([output, *watched], observed.run_watched(one), strict=True)) for one in inputs]
        self.runs[part] = [Run(given, values) for given, values in zip(inputs, found, strict=True)]
        return [np.asarray(values[output], np.float32) for values in found]
