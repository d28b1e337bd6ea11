"""The networks as their own packages run them in torch: the truth that the graphs are checked against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from tokenizers import Tokenizer
from transformers import BertModel

from magicmm_export.graph import Array


def read_state(weights: Path) -> dict[str, Array]:
    """Return a torch checkpoint as arrays, without running pickled code."""
    state = torch.load(weights, map_location="cpu", weights_only=True)
    return {name: tensor.numpy() for name, tensor in state.items()}


def vision_oracle(weights: Path, pictures: list[Array]) -> tuple[Array, Array]:
    """Return the feature maps [n, 1280, 8, 8] and the logits [n, 1000] of uint8 pictures [256, 256, 3]."""
    network = EfficientNet.from_name("efficientnet-lite2")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    network.eval()
    maps: list[Array] = []
    network._avg_pooling.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0].numpy()))
    logits = []
    with torch.inference_mode():
        for picture in pictures:
            pixels = (torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() - 127) / 128
            logits.append(network(pixels).numpy())
    return np.concatenate(maps), np.concatenate(logits)


def text_oracle(folder: Path, tokenizer: Tokenizer, texts: list[str]) -> Array:
    """Return the unit mean-pooled vectors [n, 384] of texts, one at a time."""
    bert = BertModel.from_pretrained(folder, attn_implementation="eager", add_pooling_layer=False).eval()
    rows = []
    with torch.inference_mode():
        for text in texts:
            hidden = bert(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state
            rows.append(torch.nn.functional.normalize(hidden.mean(1)).numpy())
    return np.concatenate(rows)
