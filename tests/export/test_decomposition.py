"""The static modules give what the model gives, share its weights, and do not see padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from magicmm import ErrorCode, MagicError
from magicmm_export.decomposition import LanguageBlocks, Norms, VisionEncoder
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.loading import load_model
from magicmm_model.model import MagicModel
from magicmm_quant.streaming import StreamedModel

BOUND = 1e-5
LENGTH, PREFIX = 20, 9
FORMS = pytest.mark.parametrize("norms", Norms)


@pytest.fixture(scope="module", params=[(448, 2), (448, 1), (224, 1)], ids=["64 tokens", "256 tokens", "224 px"])
def variant(request: pytest.FixtureRequest, tiny: Checkpoint) -> MagicModel:
    side, compression = request.param
    return load_model(tiny, dtype=torch.float32, image_size=side, compression=compression)


@pytest.fixture(autouse=True)
def _without_gradients() -> object:
    with torch.inference_mode():
        yield


def random_embeds(model: MagicModel, length: int, seed: int = 0) -> Tensor:
    return torch.randn(1, length, model.config.dim, generator=torch.Generator().manual_seed(seed))


def tile(model: MagicModel) -> Tensor:
    side = model.config.vision.image_size
    return torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def prefix_of(model: MagicModel, count: int) -> list[tuple[Tensor, Tensor]]:
    return model.language(random_embeds(model, count, seed=2))[1]


def padded(past: list[tuple[Tensor, Tensor]], length: int, filling: float = 0.0) -> list[Tensor]:
    """Return keys and values as a bucket takes them: `filling` behind the prefix."""
    flat = [values for pair in past for values in pair]
    return [nn.functional.pad(values, (0, 0, 0, length - values.shape[2]), value=filling) for values in flat]


@FORMS
def test_visual_tokens_are_the_models(variant: MagicModel, norms: Norms) -> None:
    pixels = tile(variant)
    found = VisionEncoder(variant, norms)(pixels)
    assert found.shape == (1, variant.config.tile_tokens, variant.config.dim)
    torch.testing.assert_close(found, variant.visual_tokens(pixels), atol=BOUND, rtol=0)


def test_pixels_may_come_as_numbers_with_fractions(reference: MagicModel) -> None:
    pixels, encoder = tile(reference), VisionEncoder(reference)
    assert torch.equal(encoder(pixels.float()), encoder(pixels))


@FORMS
@pytest.mark.parametrize("count", [1, 7, LENGTH])
def test_vectors_are_the_models_whatever_stands_behind_them(reference: MagicModel, norms: Norms, count: int) -> None:
    blocks, embeds = LanguageBlocks(reference, LENGTH, norms=norms), random_embeds(reference, LENGTH)
    last = torch.tensor([count - 1])
    wanted = reference.vectors(embeds[:, :count], last)
    torch.testing.assert_close(blocks(embeds, last), wanted, atol=BOUND, rtol=0)
    embeds[:, count:] = 1000.0
    torch.testing.assert_close(blocks(embeds, last), wanted, atol=BOUND, rtol=0)


@FORMS
@pytest.mark.parametrize("before", [1, 5, PREFIX])
def test_vectors_behind_a_prefix_are_the_models(reference: MagicModel, norms: Norms, before: int) -> None:
    blocks, embeds = LanguageBlocks(reference, LENGTH, PREFIX, norms), random_embeds(reference, LENGTH)
    past, count = prefix_of(reference, before), 11
    last = torch.tensor([count - 1])
    wanted = reference.vectors(embeds[:, :count], last, past)
    assert (wanted - reference.vectors(embeds[:, :count], last)).abs().max() > 0.01, "the prefix matters"
    for filling in (0.0, 100.0):
        found = blocks(embeds, last, torch.tensor([before]), *padded(past, PREFIX, filling))
        torch.testing.assert_close(found, wanted, atol=BOUND, rtol=0)


def test_an_empty_prefix_is_none(reference: MagicModel) -> None:
    blocks, embeds = LanguageBlocks(reference, LENGTH, PREFIX), random_embeds(reference, LENGTH)
    last, past = torch.tensor([LENGTH - 1]), padded(prefix_of(reference, 3), PREFIX)
    found = blocks(embeds, last, torch.tensor([0]), *past)
    torch.testing.assert_close(found, reference.vectors(embeds, last), atol=BOUND, rtol=0)


def test_a_prefix_is_the_whole_prompt(reference: MagicModel) -> None:
    whole, cut = random_embeds(reference, PREFIX + LENGTH, seed=4), PREFIX - 2
    past = reference.language(whole[:, :cut])[1]
    blocks = LanguageBlocks(reference, LENGTH, PREFIX)
    found = blocks(whole[:, cut : cut + LENGTH], torch.tensor([LENGTH - 1]), torch.tensor([cut]), *padded(past, PREFIX))
    wanted = reference.vectors(whole, torch.tensor([cut + LENGTH - 1]))
    torch.testing.assert_close(found, wanted, atol=BOUND, rtol=0)


def test_a_rotated_stream_is_turned_back(reference: MagicModel) -> None:
    generator = torch.Generator().manual_seed(5)
    turned = torch.linalg.qr(torch.randn(reference.config.dim, reference.config.dim, generator=generator))[0]
    embeds, last = random_embeds(reference, LENGTH), torch.tensor([LENGTH - 1])
    found = LanguageBlocks(reference, LENGTH, closing=turned)(embeds, last)
    torch.testing.assert_close(found, reference.vectors(embeds, last) @ turned, atol=BOUND, rtol=0)


@FORMS
def test_a_vector_of_zeros_does_not_become_nan(reference: MagicModel, norms: Norms) -> None:
    blocks = LanguageBlocks(reference, 2, norms=norms, closing=torch.zeros(reference.config.dim, reference.config.dim))
    assert torch.equal(blocks(random_embeds(reference, 2), torch.tensor([1])), torch.zeros(1, reference.config.dim))


def test_stages_are_those_of_the_ladder(tiny: Checkpoint, reference: MagicModel) -> None:
    pixels, embeds = tile(reference), random_embeds(reference, LENGTH)
    vision = dict(VisionEncoder(reference).stages(pixels))
    language = dict(LanguageBlocks(reference, LENGTH).stages(embeds, torch.tensor([LENGTH - 1])))
    model = StreamedModel(tiny)
    state = model.patches([pixels[0]])[0]
    wanted = {"patches": state}
    for part, name_of in (("vision", str), ("connector", lambda _: "visual tokens")):
        for name, layer in model.layers(part):
            state = model.advance(part, layer, state)[0]
            wanted[name_of(name)] = state
    assert list(vision) == list(wanted)
    state = embeds
    for name, layer in model.layers("language"):
        state = model.advance("language", layer, state)[0]
        wanted[name] = state
    wanted[name] = state[:, -1:]
    wanted["vector"] = model.pool([state])
    assert list(vision) + list(language) == list(wanted)
    for name, value in {**vision, **language}.items():
        torch.testing.assert_close(value, wanted[name], atol=3e-5, rtol=1e-5)


def test_all_parts_share_the_models_parameters(reference: MagicModel) -> None:
    parts = (
        VisionEncoder(reference),
        LanguageBlocks(reference, 4),
        LanguageBlocks(reference, LENGTH, PREFIX, Norms.PRODUCT),
    )
    own = {id(parameter) for parameter in reference.parameters()}
    own.remove(id(reference.language.embed_tokens.weight))  # rows come from a file of the bundle
    taken = [{id(parameter) for parameter in part.parameters()} for part in parts]
    assert set().union(*taken) == own
    assert taken[1] == taken[2]
    assert all(not part.state_dict().keys() - dict(part.named_parameters()).keys() for part in parts)


@pytest.mark.parametrize(("length", "prefix"), [(0, 0), (4, -1), (2048, 1)])
def test_buckets_without_positions_are_refused(reference: MagicModel, length: int, prefix: int) -> None:
    with pytest.raises(MagicError, match="does not fit") as caught:
        LanguageBlocks(reference, length, prefix)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
