"""The same random weights in llama.cpp, through llama-cpp-python: what users of GGUF files would run.

`pip install llama-cpp-python gguf` builds it (10 minutes and more). Language weights and the vision tower are written
as Q8_0 once. llama.cpp knows no compression, so the vision tower is timed as it is (256 tokens) and the language model
for as many rows as are asked for, with its head for the last one only.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config import ModelConfig

Call = Callable[[], Any]
Tensors = Iterator[tuple[str, NDArray[np.float32]]]
_LAYER = {
    "norm1": ("ln1",), "norm2": ("ln2",), "attn.qkv": ("attn_q", "attn_k", "attn_v"), "attn.proj": ("attn_out",),
    "mlp.fc1": ("ffn_up",), "mlp.fc2": ("ffn_down",),
}  # fmt: skip
"""Modules of a vision layer, and what they are called there."""


def missing() -> str | None:
    """Say why this cannot run here."""
    lacking = [name for name in ("llama_cpp", "gguf") if importlib.util.find_spec(name) is None]
    return f"{lacking[0]} is not installed" if lacking else None


def instructions() -> str:
    """Say which instructions of this processor the build uses."""
    import llama_cpp

    return str(llama_cpp.llama_print_system_info().decode()).strip(" |")


def vision_call(checkpoint: Path, folder: Path, threads: int, pixels: NDArray[np.uint8]) -> Call:
    """Return a call that runs vision tower and projector on one tile, uint8 [1, side, side, 3]."""
    from llama_cpp import llama_cpp, mtmd_cpp

    language, vision = _files(checkpoint, folder)
    model = _model(language)
    settings = mtmd_cpp.mtmd_context_params_default()
    settings.use_gpu, settings.n_threads, settings.print_timings, settings.warmup = False, threads, False, False
    context = mtmd_cpp.mtmd_init_from_file(str(vision).encode(), model, settings)
    if context is None:
        raise SystemExit(f"llama.cpp refuses {vision}.")
    side = pixels.shape[1]
    data = (ctypes.c_uint8 * pixels.size).from_buffer_copy(pixels.tobytes())
    bitmap = mtmd_cpp.mtmd_bitmap_init(side, side, data)
    chunks = mtmd_cpp.mtmd_input_chunks_init()
    marker = mtmd_cpp.mtmd_default_marker()
    text = mtmd_cpp.mtmd_input_text(marker, len(marker), False, True)
    bitmaps = (mtmd_cpp.mtmd_bitmap_p_ctypes * 1)(bitmap)
    if mtmd_cpp.mtmd_tokenize(context, chunks, ctypes.byref(text), bitmaps, 1) != 0:
        raise SystemExit("llama.cpp refuses the picture.")
    count = mtmd_cpp.mtmd_input_chunks_size(chunks)
    parts = [mtmd_cpp.mtmd_input_chunks_get(chunks, place) for place in range(count)]
    pictures = [part for part in parts if mtmd_cpp.mtmd_input_chunk_get_type(part) == 1]
    if len(pictures) != 1:
        raise SystemExit(f"llama.cpp made {len(pictures)} tiles of one.")

    def call() -> None:
        if mtmd_cpp.mtmd_encode_chunk(context, pictures[0]) != 0:
            raise SystemExit("llama.cpp failed on the picture.")

    call.keep = (model, data, bitmap, chunks, llama_cpp)  # type: ignore[attr-defined]
    return call


def language_call(checkpoint: Path, folder: Path, threads: int, embeds: NDArray[np.float32]) -> Call:
    """Return a call that runs the language model on rows [1, s, dim] from scratch, as an embedding of the last one."""
    from llama_cpp import llama_cpp

    model = _model(_files(checkpoint, folder)[0])
    length, dim = embeds.shape[1:]
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = length
    settings.n_threads = settings.n_threads_batch = threads
    settings.embeddings, settings.pooling_type = True, llama_cpp.LLAMA_POOLING_TYPE_NONE
    context = llama_cpp.llama_init_from_model(model, settings)
    batch = llama_cpp.llama_batch_init(length, dim, 1)
    ctypes.memmove(batch.embd, np.ascontiguousarray(embeds[0]).ctypes.data, 4 * length * dim)
    batch.n_tokens = length
    for place in range(length):
        batch.pos[place], batch.n_seq_id[place], batch.seq_id[place][0] = place, 1, 0
        batch.logits[place] = place == length - 1

    def call() -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        if llama_cpp.llama_decode(context, batch) != 0 or not llama_cpp.llama_get_embeddings_ith(context, length - 1):
            raise SystemExit("llama.cpp failed on the rows.")

    call.keep = model  # type: ignore[attr-defined]
    return call


def _model(path: Path) -> Any:
    """Load a model once for all calls."""
    from llama_cpp import llama_cpp, mtmd_cpp

    if path not in _MODELS:
        quiet = llama_cpp.llama_log_callback(lambda *_: None)
        for silence in (llama_cpp.llama_log_set, mtmd_cpp.mtmd_log_set, mtmd_cpp.mtmd_helper_log_set):
            silence(quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        _MODELS[path] = (
            llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params()),
            quiet,
        )
    return _MODELS[path][0]


_MODELS: dict[Path, tuple[Any, Any]] = {}


def _files(checkpoint: Path, folder: Path) -> tuple[Path, Path]:
    """Return the two GGUF files; they are written when they are not there yet."""
    language, vision = folder / "llama-language.gguf", folder / "llama-vision.gguf"
    opened = Checkpoint.open(checkpoint)
    for path, write in ((language, _write_language), (vision, _write_vision)):
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(".partial")
            write(opened, opened.config, aside)
            aside.rename(path)
    return language, vision


def _write_language(checkpoint: Checkpoint, config: ModelConfig, path: Path) -> None:
    import gguf

    shape, writer = config.language, gguf.GGUFWriter(str(path), "qwen2")
    writer.add_block_count(shape.layers)
    writer.add_context_length(2048)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    # A vocabulary of the right size; no text is ever tokenised with it.
    letters = [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324)]
    tokens = [*map(chr, letters), *(f"<{place}>" for place in range(len(letters), shape.vocab_size))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["! !"])
    writer.add_eos_token_id(len(tokens) - 1)
    _store(writer, _language_tensors(checkpoint, config))


def _language_tensors(checkpoint: Checkpoint, config: ModelConfig) -> Tensors:
    names = {
        "language.embed_tokens.weight": "token_embd.weight",
        "language.norm.weight": "output_norm.weight",
    }
    layer = {
        "input_layernorm.weight": "attn_norm.weight", "post_attention_layernorm.weight": "ffn_norm.weight",
        "self_attn.o_proj.weight": "attn_output.weight", "mlp.gate_proj.weight": "ffn_gate.weight",
        "mlp.up_proj.weight": "ffn_up.weight", "mlp.down_proj.weight": "ffn_down.weight",
        **{f"self_attn.{kind}_proj.{what}": f"attn_{kind}.{what}" for kind in "qkv" for what in ("weight", "bias")},
    }  # fmt: skip
    for place in range(config.language.layers):
        names |= {f"language.layers.{place}.{ours}": f"blk.{place}.{theirs}" for ours, theirs in layer.items()}
    for ours, theirs in names.items():
        yield theirs, checkpoint.read(ours).float().numpy()


def _write_vision(checkpoint: Checkpoint, config: ModelConfig, path: Path) -> None:
    import gguf

    shape, writer = config.vision, gguf.GGUFWriter(str(path), "clip")
    writer.add_type("mmproj")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(gguf.VisionProjectorType.INTERNVL)
    writer.add_vision_image_size(shape.image_size)
    writer.add_vision_patch_size(shape.patch_size)
    writer.add_vision_embedding_length(shape.hidden_size)
    writer.add_vision_feed_forward_length(shape.intermediate_size)
    writer.add_vision_block_count(shape.layers)
    writer.add_vision_head_count(shape.heads)
    writer.add_vision_projection_dim(config.dim)
    writer.add_vision_attention_layernorm_eps(shape.norm_eps)
    writer.add_vision_image_mean([0.485, 0.456, 0.406])
    writer.add_vision_image_std([0.229, 0.224, 0.225])
    writer.add_vision_use_gelu(True)
    writer.add_vision_projector_scale_factor(2)
    writer.add_vision_preproc_min_tiles(1)
    writer.add_vision_preproc_max_tiles(1)
    _store(writer, _vision_tensors(checkpoint, config))


def _vision_tensors(checkpoint: Checkpoint, config: ModelConfig) -> Tensors:
    names = {
        "vision.class_embedding": "v.class_embd",
        "vision.position_embedding": "v.position_embd.weight",
        "vision.patch_embedding.weight": "v.patch_embd.weight",
        "vision.patch_embedding.bias": "v.patch_embd.bias",
    }
    for what in ("weight", "bias"):
        for linear, number in (("layer_norm", 0), ("linear_1", 1), ("linear_2", 3)):
            names[f"connector.{linear}.{what}"] = f"mm.model.mlp.{number}.{what}"
    for ours, theirs in names.items():
        values = checkpoint.read(ours).float().numpy()
        yield theirs, values.squeeze() if "embedding" in ours and "patch" not in ours else values
    for place in range(config.vision.layers):
        for module, part in _LAYER.items():
            for what in ("weight", "bias"):
                values = checkpoint.read(f"vision.layers.{place}.{module}.{what}").float().numpy()
                parts = np.split(values, len(part))
                yield from ((f"v.blk.{place}.{name}.{what}", one) for name, one in zip(part, parts, strict=True))
        for which in ("ls1", "ls2"):
            yield f"v.blk.{place}.{which}.weight", checkpoint.read(f"vision.layers.{place}.{which}").float().numpy()


def _store(writer: Any, tensors: Tensors) -> None:
    """Write matrices whose rows are whole blocks as Q8_0, everything else in float32."""
    import gguf

    for name, values in tensors:
        coarse = values.ndim == 2 and values.shape[1] % 32 == 0 and "position" not in name
        kind = gguf.GGMLQuantizationType.Q8_0
        if coarse:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
