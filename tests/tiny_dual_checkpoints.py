"""Tiny CLIP and SigLIP checkpoints, written by transformers and tokenizers themselves. All weights are random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

FAMILIES = ("clip", "siglip")
SIDE, LENGTH, VOCABULARY = 32, 24, 100
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = (
    *("a", "dog", "two", "people", "on", "beach", "at", "sunset", "red", "car", "receipt", "snow", "the", "mountains"),
    *("my", "old", "kitchen", "photo", "of", ",", "seen", "from", "above", "night", "blue"),
)
_TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "projection_dim": 24,
}
_TEXT = _TOWER | {"vocab_size": VOCABULARY, "max_position_embeddings": LENGTH}
_VISION = _TOWER | {"image_size": SIDE, "patch_size": 8}


def write_dual_checkpoint(folder: Path, family: str, seed: int = 0) -> Path:
    """Write model, tokenizer and preprocessor in the layout of transformers."""
    torch.manual_seed(seed)
    model: Any
    processor: Any
    if family == "clip":
        ends = {"bos_token_id": 98, "eos_token_id": 99, "pad_token_id": 99}
        config = {"text_config": _TEXT | ends, "vision_config": _VISION, "projection_dim": 24}
        model = CLIPModel(CLIPConfig.from_dict(config))
        processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    else:
        text = _TEXT | {"pad_token_id": 1, "projection_size": 32}
        model = SiglipModel(SiglipConfig.from_dict({"text_config": text, "vision_config": _VISION}))
        processor = SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    with torch.no_grad():
        for name, value in model.named_parameters():  # norms and biases too, so that a forgotten one shows
            value.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    _write_tokenizer(folder, family)
    return folder


def load_model(folder: Path, family: str) -> Any:
    """Return transformers' own model of a folder."""
    kind = CLIPModel if family == "clip" else SiglipModel
    return kind.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()


def expected_images(folder: Path, family: str, pictures: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Return what transformers says of pictures, unit rows."""
    kind = CLIPImageProcessor if family == "clip" else SiglipImageProcessor
    inputs = kind.from_pretrained(folder)([Image.fromarray(one) for one in pictures], return_tensors="pt")
    with torch.inference_mode():
        return _unit(load_model(folder, family).get_image_features(**inputs))


def expected_texts(folder: Path, family: str, texts: list[str]) -> NDArray[np.float32]:
    """Return what transformers says of texts, tokenized and padded by its own tokenizer as each family wants it."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    padding = "longest" if family == "clip" else "max_length"
    inputs = tokenizer(texts, padding=padding, max_length=LENGTH, truncation=True, return_tensors="pt")
    names = ("input_ids", "attention_mask") if family == "clip" else ("input_ids",)
    with torch.inference_mode():
        return _unit(load_model(folder, family).get_text_features(**{name: inputs[name] for name in names}))


def _write_tokenizer(folder: Path, family: str) -> None:
    """Write words from id 2 on, between CLIP's start and end, or before the end that SigLIP also fills rows with."""
    special = {"<unk>": 0, START: 98, END: 99} if family == "clip" else {"<unk>": 0, "</s>": 1}
    vocabulary = special | {word: 2 + place for place, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(special))
    if family == "clip":
        tokenizer.post_processor = processors.RobertaProcessing((END, 99), (START, 98))
        pad = END
    else:
        tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
        pad = "</s>"
    wrapper: Any = PreTrainedTokenizerFast
    wrapped = wrapper(tokenizer_object=tokenizer, pad_token=pad, unk_token="<unk>")
    wrapped.save_pretrained(folder)


def _unit(features: torch.Tensor) -> NDArray[np.float32]:
    return torch.nn.functional.normalize(features, dim=-1).numpy()
