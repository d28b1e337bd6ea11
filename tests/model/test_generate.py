"""Greedy answers and next-token logits, held against transformers' `generate` on the same weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from magicmm import ErrorCode, MagicError
from magicmm_model.embedder import TorchEmbedder
from magicmm_model.generate import generate, next_token_logits
from magicmm_model.templates import Prompt, Turn

Agree = Callable[[Tensor, Tensor], None]
Prepare = Callable[[Tensor], Tensor]
QUESTIONS = [
    ("Is it a dog?", 0),
    ("<image>\nDoes the picture show a dog on the beach at sunset? Say Yes or No.", 1),
    ("书生·万象, a printed page of text; find me an everyday image", 0),
    ("<image><image>\nWhich one?", 2),
]
LENGTH = 12


@pytest.fixture(scope="module")
def embedder(folder: Path) -> TorchEmbedder:
    return TorchEmbedder.open(folder, compression=1, head=True)


@pytest.fixture(scope="module")
def prompts(embedder: TorchEmbedder) -> list[Prompt]:
    return [embedder.prompts.chat([Turn("user", text)], [1] * pictures) for text, pictures in QUESTIONS]


@pytest.fixture(scope="module")
def tiles(pixels: Tensor) -> list[Tensor | None]:
    """The tiles of each prompt."""
    return [None, pixels[:1], None, pixels[1:]]


@pytest.fixture
def answer_ids(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[int]]]:
    """Return `generate` with token ids as its answers: different tokens may read the same."""

    def run(embedder: TorchEmbedder, *args: Any, **options: Any) -> list[list[int]]:
        monkeypatch.setattr(embedder.tokenizer, "decode", list)
        return generate(embedder, *args, **options)  # type: ignore[return-value]

    return run


@pytest.fixture(scope="module")
def expected(
    hf: Any, embedder: TorchEmbedder, prompts: list[Prompt], tiles: list[Tensor | None], hf_pixels: Prepare
) -> list[list[int]]:
    return [
        by_transformers(hf, embedder, prompt, None if tile is None else hf_pixels(tile))
        for prompt, tile in zip(prompts, tiles, strict=True)
    ]


def by_transformers(model: Any, embedder: TorchEmbedder, prompt: Prompt, values: Tensor | None = None) -> list[int]:
    """Return transformers' greedy answer, without the token that ends it."""
    special = embedder.tokenizer.special
    ids = torch.tensor([prompt.ids])
    answer = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=values,
        do_sample=False,
        max_new_tokens=LENGTH,
        eos_token_id=[special.turn_end, special.end],
        pad_token_id=special.end,
    )[0, ids.shape[1] :].tolist()
    return answer[:-1] if answer[-1] in (special.turn_end, special.end) else answer


def swap_rows(model: Any, first: int, second: int) -> Any:
    """Return a copy of a model that says one token where it said another."""
    model = copy.deepcopy(model)
    head = (model.lm_head if hasattr(model, "lm_head") else model.language.lm_head).weight
    head.data[[first, second]] = head.data[[second, first]]
    return model


def test_answers_alone_equal_transformers(
    embedder: TorchEmbedder,
    prompts: list[Prompt],
    tiles: list[Tensor | None],
    expected: list[list[int]],
    answer_ids: Callable[..., list[list[int]]],
) -> None:
    assert min(len(set(answer)) for answer in expected) > 2  # no endless repetition of one token
    for prompt, tile, answer in zip(prompts, tiles, expected, strict=True):
        assert answer_ids(embedder, [prompt], tile, LENGTH) == [answer]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 0, 2], [2, 0]])
