"""The whole way from a text or a picture to a vector, held against transformers' model on prompts written by hand."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

import magicmm_model
from magicmm.errors import ErrorCode, MagicError
from magicmm_model import Embedding, TorchEmbedder
from magicmm_model.config import Head
from magicmm_model.embedder import Item, find_role, pad_prompts
from magicmm_model.templates import ROLES, Prompt, PromptBuilder, Reads, Role, Side

SIDE = 448
OPENING = (
    "<|im_start|>system\n"
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"  # noqa: RUF001
    "<|im_end|>\n<|im_start|>user\nInstruct: "
)
CLOSING = "<|im_end|>\n<|im_start|>assistant\n"
DOG = "Find me an everyday image that matches the given query.\nQuery: a dog on the beach"
PHOTO = "Represent the given image.\n<picture>"
COMPOSED = (
    "Given an image, find a similar everyday image with the described changes as the given query.\n"
    "<picture>\nQuery: at sunset"
)
PAGE = "Represent the given visual documents.\n<picture>"


@pytest.fixture(scope="module")
def embedder(folder: Path) -> TorchEmbedder:
    return TorchEmbedder.open(folder)


@pytest.fixture(scope="module")
def vanilla(folder: Path) -> TorchEmbedder:
    return TorchEmbedder.open(folder, compression=1)


@pytest.fixture(scope="module")
def quick(folder: Path) -> TorchEmbedder:
    """Tiles of 224 pixels, which have 64 visual tokens without compression."""
    return TorchEmbedder.open(folder, compression=1, image_size=224)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (90, 120, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def page() -> Image.Image:
    """2 x 2 tiles."""
    return Image.fromarray(np.random.default_rng(4).integers(0, 256, (2 * SIDE, 2 * SIDE, 3), dtype=np.uint8))


def one_tile(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).copy())[None]


def five_tiles(page: Image.Image) -> Tensor:
    """What `page` is cut into: it needs no resizing, only its thumbnail does."""
    sheet = torch.from_numpy(np.asarray(page).copy())
    return torch.cat(
        [
            *(sheet[None, :SIDE, :SIDE], sheet[None, :SIDE, SIDE:]),
            *(sheet[None, SIDE:, :SIDE], sheet[None, SIDE:, SIDE:]),
            one_tile(page),
        ]
    )


Oracle = Callable[..., tuple[Tensor, int]]


@pytest.fixture(scope="module")
def by_hand(hf: Any, hf_pixels: Callable[[Tensor], Tensor], folder: Path) -> Oracle:
    """Return the oracle: user's words and tiles to the vector and the length, by transformers' model."""
    library: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))

    @torch.inference_mode()
    def run(body: str, tiles: Tensor | None = None, compression: int = 1) -> tuple[Tensor, int]:
        context = "<IMG_CONTEXT>" * (0 if tiles is None else len(tiles) * 256 // compression**2)
        prompt = OPENING + body.replace("<picture>", f"<img>{context}</img>") + CLOSING
        ids = torch.tensor([library.encode(prompt, add_special_tokens=False).ids])
        if tiles is None:
            hidden = hf.model(input_ids=ids).last_hidden_state
        elif compression == 1:
            hidden = hf.model(input_ids=ids, pixel_values=hf_pixels(tiles)).last_hidden_state
        else:
            hidden = compressed(ids, tiles)
        return functional.normalize(hidden[0, -1], dim=0), ids.shape[1]

    def compressed(ids: Tensor, tiles: Tensor) -> Tensor:
        """Run transformers' own parts, with torch's bilinear resampling between them."""
        patches = hf.model.vision_tower(hf_pixels(tiles)).last_hidden_state[:, 1:]
        planes = patches.reshape(len(tiles), 32, 32, -1).permute(0, 3, 1, 2)
        halved = functional.interpolate(planes, scale_factor=0.5, mode="bilinear", align_corners=False)
        visual = hf.model.multi_modal_projector(hf.model.pixel_shuffle(halved.permute(0, 2, 3, 1)).flatten(1, 2))
        embeds = hf.model.get_input_embeddings()(ids)
        embeds[ids == library.token_to_id("<IMG_CONTEXT>")] = visual.flatten(0, 1)
        hidden: Tensor = hf.model.language_model(inputs_embeds=embeds).last_hidden_state
        return hidden

    return run


def test_text_photo_and_both_are_embedded_as_by_transformers(
    vanilla: TorchEmbedder, by_hand: Oracle, photo: Image.Image, agree: Callable[[Tensor, Tensor], None]
) -> None:
    for ours, theirs in [
        (vanilla.embed_text("a dog on the beach"), by_hand(DOG)),
        (vanilla.embed_image(photo), by_hand(PHOTO, one_tile(photo))),
        (vanilla.embed_query("at sunset", photo), by_hand(COMPOSED, one_tile(photo))),
    ]:
        agree(ours.vector, theirs[0])
        assert ours.tokens == theirs[1]
        assert ours.truncated is False


@pytest.mark.parametrize(
    ("text", "with_photo", "body"),
    [("a dog on the beach", False, DOG), (None, True, PHOTO), ("at sunset", True, COMPOSED)],
    ids=["text", "photo", "both"],
)
def test_a_query_of_words_of_a_photo_or_of_both(
    text: str | None,
    with_photo: bool,
    body: str,
    embedder: TorchEmbedder,
    by_hand: Oracle,
    photo: Image.Image,
    agree: Callable[[Tensor, Tensor], None],
) -> None:
    given = embedder.embed_query(text, photo if with_photo else None)
    vector, tokens = by_hand(body, one_tile(photo) if with_photo else None, compression=2)
    agree(given.vector, vector)
    assert given.tokens == tokens


def test_a_document_of_four_tiles_and_a_thumbnail_has_320_visual_tokens(
    embedder: TorchEmbedder, by_hand: Oracle, page: Image.Image, agree: Callable[[Tensor, Tensor], None]
) -> None:
    found = embedder.embed_image(page, "document")
    vector, tokens = by_hand(PAGE, five_tiles(page), compression=2)
    agree(found.vector, vector)
    empty = by_hand(PAGE.replace("<picture>", "<img></img>"))[1]
    assert found.tokens == tokens == empty + 320


def test_a_query_of_nothing_is_refused(embedder: TorchEmbedder) -> None:
    with pytest.raises(MagicError) as caught:
        embedder.embed_query()
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_text_without_picture_is_refused(text: str, embedder: TorchEmbedder) -> None:
    with pytest.raises(MagicError) as caught:
        embedder.embed_query(text)
    assert caught.value.code is ErrorCode.TEXT_INVALID


def test_a_batch_gives_what_each_item_gets_alone(quick: TorchEmbedder, photo: Image.Image) -> None:
    texts = ["a dog", "a page of printed text " * 9, "书生·万象"]
    assert_same(quick.embed([Item(text) for text in texts], "query"), [quick.embed_text(text) for text in texts])
    turned = photo.transpose(Image.Transpose.ROTATE_180)
    both = [Item("at sunset", photo), Item("a dog, a longer wish than that before it", turned)]
    assert_same(quick.embed(both, "composed"), [quick.embed([item], "composed")[0] for item in both])


def test_a_batch_of_documents_with_different_numbers_of_tiles(quick: TorchEmbedder, page: Image.Image) -> None:
    items = [Item(image=page.resize(size)) for size in ((2 * SIDE, SIDE), (224, 224), (SIDE, SIDE))]
    together = quick.embed(items, "document")
    assert_same(together, [quick.embed_image(item.image, "document") for item in items])
    assert [found.tokens - together[1].tokens for found in together] == [128, 0, 256]


def assert_same(together: list[Embedding], alone: list[Embedding]) -> None:
    assert [(found.tokens, found.truncated) for found in together] == [(one.tokens, one.truncated) for one in alone]
    for found, one in zip(together, alone, strict=True):
        assert (found.vector - one.vector).abs().max() <= 1e-6
    assert len({tuple(one.vector.tolist()) for one in alone}) == len(alone)


def test_the_forms_of_a_picture_give_one_vector(quick: TorchEmbedder, photo: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    photo.save(path)
    forms: list[object] = [path, str(path), path.read_bytes(), photo, np.asarray(photo)]
    vectors = [quick.embed_image(form).vector for form in forms]
    assert all(torch.equal(vector, vectors[0]) for vector in vectors)


def test_a_text_beyond_the_limit_is_cut_and_flagged(embedder: TorchEmbedder) -> None:
    short = TorchEmbedder(embedder.model, embedder.tokenizer)
    short.prompts = PromptBuilder(replace(embedder.model.config, max_tokens=300), embedder.tokenizer)
    found = short.embed([Item("sunset " * 500), Item("a dog"), Item("sunset " * 600)], "query")
    assert [one.truncated for one in found] == [True, False, True]
    assert [one.tokens == 300 for one in found] == [True, False, True]
    assert torch.equal(found[0].vector, found[2].vector)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vectors_are_float32_of_unit_length_on_the_cpu(dtype: torch.dtype, folder: Path) -> None:
    embedder = TorchEmbedder.open(folder, dtype=dtype)
    vector = embedder.embed_text("a dog").vector
    assert (vector.dtype, vector.shape, vector.device.type) == (torch.float32, (48,), "cpu")
    assert embedder.dim == 48
    assert vector.norm().item() == pytest.approx(1, abs=1e-6)
    assert not vector.requires_grad


def test_the_head_is_loaded_only_when_asked_for(embedder: TorchEmbedder, folder: Path) -> None:
    assert embedder.model.config.head is Head.NONE
    assert not hasattr(embedder.model.language, "lm_head")
    assert hasattr(TorchEmbedder.open(folder, head=True).model.language, "lm_head")


def test_nothing_gives_nothing(embedder: TorchEmbedder) -> None:
    assert embedder.embed([], "query") == []


def test_an_unknown_role_is_refused_with_those_there_are(embedder: TorchEmbedder) -> None:
    with pytest.raises(MagicError) as caught:
        embedder.embed([], "qeury")
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    assert "'qeury'" in caught.value.message
    assert all(name in caught.value.remedy for name in ROLES)


def test_a_role_of_ones_own(embedder: TorchEmbedder, by_hand: Oracle, agree: Callable[[Tensor, Tensor], None]) -> None:
    role = Role("Represent the dog.", Side.CANDIDATE, Reads.TEXT)
    assert find_role(role) is role
    agree(embedder.embed_text("a dog", role).vector, by_hand("Represent the dog.\nText: a dog")[0])


@pytest.mark.parametrize(
    ("items", "role", "code"),
    [
        ([Item("a dog"), Item(" ")], "query", ErrorCode.TEXT_INVALID),
        ([Item("a dog"), Item()], "query", ErrorCode.TEXT_INVALID),
        ([Item("a dog")], "photo", ErrorCode.ARGUMENT_INVALID),
        ([Item("a dog")], "composed", ErrorCode.ARGUMENT_INVALID),
        ([Item(image=b"no picture")], "photo", ErrorCode.IMAGE_INVALID),
        ([Item(image="none.jpg")], "photo", ErrorCode.IMAGE_INVALID),
        ([Item(image=np.zeros((4, 4, 3), np.uint8))], "query", ErrorCode.ARGUMENT_INVALID),
    ],
)
def test_what_cannot_be_embedded_is_an_error(
    items: list[Item], role: str, code: ErrorCode, embedder: TorchEmbedder
) -> None:
    with pytest.raises(MagicError) as caught:
        embedder.embed(items, role)
    assert caught.value.code is code


def test_short_prompts_are_filled_on_the_right() -> None:
    ids, last = pad_prompts([Prompt((1, 2, 3)), Prompt((4,)), Prompt((5, 6))], fill=9)
    assert ids.tolist() == [[1, 2, 3], [4, 9, 9], [5, 6, 9]]
    assert last.tolist() == [2, 0, 1]
    assert ids.dtype == last.dtype == torch.int64


def test_the_example_of_the_package_runs(
    folder: Path, photo: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "InternVL3-2B").symlink_to(folder)
    photo.save(tmp_path / "beach.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"TorchEmbedder": magicmm_model.TorchEmbedder}
    for example in doctest.DocTestParser().get_examples(magicmm_model.__doc__ or ""):
        exec(example.source, names)
    expected = torch.dot(names["query"], names["photo"]).item()
    assert names["score"] == pytest.approx(expected, abs=1e-6)
    assert -1 <= names["score"] <= 1
