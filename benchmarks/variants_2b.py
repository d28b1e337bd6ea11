"""The ways to run vision and language that `latency_2b.py` compares, each as a call without arguments."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import llama_2b
from lower_2b import made
from magicmm import Bundle
from magicmm.openvino_runtime import OpenvinoSession
from magicmm.runtime import OnnxSession, Session, open_session
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config import Head, ModelConfig
from vanilla_2b import missing, vanilla_graph

Floats = NDArray[np.float32]
Call = Callable[[], Any]
INT8, OPENVINO, FLOAT32, INT4, SMALL, TORCH, VANILLA, LLAMA = (
    "ours int8",
    "ours int8, OpenVINO vision",
    "ours float32",
    "ours int4, unpacked to int8",
    "ours int4, low memory",
    "torch bf16",
    "vanilla int8",
    "llama.cpp Q8_0",
)
RECIPES = {INT8: ("int8", False), FLOAT32: ("float32", False), INT4: ("int4", False), SMALL: ("int4", True)}
"""Recipe, and whether 4-bit weights stay as they are at run time."""


@dataclass(frozen=True, slots=True)
class Look:
    """One way to look at a photo."""

    image_size: int
    compression: int

    def tokens(self, config: ModelConfig) -> int:
        """Return the number of visual tokens."""
        return config.variant(image_size=self.image_size, compression=self.compression).tile_tokens


@dataclass(frozen=True)
class Workshop:
    """Where the models of one size come from; what has to be written is written once and kept.

    Attributes:
        checkpoint: Folder of the checkpoint.
        folder: Where bundles and graphs are kept.
        vanilla_layers: How many language layers the vanilla graphs have; the whole model is extrapolated.
    """

    checkpoint: Path
    folder: Path
    vanilla_layers: tuple[int, ...]

    @cached_property
    def config(self) -> ModelConfig:
        """The shapes of the checkpoint."""
        return Checkpoint.open(self.checkpoint).config

    def bundle(self, name: str) -> Path:
        """Return a bundle of ours, at the checkpoint's own tile side and with compression."""
        return made(self.bundle_path(name), "bundle", self.checkpoint, *bundle_arguments(name))

    def bundle_path(self, name: str) -> Path:
        """Return where it is kept."""
        recipe, low_memory = RECIPES[name]
        return self.folder / f"{recipe}{'-low-memory' if low_memory else ''}.magicmm"

    def session(self, name: str, part: str, threads: int) -> Session:
        """Open one graph of a bundle as the SDK does; `OPENVINO` has the language model of `INT8`."""
        if name == OPENVINO:
            own = Look(self.config.vision.image_size, 2)
            return self.vision_session(name, own, threads) if part == "vision" else self.session(INT8, part, threads)
        return open_session(Bundle.load(self.bundle(name)), part, threads, "onnx")

    def vision_session(self, name: str, look: Look, threads: int) -> Session:
        """Open the vision graph for one look."""
        if name == OPENVINO:
            return OpenvinoSession(self.openvino_graph(look), threads)
        if look == Look(self.config.vision.image_size, 2):
            return self.session(name, "vision", threads)
        recipe, _ = RECIPES[name]
        target = self.folder / f"vision-{recipe}-{look.image_size}-{look.compression}"
        made(
            target, "vision", self.checkpoint, "--recipe", recipe,
            "--image-size", str(look.image_size), "--compression", str(look.compression),
        )  # fmt: skip
        return OnnxSession(target / "vision.onnx", threads)

    def openvino_graph(self, look: Look) -> Path:
        """Return a vision graph for OpenVINO, calibrated on made-up photos."""
        target = self.folder / f"vision-openvino-{look.image_size}-{look.compression}"
        made(
            target, "vision", self.checkpoint, "--openvino",
            "--image-size", str(look.image_size), "--compression", str(look.compression),
        )  # fmt: skip
        return target / "vision.openvino.onnx"


def bundle_arguments(name: str) -> list[str]:
    """Return how `lower_2b.py` is asked for a bundle."""
    recipe, low_memory = RECIPES[name]
    return ["--recipe", recipe, "--compression", "2", *(["--low-memory"] if low_memory else [])]


