"""The start of training: MiniLM copied from its file, and rows that say the names of classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from magicmm_export.nano.base import read_encoder, soft_words, text_encoder
from magicmm_export.nano.concepts import Concept
from tiny_nano import tiny_bert, tiny_nano

TOKENIZER = Path(__file__).parents[1] / "vectors" / "tiny_tokenizer.json"


def test_the_encoder_is_that_of_the_file(tmp_path: Path) -> None:
    bert = tiny_bert(tmp_path / "bert.safetensors")
    model, tokenizer = tiny_nano(), Tokenizer.from_file(str(TOKENIZER))
    adapters = {name: value.clone() for name, value in model.state_dict().items() if name.endswith((".up", ".down"))}
    read_encoder(model, tmp_path / "bert.safetensors")
    texts = ["a red photo", "blue", "green white black yellow a photo"]
    found = text_encoder(model, tokenizer)(texts)
    for text, vector in zip(texts, found, strict=True):
        with torch.inference_mode():
            hidden = bert(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state.mean(1)[0]
        np.testing.assert_allclose(vector, (hidden / hidden.norm()).numpy(), atol=2e-6)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in adapters.items())


def test_soft_words_are_means_of_the_pieces_of_names() -> None:
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    rows = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    red, photo, blue = (tokenizer.token_to_id(word) for word in ("red", "photo", "blue"))
    found = soft_words([Concept(("red photo", "blue"), "a red"), Concept(("blue",), None)], tokenizer, rows)
    first = (rows[red] + rows[photo]) / 2
    np.testing.assert_allclose(found[0], 0.5 * first + 0.5 * (first + rows[blue]) / 2, rtol=1e-5)
    np.testing.assert_allclose(found[1], rows[blue], rtol=1e-5)
