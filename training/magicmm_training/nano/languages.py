"""Teach a multilingual encoder the vectors of the English one: `python -m magicmm_training.nano.languages BASE OUT`.

BASE is what `magicmm_export.nano.multilingual.base` writes. Samples are English texts, names of emoji in many
languages, and pairs of such names; wanted is always MiniLM's vector of the English text. One emoji in ten is kept apart
to see what comes of it. The first layers and the token rows stay: they hold what the languages have in common.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.checkpoint_folder import whole_checkpoint
from magicmm_model.nano.storing import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tokenizers import Tokenizer
    from transformers import BertModel

Floats = NDArray[np.float32]
PAD = 1
MOST_TOKENS = 64
HEAD = ("head.weight", "head.bias")
_HIDDEN = -1e4
_POOL = 8
"""Batches that are drawn at once, so that texts of like length share one."""
_REMEDY = "Write it again: python -m magicmm_export.nano.multilingual.base FOLDER."

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lesson:
    """Settings of one run.

    Attributes:
        steps: Of the optimiser.
        batch: Texts a step.
        layers: Last layers that are trained, with the map behind them.
        rate: Learning rate at its highest; it warms up, and falls along a half cosine.
        english: Share of English texts.
        pairs: Share of pairs of names.
        contrast: Weight of the other wanted vectors of a batch, which are not to be answered with.
        temperature: Of that part.
        ridge: Texts of each kind that the map is fitted on before the first step.
        penalty: Of the squared map there.
        seed: Of everything drawn.
    """

    steps: int = 1200
    batch: int = 32
    layers: int = 4
    rate: float = 4e-4
    english: float = 0.5
    pairs: float = 0.2
    contrast: float = 0.03
    temperature: float = 0.05
    ridge: int = 4000
    penalty: float = 0.3
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Texts:
    """What is taught, and what is measured.

    Attributes:
        english: English texts.
        labels: Names of emoji by locale, all in one order.
        taught: Places of emoji that are taught.
        held_out: Places of those that are not.
        pairs: int [n, 3]: places of two emoji, and the pattern that joins them.
        patterns: By locale.
        wanted: Unit vectors `english`, `emoji` and `pairs`.
    """

    english: Sequence[str]
    labels: Mapping[str, Sequence[str]]
    taught: NDArray[np.int64]
    held_out: NDArray[np.int64]
    pairs: NDArray[np.int64]
    patterns: Mapping[str, Sequence[str]]
    wanted: Mapping[str, Floats]

    @property
    def locales(self) -> list[str]:
        """Languages that are taught beside English."""
        return sorted(self.patterns)

    def pair(self, place: int, locale: str) -> str:
        """Return a pair of names in a language."""
        first, second, pattern = self.pairs[place].tolist()
        names = self.labels[locale]
        return self.patterns[locale][pattern].format(names[first], names[second])


class TaughtEncoder(nn.Module):
    """A BERT, the mean of its states at unit length, and a linear map from there."""

    def __init__(self, bert: BertModel, layers: int) -> None:
        """Freeze all of the encoder but its last layers."""
        super().__init__()
        self.bert = bert.requires_grad_(False)
        self._frozen = len(bert.encoder.layer) - layers
        for layer in bert.encoder.layer[self._frozen :]:
            layer.requires_grad_(True)
        width = bert.config.hidden_size
        self.head = nn.Linear(width, width)

    def pooled(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the encoder's own vectors: int64 [b, s], float [b, s] -> unit rows [b, width]."""
        hidden = ((1 - mask) * _HIDDEN)[:, None, None]
        with torch.no_grad():
            rows = self.bert.embeddings(ids)
            for layer in self.bert.encoder.layer[: self._frozen]:
                rows = layer(rows, hidden)[0]
        for layer in self.bert.encoder.layer[self._frozen :]:
            rows = layer(rows, hidden)[0]
        return functional.normalize((rows * mask[..., None]).sum(1), dim=-1)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return vectors of MiniLM's space: int64 [b, s], float [b, s] -> unit rows [b, width]."""
        return functional.normalize(self.head(self.pooled(ids, mask)), dim=-1)