def photo(side: int, seed: int = 0) -> NDArray[np.uint8]:
    """Make up a photo of smooth colours and noise: uint8 [1, side, side, 3]."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 200, (7, 7, 3))
    grown = np.kron(blocks, np.ones((side // 7 + 1, side // 7 + 1, 1), np.int64))[:side, :side]
    return (grown + rng.integers(0, 56, grown.shape)).astype(np.uint8)[None]


def vision_calls(workshop: Workshop, looks: Mapping[str, tuple[Look, ...]], threads: int) -> dict[str, Call]:
    """Return calls of the vision part by "variant; case"; with vanilla among the keys, that too."""
    calls: dict[str, Call] = {}
    for name, wanted in looks.items():
        for look in wanted:
            pixels = photo(look.image_size)
            case = f"{name}; {case_name(workshop.config, look)}"
            if name == TORCH:
                calls[case] = _torch_vision(workshop, look, pixels)
            elif name == VANILLA:
                graph = vanilla_graph(workshop.checkpoint, workshop.folder, "vision", workshop.config.vision.layers)
                calls[case] = _plain(graph, threads, pixels)
            elif name == LLAMA:
                calls[case] = llama_2b.vision_call(workshop.checkpoint, workshop.folder, threads, pixels)
            else:
                calls[case] = _session_call(workshop.vision_session(name, look, threads), {"pixels": pixels})
    return calls


def case_name(config: ModelConfig, look: Look) -> str:
    """Name a look."""
    return f"{look.image_size} px, {look.tokens(config)} tokens"


def language_calls(
    workshop: Workshop, lengths: Mapping[str, tuple[tuple[int, int], ...]], threads: int
) -> dict[str, Call]:
    """Return calls of the language part by "variant; live tokens after prefix tokens".

    Args:
        workshop: Where the models come from.
        lengths: For each variant, pairs of live tokens and prefix tokens.
        threads: Of every variant.
    """
    calls: dict[str, Call] = {}
    rng = np.random.default_rng(0)
    for name, wanted in lengths.items():
        if name == TORCH:
            model = _torch_model(workshop, "language")
        elif name not in (VANILLA, LLAMA):
            session = workshop.session(name, "language", threads)
        for live, before in wanted:
            embeds = rng.standard_normal((1, live, workshop.config.dim), np.float32)
            case = f"{name}; {length_name(live, before)}"
            if name == TORCH:
                calls[case] = _torch_language(model, embeds)
            elif name == VANILLA:
                for layers in workshop.vanilla_layers:
                    graph = vanilla_graph(workshop.checkpoint, workshop.folder, "language", layers)
                    calls[f"{case}, {layers} layers"] = _plain(graph, threads, embeds, np.array([live - 1]))
            elif name == LLAMA:
                calls[case] = llama_2b.language_call(workshop.checkpoint, workshop.folder, threads, embeds)
            else:
                calls[case] = _session_call(session, language_inputs(workshop.config, embeds, before))
    return calls


def length_name(live: int, before: int) -> str:
    """Name a length."""
    return f"{live} tokens" + (f" after {before}" if before else "")


def language_inputs(config: ModelConfig, embeds: Floats, before: int = 0) -> dict[str, NDArray[Any]]:
    """Return the inputs of our language graph, with made-up keys and values of a prefix."""
    shape = config.language
    past = np.random.default_rng(1).standard_normal((1, shape.kv_heads, before, shape.head_dim), np.float32)
    names = (f"past_{kind}_{place}" for place in range(shape.layers) for kind in ("key", "value"))
    return {"embeds": embeds, "last": np.array([embeds.shape[1] - 1])} | dict.fromkeys(names, past)


def absent(name: str) -> str | None:
    """Say why a variant cannot be measured here."""
    if name == OPENVINO and importlib.util.find_spec("openvino") is None:
        return "it needs pip install 'magicmm[openvino]'"
    return {VANILLA: missing, LLAMA: llama_2b.missing}.get(name, lambda: None)()


def _session_call(session: Session, inputs: dict[str, NDArray[Any]]) -> Call:
    return lambda: session.run(inputs)


def _plain(graph: Path, threads: int, *inputs: NDArray[Any]) -> Call:
    """Run a graph with onnxruntime's own defaults."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    feed = {entry.name: value for entry, value in zip(session.get_inputs(), inputs, strict=True)}
    return lambda: session.run(None, feed)


def _torch_model(workshop: Workshop, part: str, look: Look | None = None) -> Any:
    """Return the model in bfloat16 with the weights of one part; the others have none."""
    import torch

    from magicmm_model.model import MagicModel
    from magicmm_model.naming import tensor_shapes
    from magicmm_model.vision import resize_positions

    checkpoint = Checkpoint.open(workshop.checkpoint)
    variant = {"image_size": look.image_size, "compression": look.compression} if look else {}
    config = checkpoint.config.variant(head=Head.NONE, **variant)
    owned = ("vision.", "connector.") if part == "vision" else ("language.layers.", "language.norm.")
    values = {name: checkpoint.read(name).bfloat16() for name in tensor_shapes(config) if name.startswith(owned)}
    if part == "vision":
        table = "vision.position_embedding"
        values[table] = resize_positions(values[table], config.vision.grid)
    with torch.device("meta"):
        model = MagicModel(config)
    model.load_state_dict(values, strict=False, assign=True)
    return model.requires_grad_(False).eval()


def _torch_vision(workshop: Workshop, look: Look, pixels: NDArray[np.uint8]) -> Call:
    import torch

    model, tensor = _torch_model(workshop, "vision", look), torch.from_numpy(pixels)

    def call() -> Any:
        with torch.inference_mode():
            return model.visual_tokens(tensor)

    return call


def _torch_language(model: Any, embeds: Floats) -> Call:
    import torch

    rows, last = torch.from_numpy(embeds).bfloat16(), torch.tensor([embeds.shape[1] - 1])

    def call() -> Any:
        with torch.inference_mode():
            return model.vectors(rows, last)

    return call
