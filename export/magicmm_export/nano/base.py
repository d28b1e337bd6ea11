"""The checkpoint that training of the built-in model starts from: pretrained parts, put together and not yet trained.

python -m magicmm_export.nano.base FOLDER
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from magicmm_export.graph import Array
from magicmm_export.nano import packages
from magicmm_export.nano.concepts import Concept, concept_bank, read_concepts, read_scenes, with_scenes
from magicmm_export.nano.efficientnet import read_network
from magicmm_model.nano.colours import COLOURS, centred_words
from magicmm_model.nano.config import NanoConfig
from magicmm_model.nano.model import NanoModel, filled
from magicmm_model.nano.storing import CONCEPTS, TOKENIZER, Words, load_tokenizer, save_nano

SEED = 0
BATCH = 32
_LAYER = {
    "attention.self.query": "query.base",
    "attention.self.key": "key.base",
    "attention.self.value": "value.base",
    "attention.output.dense": "mixed.base",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "inner.base",
    "output.dense": "outer.base",
    "output.LayerNorm": "norm",
}
"""Parts of a layer of BERT, and of ours."""


def write_base(target: Path) -> NanoModel:
    """Write the checkpoint from pinned packages, and return its model.

    Raises:
        PackageError: A pinned package is missing or differs.
        MagicError: See `save_nano`.
    """
    from magicmm_export.nano.oracle import read_state  # it imports the network's package

    torch.manual_seed(SEED)  # the first matrices of the adapters
    model = NanoModel(NanoConfig()).eval()
    tokenizer = load_tokenizer(packages.locate(packages.TOKENIZER))
    read_encoder(model, packages.locate(packages.TEXT_WEIGHTS))
    network = read_network(read_state(packages.locate(packages.VISION_WEIGHTS)))
    concepts = read_concepts()
    scenes = read_scenes(concepts)
    with torch.no_grad():
        model.connector.classifier.weight.copy_(torch.from_numpy(network.classes))
        model.connector.classifier.bias.copy_(torch.from_numpy(network.class_bias))
        encode = text_encoder(model, tokenizer)
        bank = with_scenes(concept_bank(concepts, encode), scenes, encode)
        model.bank.vectors.copy_(torch.from_numpy(bank))
        model.colours.vectors.copy_(torch.from_numpy(centred_words(encode(list(COLOURS)))))
        rows = model.encoder.words.weight.numpy()
        model.connector.table.copy_(torch.from_numpy(soft_words(concepts, tokenizer, rows)))
    with TemporaryDirectory() as name:
        companions = Path(name)
        shutil.copyfile(packages.locate(packages.TOKENIZER), companions / TOKENIZER)
        words = Words(tuple(concept.texts for concept in concepts), scenes)
        (companions / CONCEPTS).write_text(json.dumps(words.to_json(), indent=0) + "\n", encoding="utf-8")
        save_nano(model.state_dict(), model.config, target, companions)
    return model


def read_encoder(model: NanoModel, weights: Path) -> None:
    """Copy MiniLM into a model; the row of the only token type joins the positions, and adapters stay as they are."""
    bert = load_file(weights)
    token_type = bert["embeddings.token_type_embeddings.weight"][0]
    state = {
        "words.weight": bert["embeddings.word_embeddings.weight"],
        "positions.weight": bert["embeddings.position_embeddings.weight"] + token_type,
        "norm.weight": bert["embeddings.LayerNorm.weight"],
        "norm.bias": bert["embeddings.LayerNorm.bias"],
    }
    for place in range(model.config.layers):
        for theirs, ours in _LAYER.items():
            for kind in ("weight", "bias"):
                state[f"layers.{place}.{ours}.{kind}"] = bert[f"encoder.layer.{place}.{theirs}.{kind}"]
    adapters = {name: value for name, value in model.encoder.state_dict().items() if name.endswith((".down", ".up"))}
    model.encoder.load_state_dict(state | adapters)


def text_encoder(model: NanoModel, tokenizer: Tokenizer) -> Callable[[list[str]], Array]:
    """Return a function from texts to unit vectors [n, width] of the encoder without adapters."""

    @torch.inference_mode()
    def encode(texts: list[str]) -> Array:
        ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        found = np.empty((len(texts), model.config.width), np.float32)
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))  # little to fill up
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            found[places] = model(*filled([ids[place] for place in places])).numpy()
        return found

    return encode


def soft_words(concepts: Sequence[Concept], tokenizer: Tokenizer, rows: Array) -> Array:
    """Return a row for each class [classes, width]: half of the first name's words, half of the mean of all names."""
    found = []
    for concept in concepts:
        names = [rows[tokenizer.encode(name, add_special_tokens=False).ids].mean(0) for name in concept.names]
        found.append(0.5 * np.mean(names, 0) + 0.5 * names[0])
    return np.stack(found).astype(np.float32)


def main() -> int:
    """Write the checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m magicmm_export.nano.base", description=__doc__)
    parser.add_argument("target", type=Path, metavar="FOLDER", help="does not exist yet")
    write_base(parser.parse_args().target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