@dataclass
class Teacher:
    """One run: draws batches and steps.

    Attributes:
        model: What is taught.
        texts: With what.
        lesson: How.
        tokenizer: Splits texts.
    """

    model: TaughtEncoder
    texts: Texts
    lesson: Lesson
    tokenizer: Tokenizer
    _ids: dict[str, list[int]] = field(default_factory=dict)

    def teach(self) -> None:
        """Fit the map, then train."""
        rng = np.random.default_rng(self.lesson.seed)
        self.fit_head(rng)
        trained = [one for one in self.model.parameters() if one.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=self.lesson.rate, weight_decay=0.01)
        total, batches = 0.0, self.batches(rng)
        for step in range(self.lesson.steps):
            for group in optimiser.param_groups:
                group["lr"] = self.lesson.rate * schedule(step, self.lesson.steps)
            texts, wanted = next(batches)
            found = self.model(*self.filled(texts))
            loss = self.loss(found, wanted)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            total += float((found.detach() * wanted).sum(-1).mean())
            if (step + 1) % 100 == 0:
                log.info("step %d of %d: cosine %.3f", step + 1, self.lesson.steps, total / 100)
                total = 0.0

    def loss(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Return 1 - cosine, and the cross entropy of finding one's own wanted vector among those of the batch."""
        others = found @ wanted.T / self.lesson.temperature
        same = (wanted @ wanted.T > 0.98) & ~torch.eye(len(wanted), dtype=torch.bool)
        contrast = functional.cross_entropy(others.masked_fill(same, _HIDDEN), torch.arange(len(wanted)))
        return (1 - (found * wanted).sum(-1).mean()) + self.lesson.contrast * contrast

    def batches(self, rng: np.random.Generator) -> Iterator[tuple[list[str], Tensor]]:
        """Yield texts and wanted vectors for ever."""
        while True:
            drawn = [self.draw(rng) for _ in range(self.lesson.batch * _POOL)]
            drawn.sort(key=lambda one: len(self.ids(one[0])))
            groups = [drawn[start : start + self.lesson.batch] for start in range(0, len(drawn), self.lesson.batch)]
            for place in rng.permutation(len(groups)):
                texts, wanted = zip(*groups[place], strict=True)
                yield list(texts), torch.from_numpy(np.stack(wanted))

    def draw(self, rng: np.random.Generator) -> tuple[str, Floats]:
        """Return a text and the vector wanted for it."""
        texts, kind = self.texts, rng.random()
        if kind < self.lesson.english:
            place = int(rng.integers(len(texts.english)))
            return texts.english[place], texts.wanted["english"][place]
        locale = texts.locales[int(rng.integers(len(texts.locales)))]
        if kind < self.lesson.english + self.lesson.pairs:
            place = int(rng.integers(len(texts.pairs)))
            return texts.pair(place, locale), texts.wanted["pairs"][place]
        place = int(texts.taught[rng.integers(len(texts.taught))])
        return texts.labels[locale][place], texts.wanted["emoji"][place]

    def fit_head(self, rng: np.random.Generator) -> None:
        """Set the map to the ridge regression of wanted vectors on the encoder's own."""
        texts, most = self.texts, self.lesson.ridge
        places = rng.permutation(len(texts.english))[:most]
        asked = [texts.english[place] for place in places]
        wanted = [texts.wanted["english"][places]]
        every = [(locale, int(place)) for locale in texts.locales for place in texts.taught]
        some = [every[place] for place in rng.permutation(len(every))[:most]]
        asked += [texts.labels[locale][place] for locale, place in some]
        wanted.append(texts.wanted["emoji"][[place for _, place in some]])
        weight, bias = ridge(self.encode(asked, mapped=False), np.concatenate(wanted), self.lesson.penalty)
        with torch.no_grad():
            self.model.head.weight.copy_(torch.from_numpy(weight))
            self.model.head.bias.copy_(torch.from_numpy(bias))

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], mapped: bool = True) -> Floats:
        """Return unit vectors [n, width], of MiniLM's space or (`mapped` off) the encoder's own."""
        run = self.model if mapped else self.model.pooled
        order = sorted(range(len(texts)), key=lambda place: len(self.ids(texts[place])))
        found = np.empty((len(texts), self.model.head.out_features), np.float32)
        for start in range(0, len(order), self.lesson.batch):
            places = order[start : start + self.lesson.batch]
            found[places] = run(*self.filled([texts[place] for place in places])).numpy()
        return found

    def measure(self) -> dict[str, tuple[float, float]]:
        """Return recall@1 and mean cosine of held-out emoji by locale: names among the English names of all emoji."""
        wanted = self.texts.wanted["emoji"]
        right = self.texts.held_out
        found = {}
        for locale in self.texts.locales:
            vectors = self.encode([self.texts.labels[locale][place] for place in right])
            scores = vectors @ wanted.T
            own = scores[np.arange(len(right)), right]
            found[locale] = float(((scores > own[:, None]).sum(1) == 0).mean()), float(own.mean())
        return found

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text with what the tokenizer puts around it; a long text loses its end."""
        if text not in self._ids:
            ids = self.tokenizer.encode(text).ids
            self._ids[text] = [*ids[: MOST_TOKENS - 1], ids[-1]] if len(ids) > MOST_TOKENS else ids
        return self._ids[text]

    def filled(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids int64 [b, s], filled up on the right, and the mask float [b, s]."""
        rows = [self.ids(text) for text in texts]
        ids = torch.full((len(rows), max(map(len, rows))), PAD)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
        return ids, (ids != PAD).float()


