"""Programs on ExecuTorch's XNNPACK backend: the optional extra `magicmm[executorch]`.

A program takes one tile, one photo or one sequence at a time, of fixed lengths: sequences are padded on the right to
the next length, prefixes to the longest one (docs/FORMAT.md). Phones run the same file.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import threading
import warnings
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_INSTALL = "pip install 'magicmm[executorch]'"
_LOCK = threading.Lock()
"""ExecuTorch's threads and the memory of a program's methods are shared; one thing runs at a time."""


def require_executorch() -> None:
    """Check that the package is there; it is not imported.

    Raises:
        MagicError: `runtime_failed` with the command that installs it.
    """
    if importlib.util.find_spec("executorch") is None:
        raise MagicError(ErrorCode.RUNTIME_FAILED, "ExecuTorch is not installed.", f"Run: {_INSTALL}")


def method_name(part: str, length: int) -> str:
    """Return the name of the method that runs a part on sequences of a length, such as "text_64"."""
    return f"{part}_{length}"


class ExecutorchSession:
    """One part of a program: its methods, loaded when they are first needed.

    Attributes:
        input_names: Of the part, as every runtime calls them.
        lengths: Tokens that the methods of a part take which reads sequences, shortest first; empty for other parts.
    """

    def __init__(self, path: Path, part: str, threads: int) -> None:
        """Open the program; its weights are read when a method is loaded.

        Args:
            path: The .pte file.
            part: "vision", "language", "image", "text" or "composed".
            threads: 0 leaves the number as it is. It holds for the whole process.

        Raises:
            MagicError: `runtime_failed` when the package is missing or refuses the file, or the program lacks the part.
        """
        require_executorch()
        self._path, self._part = path, part
        self._opened: Any = None
        try:
            with _LOCK, quiet():
                self._runtime = importlib.import_module("executorch.runtime").Runtime.get()
                importlib.import_module("executorch.kernels.quantized")
                self._tensor = importlib.import_module("torch").from_numpy  # what the binding takes
                _set_threads(threads)
                program = self._program()
        except Exception as error:  # the runtime raises RuntimeError, ImportError and its own
            raise _failed(f"ExecuTorch refuses {path}", error) from None
        names = sorted(program.method_names)
        # Parts that read sequences have a method for each length (`method_name`), others one that is called as they.
        parted = (name.rpartition("_") for name in names)
        self.lengths = tuple(sorted(int(length) for owner, _, length in parted if owner == part))
        if not self.lengths and part not in names:
            raise _failed(f"{path} has no method for {part}", ValueError(f"it has {', '.join(names) or 'none'}"))
        meta = program.metadata(method_name(part, self.lengths[0]) if self.lengths else part)
        self._views = meta.input_tensor_meta(0).sizes()[0]
        self._past: tuple[str, ...] = ()
        self._room = 0
        if part == "language":
            layers = range((meta.num_inputs() - 3) // 2)
            self._past = tuple(f"past_{kind}_{layer}" for layer in layers for kind in ("key", "value"))
            self._room = meta.input_tensor_meta(3).sizes()[2] if self._past else 0
        inputs = {"language": ("embeds", "last", *self._past), "text": ("ids", "mask")}
        inputs["composed"] = ("visual", "ids", "mask")
        self.input_names = frozenset(inputs.get(part, ("pixels",)))

    def run(self, inputs: Mapping[str, NDArray[Any]], output: str | None = None) -> Floats:
        """Return the first output, or the one that is named, as float32, items along the first axis; each runs alone.

        Raises:
            MagicError: `text_invalid` for a sequence longer than every method, `runtime_failed` with what ExecuTorch
                said.
        """
        if self._part == "language":
            return self._run_embeds(inputs)
        if self._part in ("text", "composed"):
            return self._run_ids(inputs)
        pixels, views = inputs["pixels"], self._views
        items: list[list[NDArray[Any]]] = [[pixels[at : at + views]] for at in range(0, len(pixels), views)]
        return self._stacked(self._part, items, place=int(output == "visual"))

    def _run_embeds(self, inputs: Mapping[str, NDArray[Any]]) -> Floats:
        embeds = inputs["embeds"]
        length = self._length_for(embeds)
        behind = self._prefix(inputs)
        padded = _filled(embeds, length)
        places = np.asarray(inputs["last"], np.int64)
        items: list[list[NDArray[Any]]] = [
            [padded[at : at + 1], places[at : at + 1], *behind] for at in range(len(embeds))
        ]
        return self._stacked(method_name(self._part, length), items)

    def _run_ids(self, inputs: Mapping[str, NDArray[Any]]) -> Floats:
        length = self._length_for(inputs["ids"])
        ids, mask = (_filled(inputs[name], length) for name in ("ids", "mask"))
        before = [inputs["visual"]] if self._part == "composed" else []
        items = [[values[at : at + 1] for values in (*before, ids, mask)] for at in range(len(ids))]
        return self._stacked(method_name(self._part, length), items)

    def _length_for(self, sequences: NDArray[Any]) -> int:
        """Return the shortest length that holds sequences [n, s, ...]."""
        length = next((length for length in self.lengths if length >= sequences.shape[1]), None)
        if length is None:
            raise MagicError(
                ErrorCode.TEXT_INVALID,
                f"The sequence has {sequences.shape[1]} tokens, this program takes up to {self.lengths[-1]}.",
                "Shorten the text, or export the bundle with a larger bucket.",
            )
        return length

    def close(self) -> None:
        """Give back what the methods hold; the next run loads what it needs again."""
        self._opened = None

    def _program(self) -> Any:
        if self._opened is None:
            self._opened = self._runtime.load_program(self._path)
            _OPEN.add(self)
        return self._opened

    def _stacked(self, name: str, items: list[list[NDArray[Any]]], place: int = 0) -> Floats:
        try:
            with _LOCK, quiet():
                method = self._program().load_method(name)
                rows = [self._execute(method, item, place) for item in items]
            return np.concatenate(rows)
        except Exception as error:  # as above
            raise _failed("ExecuTorch failed", error) from None

    def _execute(self, method: Any, arrays: list[NDArray[Any]], place: int) -> Floats:
        for number, array in enumerate(arrays):
            wanted = tuple(method.metadata.input_tensor_meta(number).sizes())
            if array.shape != wanted:  # the runtime would say only that a check failed
                raise ValueError(f"input {number} is {list(array.shape)}, not {list(wanted)}")
        tensors = [self._tensor(np.require(array, requirements=["C", "W"])) for array in arrays]
        return np.array(method.execute(tensors)[place].numpy(), dtype=np.float32)

    def _prefix(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the length of the prefix and its keys and values, padded to what the methods take."""
        if not self._past:
            return []
        before = inputs[self._past[0]].shape[2]
        if before > self._room:
            raise _failed("ExecuTorch failed", ValueError(f"the prefix is longer than {self._room} tokens"))
        behind = ((0, 0), (0, 0), (0, self._room - before), (0, 0))
        return [np.array([before], np.int64), *(np.pad(inputs[name], behind) for name in self._past)]


def _filled(sequences: NDArray[Any], length: int) -> NDArray[Any]:
    """Fill sequences [n, s, ...] up with zeros on the right."""
    return np.pad(sequences, [(0, 0), (0, length - sequences.shape[1]), *[(0, 0)] * (sequences.ndim - 2)])


_OPEN: weakref.WeakSet[ExecutorchSession] = weakref.WeakSet()


def _set_threads(threads: int) -> None:
    """Change the number of threads of the process, where it is another one."""
    binding = importlib.import_module("executorch.extension.pybindings.portable_lib")
    if threads and binding._threadpool_get_thread_count() != threads:
        for session in list(_OPEN):  # loaded methods would go on using the threads that are about to end
            session.close()
        binding._unsafe_reset_threadpool(threads)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch and ExecuTorch say about themselves from the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _failed(what: str, error: Exception) -> MagicError:
    said = " ".join(str(error).split())[:300]
    return MagicError(ErrorCode.RUNTIME_FAILED, f"{what}: {said}.", "Run: magicmm verify BUNDLE --runtime executorch")
