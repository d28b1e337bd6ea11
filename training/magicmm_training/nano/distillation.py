"""The objective of the built-in model: its vectors of made-up maps, alone or with words, follow the concept bank's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from magicmm_model.nano.config import CLS, SEP
from magicmm_model.nano.model import filled
from magicmm_training.loop.objective import SourceSpan, StepResult
from magicmm_training.losses.infonce import info_nce
from magicmm_training.nano.maps import Floats, MapMaker, Scene

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer

    from magicmm_model.nano.model import NanoModel
    from magicmm_model.nano.storing import Words
    from magicmm_training.loop.objective import Engine
    from magicmm_training.recipe import Distillation

MAPS = "maps"
"""Name of the only data set."""
_TEMPLATES = ("{}", "a photo of {}", "with {}", "in front of {}", "next to {}", "on {}", "the same at {}")
"""Words around the name of a class that a composed query asks for."""
_CAPTIONS = (
    ("{}", "a photo of {}", "{} in a photo"),
    ("{} and {}", "{} in front of {}", "{} with {}", "{} on {}", "{} beside {}", "a photo of {} and {}"),
)
"""Words around the names of one class, and of two."""
_SCENE_TEMPLATES = ("{}", "in {}", "at {}", "with {}", "in front of {}", "the same in {}")
"""Words around a scene."""


@dataclass(frozen=True, slots=True)
class MapSample:
    """A map to embed, words to embed with it, and the map whose vector is wanted.

    Attributes:
        cells: float32 [cells, channels].
        ids: [CLS], [SEP] and, for a composed sample, the words and [SEP].
        wanted: float32 [cells, channels]; the same as `cells` without words.
        caption: Words for what `wanted` shows; empty for noise.
        negatives: Of a composed sample: the object in no place, and the place without it.
    """

    cells: Floats
    ids: tuple[int, ...]
    wanted: Floats
    caption: tuple[int, ...] = ()
    negatives: tuple[Floats, ...] = ()


class DistillationObjective:
    """Cosine and KL over the concepts, between the model's vectors and the concept bank's.

    A composed sample shows an object and says the name of a place; wanted is the vector of the object in that place.
    InfoNCE ranks that before those of the other samples, and before two hard negatives of each sample: its object
    elsewhere, its place without it.

    Attributes:
        fingerprint: Of settings and words.
    """

    def __init__(self, stage: Distillation, model: NanoModel, tokenizer: Tokenizer, words: Words) -> None:
        """Put the parts together.

        Args:
            stage: Settings.
            model: What is trained: its classifier makes the maps, its bank labels them.
            tokenizer: Its tokenizer, without padding and truncation.
            words: For classes and scenes.
        """
        self._stage, self._words = stage, words
        self._scenes = tuple(words.scenes.items())
        self._tokenizer = tokenizer
        self._maps = MapMaker(model.connector.classifier.weight.detach().cpu().numpy(), stage.maps)
        self._model = model
        facts = (stage.maps.model_dump(), stage.composed_share, stage.scene_share, stage.samples, words, _CAPTIONS)
        self.fingerprint = hashlib.sha256(repr(facts).encode()).hexdigest()[:32]

    @property
    def spans(self) -> Sequence[SourceSpan]:
        """One data set, as long as the recipe says; its samples are drawn anew each time."""
        return (SourceSpan(MAPS, 0, self._stage.samples),)

    def __len__(self) -> int:
        """Return how many samples count as one epoch."""
        return self._stage.samples

    def sample(self, place: int, seed: int) -> MapSample:
        """Make a sample."""
        rng = np.random.default_rng((place, seed))
        if rng.random() >= self._stage.composed_share:
            scene = self._maps.scene(rng)
            return MapSample(scene.cells, (CLS, SEP), scene.cells, self._captioned(rng, scene))
        if rng.random() < self._stage.scene_share:
            name, classes = self._scenes[int(rng.integers(len(self._scenes)))]
            thing, place_of, both = self._maps.object_in(rng, classes)
            text = _drawn(rng, _SCENE_TEMPLATES).format(name)
        else:
            thing, place_of, both = self._maps.object_in(rng)
            text = _drawn(rng, _TEMPLATES).format(self._named(rng, place_of.classes[0]))
        caption = self._caption(f"{self._named(rng, thing.classes[0])} {text}")
        negatives = (thing.cells, place_of.cells)
        return MapSample(thing.cells, (CLS, SEP, *self._ids(text), SEP), both.cells, caption, negatives)

    def _captioned(self, rng: np.random.Generator, scene: Scene) -> tuple[int, ...]:
        """Return the caption of a map by the one or two classes that are strongest in it."""
        if not scene.classes:
            return ()
        names = [self._named(rng, place) for place in scene.classes[:2]]
        return self._caption(_drawn(rng, _CAPTIONS[len(names) - 1]).format(*names))

    def _named(self, rng: np.random.Generator, place: int) -> str:
        return _drawn(rng, self._words.classes[place])

    def _caption(self, text: str) -> tuple[int, ...]:
        return (CLS, *self._ids(text), SEP)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids[: self._stage.max_tokens]

    def step(self, model: nn.Module, samples: Sequence[MapSample], engine: Engine) -> StepResult:
        """Embed photos and composed samples apart (the latter are longer), and follow the teacher."""
        device = next(model.parameters()).device
        alone = [one for one in samples if len(one.ids) == 2]
        composed = [one for one in samples if len(one.ids) > 2]
        total, counters = 0.0, {}
        groups = [(name, group) for name, group in (("photo", alone), ("composed", composed)) if group]
        for number, (name, group) in enumerate(groups):
            loss, cosine = self._loss(model, group, device)
            share = len(group) / len(samples)
            engine.backward(loss * share, last=number == len(groups) - 1)
            total += float(loss.detach()) * share
            counters[f"{name}_cosine"] = float(cosine)
        mean = engine.gather(torch.tensor(total, device=device)).mean()
        return StepResult(float(mean), counters)

    def _loss(self, model: nn.Module, group: Sequence[MapSample], device: torch.device) -> tuple[Tensor, Tensor]:
        cells = torch.from_numpy(np.stack([one.cells for one in group])).to(device)
        ids, mask = filled([one.ids for one in group], device)
        wanted = self._taught([one.wanted for one in group], device)
        if self._stage.caption_weight:
            said = self._stage.caption_weight * self._said([one.caption for one in group], device)
            wanted = functional.normalize(wanted + said, dim=-1)
        found = model(ids=ids, mask=mask, cells=cells)
        cosine = (found * wanted).sum(-1).mean()
        loss = self._stage.cosine_weight * (1 - cosine)
        for length in (found.shape[-1], *self._stage.matryoshka):
            loss = loss + self._stage.divergence_weight * self._divergence(found, wanted, length)
        negatives = [cells for one in group for cells in one.negatives]
        if negatives and self._stage.contrast_weight:
            candidates = torch.cat([wanted, self._taught(negatives, device)])
            right = torch.arange(len(group), device=device)
            loss = loss + self._stage.contrast_weight * info_nce(found, candidates, right, self._stage.temperature)
        return loss, cosine.detach()

    @torch.no_grad()
    def _said(self, captions: Sequence[tuple[int, ...]], device: torch.device) -> Tensor:
        """Return the vectors of captions [n, width]; of those that say nothing, zeros."""
        vectors = torch.zeros(len(captions), self._model.config.width, device=device)
        places = [place for place, caption in enumerate(captions) if caption]
        if places:
            vectors[places] = self._model(*filled([captions[place] for place in places], device))
        return vectors

    @torch.no_grad()
    def _taught(self, maps: Sequence[Floats], device: torch.device) -> Tensor:
        """Return the teacher's vectors of maps."""
        return self._model.teacher(torch.from_numpy(np.stack(maps)).to(device))

    def _divergence(self, found: Tensor, wanted: Tensor, length: int) -> Tensor:
        """KL(teacher || model) over the concepts, with vectors cut to a length."""
        bank = functional.normalize(self._model.bank.vectors[:, :length], dim=-1)
        scores, target = (
            functional.normalize(vectors[:, :length], dim=-1) @ bank.T / self._stage.temperature
            for vectors in (found, wanted)
        )
        return functional.kl_div(scores.log_softmax(-1), target.log_softmax(-1), reduction="batchmean", log_target=True)


def _drawn(rng: np.random.Generator, texts: Sequence[str]) -> str:
    return texts[int(rng.integers(len(texts)))]