def schedule(step: int, steps: int, warm: int = 30) -> float:
    """Return the share of the learning rate: up along a line, down along a half cosine."""
    return min(1.0, (step + 1) / warm) * max(0.02, 0.5 * (1 + math.cos(math.pi * step / steps)))


def ridge(rows: Floats, wanted: Floats, penalty: float) -> tuple[Floats, Floats]:
    """Return the weight [out, in] and bias [out] that map rows [n, in] to wanted [n, out] best."""
    mean, goal = rows.mean(0, dtype=np.float64), wanted.mean(0, dtype=np.float64)
    centred = rows - mean
    square = centred.T @ centred + penalty * np.eye(rows.shape[1])
    weight = np.linalg.solve(square, centred.T @ (wanted - goal))
    return weight.T.astype(np.float32), (goal - mean @ weight).astype(np.float32)


def load_base(folder: Path, layers: int) -> tuple[TaughtEncoder, Texts, Tokenizer]:
    """Read the folder.

    Raises:
        MagicError: `checkpoint_invalid`.
    """
    from transformers import BertConfig, BertModel

    try:
        facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
        wanted, tensors = load_file(folder / "targets.safetensors"), load_file(folder / "model.safetensors")
        config = BertConfig(  # type: ignore[no-untyped-call]
            vocab_size=facts["vocab"],
            hidden_size=wanted["english"].shape[1],
            num_hidden_layers=facts["layers"],
            num_attention_heads=facts["heads"],
            intermediate_size=len(tensors["encoder.layer.0.intermediate.dense.bias"]),
            max_position_embeddings=len(tensors["embeddings.position_embeddings.weight"]),
            type_vocab_size=len(tensors["embeddings.token_type_embeddings.weight"]),
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            layer_norm_eps=1e-12,
            pad_token_id=PAD,
            attn_implementation="eager",
        )
        bert = BertModel(config, add_pooling_layer=False)  # type: ignore[no-untyped-call]
        bert.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})
        found = _texts(texts, wanted)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise MagicError(ErrorCode.CHECKPOINT_INVALID, f"{folder} cannot be read: {error}.", _REMEDY) from None
    return TaughtEncoder(bert, layers), found, load_tokenizer(folder / "tokenizer.json")


def _texts(facts: Mapping[str, Any], wanted: Mapping[str, Floats]) -> Texts:
    emoji = facts["emoji"]
    held_out = np.array([one["held_out"] for one in emoji])
    return Texts(
        english=facts["english"],
        labels={locale: [one["labels"][locale] for one in emoji] for locale in facts["patterns"]},
        taught=np.flatnonzero(~held_out),
        held_out=np.flatnonzero(held_out),
        pairs=np.array(facts["pairs"]),
        patterns=facts["patterns"],
        wanted=wanted,
    )


def save_taught(folder: Path, base: Path, model: TaughtEncoder, lesson: Lesson, held_out: Mapping[str, Any]) -> None:
    """Write the encoder and its map by BERT's names, the tokenizer, the settings and what was measured.

    Raises:
        MagicError: As `whole_checkpoint`.
    """
    facts = json.loads((base / "config.json").read_text(encoding="utf-8"))
    facts |= {"lesson": asdict(lesson), "held_out": held_out}
    tensors = {**model.bert.state_dict(), **{f"head.{name}": value for name, value in model.head.state_dict().items()}}
    with whole_checkpoint(folder) as staged:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, staged / "model.safetensors")
        (staged / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
        (staged / "config.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Teach, measure and write."""
    parser = argparse.ArgumentParser(prog="python -m magicmm_training.nano.languages", description=__doc__)
    parser.add_argument("base", type=Path, metavar="BASE")
    parser.add_argument("target", type=Path, metavar="OUT", help="does not exist yet")
    parser.add_argument("--steps", type=int, default=Lesson().steps)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    lesson = Lesson(steps=options.steps, seed=options.seed)
    torch.manual_seed(lesson.seed)
    model, texts, tokenizer = load_base(options.base, lesson.layers)
    teacher = Teacher(model, texts, lesson, tokenizer)
    teacher.teach()
    held_out = teacher.measure()
    for locale, (recall, cosine) in held_out.items():
        log.info("held-out emoji, %s: recall@1 %.3f, cosine %.3f", locale, recall, cosine)
    save_taught(options.target, options.base, model, lesson, held_out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
