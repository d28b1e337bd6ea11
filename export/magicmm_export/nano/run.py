"""Run graphs while they are built: in memory, with inner values exposed, one thread."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper
from onnxruntime import InferenceSession, SessionOptions
from tokenizers import Tokenizer

from magicmm_export.graph import Array

MOST_TOKENS = 256
BATCH = 16


def open_model(model: ModelProto | Path, extra_outputs: Iterable[str] = ()) -> InferenceSession:
    """Open a model from memory or from its file; inner values of one in memory may be added to its outputs."""
    options = SessionOptions()
    options.intra_op_num_threads = 1  # one order of summation, so that two builds agree
    if isinstance(model, Path):
        return InferenceSession(model, options, providers=["CPUExecutionProvider"])
    exposed = ModelProto()
    exposed.CopyFrom(model)
    for name in extra_outputs:
        exposed.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])


class TextEncoder:
    """Encode texts with a text graph, and keep the largest magnitude per channel of its further outputs."""

    def __init__(self, session: InferenceSession, tokenizer: Tokenizer) -> None:
        """Wrap an open session; the tokenizer must neither pad nor truncate."""
        self._session = session
        self._tokenizer = tokenizer
        self._observed = [output.name for output in session.get_outputs() if output.name != "vector"]
        self.peaks: dict[str, Array] = {}

    def __call__(self, texts: list[str]) -> Array:
        """Return unit vectors [n, 384]; texts of one length share a batch, so nothing is padded."""
        by_length: defaultdict[int, list[tuple[int, list[int]]]] = defaultdict(list)
        for place, encoding in enumerate(self._tokenizer.encode_batch(texts)):
            ids = _truncate(encoding.ids)
            by_length[len(ids)].append((place, ids))
        vectors = np.empty((len(texts), 384), np.float32)
        for group in by_length.values():
            for start in range(0, len(group), BATCH):
                batch = group[start : start + BATCH]
                vectors[[place for place, _ in batch]] = self._run(np.array([ids for _, ids in batch], np.int64))
        return vectors

    def _run(self, ids: Array) -> Array:
        outputs = self._session.run(["vector", *self._observed], {"ids": ids, "mask": np.ones_like(ids)})
        for name, value in zip(self._observed, outputs[1:], strict=True):
            peak = np.abs(value).reshape(-1, value.shape[-1]).max(0)
            self.peaks[name] = np.maximum(self.peaks.get(name, peak), peak)
        return np.asarray(outputs[0])


def _truncate(ids: list[int]) -> list[int]:
    """Keep the first tokens and the closing [SEP]."""
    return ids if len(ids) <= MOST_TOKENS else [*ids[: MOST_TOKENS - 1], ids[-1]]
