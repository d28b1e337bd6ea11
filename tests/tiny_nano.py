"""A checkpoint of the built-in model's shape with few numbers in it, for tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from magicmm_model.nano.config import NanoConfig
from magicmm_model.nano.model import NanoModel
from magicmm_model.nano.storing import CONCEPTS, TOKENIZER, Words, save_nano

if TYPE_CHECKING:
    from transformers import BertModel

TINY = NanoConfig(
    channels=24,
    classes=12,
    kept=3,
    vocab=110,
    positions=48,
    width=16,
    layers=2,
    heads=4,
    inner=32,
    rank=2,
    bank_kept=5,
    encoder_weight=0.6,
    teacher_kept=9,
    matryoshka=(8,),
)
_NAMES = ("green", "blue", "white", "black", "yellow", "photo", "a")
_LONGER = ("a green photo", "a blue photo", "a white photo", "a black photo")
WORDS = Words((("red", "a red photo"), *((name,) for name in (*_NAMES, *_LONGER))), {"a white a": (3, 4, 7)})


def tiny_nano() -> NanoModel:
    """Return a model whose weights are random, adapters zero, and whose bank holds unit vectors."""
    torch.manual_seed(0)
    model = NanoModel(TINY).eval()
    for words in (model.bank.vectors, model.colours.vectors):
        words.copy_(torch.nn.functional.normalize(torch.randn(len(words), TINY.width), dim=-1))
    with torch.no_grad():
        model.connector.classifier.weight.normal_()
        model.connector.table.normal_()
    return model


def tiny_nano_checkpoint(folder: Path) -> Path:
    """Write such a model with the tiny WordPiece tokenizer of the vectors."""
    companions = folder.with_name(folder.name + "-files")
    companions.mkdir()
    shutil.copyfile(Path(__file__).parent / "vectors" / "tiny_tokenizer.json", companions / TOKENIZER)
    (companions / CONCEPTS).write_text(json.dumps(WORDS.to_json()), encoding="utf-8")
    save_nano(tiny_nano().state_dict(), TINY, folder, companions)
    return folder


def tiny_bert(path: Path) -> BertModel:
    """Return a random model of transformers with the same shapes, and write its weights to a safetensors file."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=TINY.vocab,
        hidden_size=TINY.width,
        num_hidden_layers=TINY.layers,
        num_attention_heads=TINY.heads,
        intermediate_size=TINY.inner,
        max_position_embeddings=TINY.positions,
        attn_implementation="eager",
    )
    bert = BertModel(config, add_pooling_layer=False).eval()
    save_file({name: tensor.contiguous() for name, tensor in bert.state_dict().items()}, path)
    return bert
