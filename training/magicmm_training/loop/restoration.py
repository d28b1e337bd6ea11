"""The objective of stage 1: next-token loss on the assistant's answers, samples packed into rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.templates import PromptBuilder
from magicmm_model.tiling import photo_tiles
from magicmm_training.entries import image_bytes
from magicmm_training.loop.collate import join_tiles
from magicmm_training.loop.objective import StepResult
from magicmm_training.loop.packing import Chat, PackedRows, pack, packed_rows
from magicmm_training.loop.spans import JoinedSets
from magicmm_training.losses.next_token import IGNORED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from magicmm_model.config import ModelConfig
    from magicmm_model.tokenizer import PromptTokenizer
    from magicmm_training.entries import Conversation, ConversationSet
    from magicmm_training.loop.objective import Engine, SourceSpan
    from magicmm_training.recipe import Restoration, Source


class RestorationObjective:
    """Mean cross entropy of all answer tokens of the batch of all processes.

    `batch.per_device` counts samples. A process packs its share of a step into as few rows of `max_tokens` as it can;
    `batch.micro` rows go through the model at once. The result does not depend on how samples are packed.

    Attributes:
        fingerprint: Of the data.
    """

    def __init__(
        self,
        stage: Restoration,
        data: Sequence[tuple[Source, ConversationSet]],
        config: ModelConfig,
        tokenizer: PromptTokenizer,
    ) -> None:
        """Put the parts together.

        Args:
            stage: Settings.
            data: Each data set with its source, whose `max_tiles` holds for its pictures.
            config: Of the model that is trained.
            tokenizer: Its tokenizer.
        """
        self._stage = stage
        self._chats: JoinedSets[Conversation] = JoinedSets(data)
        self._max_tiles = [source.max_tiles for source, _ in data]
        self._side = config.vision.image_size
        self._prompts = PromptBuilder(config, tokenizer)
        self._special = tokenizer.special
        self._speaks = (tokenizer.special.turn_start, *tokenizer.encode("assistant\n"))
        self.fingerprint = self._chats.fingerprint

    @property
    def spans(self) -> Sequence[SourceSpan]:
        """The data sets."""
        return self._chats.spans

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self._chats)

    def sample(self, place: int, seed: int) -> Chat:
        """Read a chat; nothing about it is random. One that is too long is cut from the right.

        Raises:
            MagicError: For a broken sample, one without answer, or one whose pictures alone are too long.
        """
        row = self._chats[place]
        most = self._max_tiles[self._chats.number(place)]
        tiles = [photo_tiles(image_bytes(image), self._side, most) for image in row.images]
        ids = self._prompts.chat(row.turns, [len(part) for part in tiles]).ids[: -len(self._speaks)]
        answers = self._answers(ids)
        if len(ids) > self._stage.max_tokens:
            ids, cut = ids[: self._stage.max_tokens], ids[self._stage.max_tokens :]
            answers = answers[: len(ids)]
            if self._special.context in cut:
                raise _unusable(row, f"its pictures reach beyond {self._stage.max_tokens:,} tokens")
        if not any(answers):
            raise _unusable(row, "no answer of the assistant is left within the longest sequence")
        texts = tuple(f"{turn.speaker}: {turn.text}" for turn in row.turns)
        return Chat(row.dataset, row.id, ids, answers, join_tiles(tiles), texts)

    def step(self, model: nn.Module, samples: Sequence[Chat], engine: Engine) -> StepResult:
        """Pack, run micro batches and accumulate gradients."""
        device = next(model.parameters()).device
        lengths = [len(chat.ids) for chat in samples]
        rows = pack(lengths, self._stage.max_tokens) if self._stage.packing else [[one] for one in range(len(samples))]
        chats = [[samples[place] for place in row] for row in rows]
        size = self._stage.batch.micro or len(chats)
        micros = [chats[start : start + size] for start in range(0, len(chats), size)]
        packed = [packed_rows(micro, self._special.end) for micro in micros]
        counts = engine.gather(
            torch.tensor([sum(int((part.targets != IGNORED).sum()) for part in packed), len(micros)], device=device)
        ).view(-1, 2)
        targets = int(counts[:, 0].sum())
        # Sharded parameters are gathered by all processes together, so that all need equally many passes.
        for _ in range(int(counts[:, 1].max()) - len(micros)):
            micros.append([[]])
            packed.append(packed_rows([[]], self._special.end))
        summed = torch.zeros(1, device=device)
        for number, (micro, part) in enumerate(zip(micros, packed, strict=True)):
            loss = self._loss(model, micro, part, device)
            summed += loss.detach()
            engine.backward(loss * (engine.processes / targets), last=number == len(micros) - 1)
        counters = {
            "target_tokens": float(targets),
            "tokens": float(engine.gather(torch.tensor([sum(lengths)], device=device)).sum()),
            "rows": float(engine.gather(torch.tensor([len(rows)], device=device)).sum()),
        }
        return StepResult(float(engine.gather(summed).sum()) / targets, counters)

    @staticmethod
    def _loss(
        model: nn.Module, rows: Sequence[Sequence[Chat]], packed: PackedRows, device: torch.device
    ) -> torch.Tensor:
        loss: torch.Tensor = model(
            packed.ids.to(device),
            join_tiles([chat.tiles for row in rows for chat in row], device),
            targets=packed.targets.to(device),
            positions=packed.positions.to(device),
            mask=None if packed.mask is None else packed.mask.to(device),
        )
        return loss

    def _answers(self, ids: Sequence[int]) -> tuple[bool, ...]:
        """Mark what follows each `<|im_start|>assistant`, up to and with its `<|im_end|>`.

        Special tokens never come out of a text, so that the marks are those of the template.
        """
        marks = [False] * len(ids)
        for start, token in enumerate(ids):
            if token != self._special.turn_start or tuple(ids[start : start + len(self._speaks)]) != self._speaks:
                continue
            for place in range(start + len(self._speaks), len(ids)):
                marks[place] = True
                if ids[place] == self._special.turn_end:
                    break
        return tuple(marks)


def _unusable(row: Conversation, reason: str) -> MagicError:
    return MagicError(
        ErrorCode.ARGUMENT_INVALID,
        f"The sample {row.id} of {row.dataset} cannot be used: {reason}.",
        "Shorten it, or raise max_tokens.",
    )