def test_answers_in_a_batch_of_different_lengths_equal_transformers(
    embedder: TorchEmbedder,
    prompts: list[Prompt],
    tiles: list[Tensor | None],
    expected: list[list[int]],
    order: Sequence[int],
    answer_ids: Callable[..., list[list[int]]],
) -> None:
    batch = [prompts[place] for place in order]
    assert len({len(prompt.ids) for prompt in batch}) == len(batch)
    shown = [tile for place in order if (tile := tiles[place]) is not None]
    found = answer_ids(embedder, batch, torch.cat(shown) if shown else None, LENGTH)
    assert found == [expected[place] for place in order]


def test_answers_are_the_text_of_their_tokens(
    embedder: TorchEmbedder, folder: Path, prompts: list[Prompt], expected: list[list[int]]
) -> None:
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert generate(embedder, prompts[:1], max_new_tokens=LENGTH) == [library.decode(expected[0])]


@pytest.mark.parametrize("name", ["turn_end", "end"])
def test_an_answer_stops_at_either_end_token_while_others_go_on(
    embedder: TorchEmbedder,
    hf: Any,
    prompts: list[Prompt],
    expected: list[list[int]],
    name: str,
    answer_ids: Callable[..., list[list[int]]],
) -> None:
    free = expected[0]
    step, token = next((place, token) for place, token in enumerate(free) if place > 2 and token not in free[:place])
    end = getattr(embedder.tokenizer.special, name)
    stopping = TorchEmbedder(swap_rows(embedder.model, token, end), embedder.tokenizer)
    theirs = swap_rows(hf, token, end)
    batch = [prompts[0], prompts[2]]
    wanted = [by_transformers(theirs, embedder, prompt) for prompt in batch]
    assert wanted[0] == free[:step]
    assert len(wanted[1]) > step
    assert answer_ids(stopping, batch, None, LENGTH) == wanted


@pytest.mark.parametrize("most", [1, 2, 5])
def test_no_answer_is_longer_than_asked_for(
    embedder: TorchEmbedder,
    prompts: list[Prompt],
    expected: list[list[int]],
    most: int,
    answer_ids: Callable[..., list[list[int]]],
) -> None:
    assert answer_ids(embedder, prompts[:1], max_new_tokens=most) == [expected[0][:most]]


def test_prompt_and_answer_share_the_longest_sequence(
    embedder: TorchEmbedder, prompts: list[Prompt], expected: list[list[int]]
) -> None:
    room = 2048 - len(prompts[0].ids)
    for wrong in (0, -1, room + 1):
        with pytest.raises(MagicError, match=rf"max_new_tokens is {wrong}; .* 2,048 tokens") as caught:
            generate(embedder, prompts[:1], max_new_tokens=wrong)
        assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    at_once = swap_rows(embedder.model, expected[0][0], embedder.tokenizer.special.end)
    assert generate(TorchEmbedder(at_once, embedder.tokenizer), prompts[:1], max_new_tokens=room) == [""]


def test_next_token_logits_equal_transformers(
    embedder: TorchEmbedder,
    hf: Any,
    prompts: list[Prompt],
    tiles: list[Tensor | None],
    pixels: Tensor,
    hf_pixels: Prepare,
    agree: Agree,
) -> None:
    ours = next_token_logits(embedder, prompts, pixels)
    assert ours.dtype == torch.float32
    for mine, prompt, tile in zip(ours, prompts, tiles, strict=True):
        values = None if tile is None else hf_pixels(tile)
        agree(mine, hf(input_ids=torch.tensor([prompt.ids]), pixel_values=values).logits[0, -1])


def test_a_model_loaded_without_head_does_not_answer(folder: Path, prompts: list[Prompt]) -> None:
    embedder = TorchEmbedder.open(folder, compression=1)
    for call in (generate, next_token_logits):
        with pytest.raises(MagicError, match="no head") as caught:
            call(embedder, prompts[:1])
        assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_no_prompts_get_no_answers(embedder: TorchEmbedder) -> None:
    assert generate(embedder, []) == []
    with pytest.raises(MagicError, match="no prompts") as caught:
        next_token_logits(embedder, [])
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
