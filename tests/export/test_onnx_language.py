"""The language graph gives the vectors of the torch model: with and without prefix, in any batch, with any padding."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from graph_runs import cosine, distance, no_prefix, pictures, random_smoothing, rotation_of, write_part
from magicmm.runtime import OnnxSession
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.model import MagicModel
from magicmm_model.templates import ROLES, PromptBuilder
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_quant.recipe import RECIPES, Recipe
from magicmm_quant.streaming import StreamedModel
from magicmm_quant.weights import RewrittenWeights

Floats = NDArray[np.float32]
VARIANTS = {"plain": (False, False), "rotated": (True, False), "rotated and smoothed": (True, True)}


class Part:
    """A written graph and what it was written from."""

    def __init__(self, tiny: Checkpoint, folder: Path, variant: str, recipe: Recipe = RECIPES["float32"]) -> None:
        rotate, smooth = VARIANTS[variant]
        self.config = tiny.config
        self.rotation = rotation_of(self.config, rotate)
        self.weights = RewrittenWeights(
            tiny, self.config, self.rotation, random_smoothing(self.config) if smooth else {}
        )
        self.session: OnnxSession = write_part(folder, "language", tiny, self.weights, self.config, recipe)
        self.streamed = StreamedModel(tiny, self.config, weights=self.weights)

    def rows(self, embeds: Floats) -> Floats:
        """Turn rows into the stream of the graph."""
        return embeds if self.rotation is None else self.rotation.apply(embeds)

    def prefix(self, head: tuple[int, ...]) -> dict[str, Floats]:
        kept = self.streamed.prefixes([head])[0]
        keys = {f"past_key_{layer}": key.numpy() for layer, (key, _) in enumerate(kept)}
        return keys | {f"past_value_{layer}": value.numpy() for layer, (_, value) in enumerate(kept)}

    def run(self, embeds: Floats, last: Any, past: dict[str, Floats] | None = None) -> Floats:
        places = np.asarray(last, np.int64)
        inputs: dict[str, NDArray[Any]] = {
            "embeds": embeds,
            "last": places,
            **(no_prefix(self.config) if past is None else past),
        }
        return self.session.run(inputs)


@pytest.fixture(scope="module", params=VARIANTS)
def part(request: pytest.FixtureRequest, tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Part:
    return Part(tiny, tmp_path_factory.mktemp("language"), request.param)


@pytest.fixture(scope="module")
def eight(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Part:
    return Part(tiny, tmp_path_factory.mktemp("eight"), "rotated", RECIPES["int8"])


def noise(*shape: int, seed: int = 0) -> Floats:
    return (0.3 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def in_torch(model: MagicModel, embeds: Floats, last: Any) -> Floats:
    with torch.inference_mode():
        found: Floats = model.vectors(torch.from_numpy(embeds), torch.as_tensor(last)).numpy()
    return found


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 2), (2, 17), (3, 90)])
def test_vectors_are_those_of_the_torch_model(part: Part, reference: MagicModel, batch: int, length: int) -> None:
    embeds = noise(batch, length, part.config.dim)
    last = [(length - 1) * (place + 1) // batch for place in range(batch)]  # a different one for each
    wanted = in_torch(reference, embeds, last)
    found = part.run(part.rows(embeds), last)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert distance(found, wanted) < 1e-4


@pytest.mark.parametrize("kind", ["query", "photo", "composed"])
def test_a_prompt_is_the_same_with_and_without_its_prefix(
    part: Part, reference: MagicModel, tokenizer: PromptTokenizer, kind: str
) -> None:
    role, builder = ROLES[kind], PromptBuilder(part.config, tokenizer)
    text, tiles = None if kind == "photo" else "two dogs on the beach", int(kind != "query")
    prompt, head = builder.build(role, text, tiles), builder.role_tokens(role).head
    ids, context = torch.tensor([prompt.ids]), tokenizer.special.context
    with torch.inference_mode():
        side = part.config.vision.image_size
        visual = reference.visual_tokens(torch.from_numpy(pictures(1, side))) if tiles else None
        embeds = reference.embed_sequence(ids, visual, context).numpy()
    wanted = in_torch(reference, embeds, [prompt.last])
    rows = part.rows(embeds)
    whole = part.run(rows, [prompt.last])
    split = part.run(rows[:, len(head) :], [prompt.last - len(head)], part.prefix(head))
    assert prompt.ids[: len(head)] == head and len(head) > 20
    assert 1 - cosine(whole, wanted) < 1e-6
    assert 1 - cosine(split, wanted) < 1e-6
    assert 1 - cosine(split, whole) < 1e-6


def test_one_prefix_serves_a_whole_batch(part: Part, reference: MagicModel, tokenizer: PromptTokenizer) -> None:
    head = PromptBuilder(part.config, tokenizer).role_tokens(ROLES["query"]).head
    with torch.inference_mode():
        opening = reference.language.embed_tokens(torch.tensor([head])).numpy()
    rest = noise(3, 12, part.config.dim)
    wanted = in_torch(reference, np.concatenate([opening.repeat(3, axis=0), rest], axis=1), [len(head) + 11] * 3)
    past = part.prefix(head)
    assert past["past_key_0"].shape[0] == 1
    assert distance(part.run(part.rows(rest), [11] * 3, past), wanted) < 1e-4


@pytest.mark.parametrize("prefixed", [False, True])
def test_what_stands_right_of_the_last_token_changes_no_bit(part: Part, prefixed: bool) -> None:
    embeds = part.rows(noise(2, 20, part.config.dim))
    past = part.prefix((1, 2, 3)) if prefixed else None
    found = part.run(embeds, [11, 19], past)
    padded = embeds.copy()
    padded[0, 12:] = 1e6 * noise(8, part.config.dim, seed=5)
    assert np.array_equal(part.run(padded, [11, 19], past), found)
    padded[0, 11] += 0.1  # the pooled token itself counts
    assert not np.array_equal(part.run(padded, [11, 19], past)[0], found[0])


def test_more_padding_changes_nothing(part: Part) -> None:
    embeds = part.rows(noise(1, 13, part.config.dim))
    padded = np.concatenate([embeds, 100 * noise(1, 50, part.config.dim)], axis=1)
    assert np.abs(part.run(padded, [12]) - part.run(embeds, [12])).max() < 1e-6


@pytest.mark.parametrize("prefixed", [False, True])
def test_in_int8_an_item_gives_the_same_bits_alone_and_beside_others(eight: Part, prefixed: bool) -> None:
    embeds = eight.rows(noise(4, 23, eight.config.dim))
    embeds[1, 5, [3, 40]] *= 1000  # an outlier of the kind that one scale for the whole batch cannot hold
    embeds[2] *= 50
    past = eight.prefix((1, 2, 3)) if prefixed else None
    last = [22, 22, 7, 22]
    together = eight.run(embeds, last, past)
    for place in range(4):
        alone = eight.run(embeds[place : place + 1], last[place : place + 1], past)
        assert np.array_equal(alone[0], together[place])
    beside = eight.run(embeds[[3, 1]], [22, 22], past)
    assert np.array_equal(beside[0], together[3])


def test_in_int8_vectors_stay_close(eight: Part, reference: MagicModel) -> None:
    embeds = noise(4, 23, eight.config.dim)
    wanted = in_torch(reference, embeds, [22] * 4)
    assert cosine(eight.run(eight.rows(embeds), [22] * 4), wanted) > 0.99
    assert distance(eight.run(eight.rows(embeds), [22] * 4), wanted) > 1e-4, "nothing was rounded"


def test_the_graph_that_torch_exports_gives_the_same(tiny: Checkpoint, tmp_path: Path, reference: MagicModel) -> None:
    import_module("onnxscript")  # torch.onnx.export needs it; a test that is skipped proves nothing
    part = Part(tiny, tmp_path, "plain")

    class Language(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = reference

        def forward(self, embeds: torch.Tensor, last: torch.Tensor, past: list[torch.Tensor]) -> torch.Tensor:
            return self.model.vectors(embeds, last, list(zip(past[0::2], past[1::2], strict=True)))

    embeds, last, past = noise(2, 19, part.config.dim), np.array([18, 9]), part.prefix((5, 6, 7, 8))
    layers = range(part.config.language.layers)
    flat = [past[f"past_{kind}_{layer}"] for layer in layers for kind in ("key", "value")]
    path = tmp_path / "oracle.onnx"
    given = (torch.from_numpy(embeds), torch.from_numpy(last), [torch.from_numpy(array) for array in flat])
    torch.onnx.export(Language().eval(), given, str(path), dynamo=True, verbose=False)
    oracle = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in oracle.get_inputs()]
    wanted = oracle.run(None, dict(zip(names, [embeds, last, *flat], strict=True)))[0]
    assert distance(part.run(embeds, last, past), wanted) < 1e-5
