"""One forward for vectors, logits and the next-token loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import loop_runs
from magicmm.errors import ErrorCode, MagicError
from magicmm_training.loop.forward import TrainableModel
from magicmm_training.losses.next_token import IGNORED
from one_thread import one_thread as one_thread

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 3]])
CONTEXT = 399
"""A token of the table that these ids do not hold."""


@pytest.fixture(scope="module")
def trainable(tmp_path_factory: pytest.TempPathFactory) -> TrainableModel:
    base = loop_runs.write_base(tmp_path_factory.mktemp("base") / "tiny")
    return TrainableModel(loop_runs.load(base), CONTEXT)


def test_vectors_are_those_of_the_model(trainable: TrainableModel) -> None:
    model, last = trainable.model, torch.tensor([3, 1])
    wanted = model.vectors(model.language.embed_tokens(IDS), last)
    assert torch.equal(trainable(IDS, last=last), wanted)


def test_logits_are_those_of_the_asked_places(trainable: TrainableModel) -> None:
    model = trainable.model
    everywhere = model.logits(model.language(model.language.embed_tokens(IDS))[0])
    found = trainable(IDS, places=torch.tensor([6, 1]))
    assert torch.allclose(found, torch.stack([everywhere[1, 2], everywhere[0, 1]]), atol=1e-6)


def test_the_loss_is_the_summed_cross_entropy(trainable: TrainableModel) -> None:
    targets = torch.tensor([[IGNORED, 7, 8, IGNORED], [IGNORED, 11, IGNORED, IGNORED]])
    logits = trainable(IDS, places=torch.arange(8))
    wanted = functional.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="sum")
    assert torch.allclose(trainable(IDS, targets=targets), wanted, atol=1e-5)


def test_pictures_stand_where_the_placeholders_are(trainable: TrainableModel) -> None:
    pixels = torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[5, *[CONTEXT] * 64, 6]])
    model, last = trainable.model, torch.tensor([65])
    wanted = model.vectors(model.embed_sequence(ids, model.visual_tokens(pixels), CONTEXT), last)
    assert torch.equal(trainable(ids, pixels, last=last), wanted)


def test_seeing_always_reaches_the_vision_tower_and_adds_nothing(trainable: TrainableModel) -> None:
    last = torch.tensor([3, 3])
    blind = trainable(IDS, last=last)
    trainable.requires_grad_(True)
    trainable.always_see = True
    try:
        seeing = trainable(IDS, last=last)
        seeing.sum().backward()
        gradient = trainable.model.vision.patch_embedding.weight.grad
    finally:
        trainable.always_see = False
        trainable.zero_grad(set_to_none=True)
        trainable.requires_grad_(False)
    assert torch.equal(blind, seeing)
    assert gradient is not None and not gradient.any()


def test_weights_cast_without_gradients_are_not_used_with_them(trainable: TrainableModel) -> None:
    """Autocast keeps cast weights; those of a pass without gradients would swallow the gradients of the next."""
    trainable.requires_grad_(True)
    trainable.autocast = torch.bfloat16
    try:
        with torch.no_grad():
            trainable(IDS, last=torch.tensor([3, 3]))
        vectors = trainable(IDS, last=torch.tensor([3, 3]))
        vectors[0, :5].sum().backward()
        found = dict(trainable.named_parameters())
        gradients = [found[f"model.language.layers.{n}.mlp.up_proj.weight"].grad for n in range(3)]
    finally:
        trainable.autocast = None
        trainable.zero_grad(set_to_none=True)
        trainable.requires_grad_(False)
    assert vectors.dtype == torch.float32
    assert all(gradient is not None and bool(gradient.any()) for gradient in gradients)


@pytest.mark.parametrize("asked", [{}, {"last": torch.tensor([0, 0]), "places": torch.tensor([0])}])
def test_asking_for_nothing_or_for_two_things_is_refused(trainable: TrainableModel, asked: dict[str, Tensor]) -> None:
    with pytest.raises(MagicError) as caught:
        trainable(IDS, **asked)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
