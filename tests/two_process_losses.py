"""Contrastive batches split over two processes: the model and data of both, and the program that each runs.

    python two_process_losses.py RANK MEETING_FILE OUTPUT_FOLDER

Rank r writes the gradients of every case to OUTPUT_FOLDER/r.safetensors and losses and counters to r.json.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, distributed, nn

from magicmm import MagicError
from magicmm_training.losses.contrastive import ContrastiveBatch, ContrastiveLoss
from magicmm_training.losses.distillation import MISSING
from magicmm_training.losses.false_negatives import NO_ID, id_tensor
from magicmm_training.losses.gather import gather_batch
from magicmm_training.losses.gradcache import cached_backward
from magicmm_training.recipe import Loss
from training_engines import GroupEngine

PROCESSES = 2
FEATURES, HIDDEN, DIM = 5, 16, 8
CASES = {
    "plain": {},
    "cool": {"temperature": 0.5},
    "symmetric": {"symmetric": True},
    "matryoshka": {"matryoshka": (2, 4)},
    "int8": {"precision": "int8"},
    "margin": {"false_negatives": {"margin": 0.05}},
    "judge": {"judge_weight": 0.7, "judge_temperature": 2.0},
    "all": {
        "symmetric": True,
        "matryoshka": (4,),
        "precision": "binary",
        "false_negatives": {"margin": 0.3},
        "judge_weight": 0.3,
    },
}
"""Settings of the loss by name; every batch has hard negatives, a repeated id and a repeated content."""


class Embedder(nn.Module):
    """Unit vectors, with dropout."""

    def __init__(self) -> None:
        """Take the same weights in every process."""
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(FEATURES, HIDDEN), nn.Tanh(), nn.Dropout(0.3), nn.Linear(HIDDEN, DIM), nn.Dropout(0.1)
        ).double()
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5

    def forward(self, inputs: Tensor) -> Tensor:
        """[n, features] -> unit rows [n, dim]."""
        return nn.functional.normalize(self.layers(inputs), dim=1)


@dataclass(frozen=True)
class Share:
    """What one process has of a batch: rows are queries, then positives, then hard negatives."""

    inputs: Tensor
    hard: tuple[int, ...]
    ids: tuple[str, ...]
    positive_contents: tuple[str, ...]
    margins: tuple[tuple[float, ...], ...]
    seed: int

    def micros(self) -> list[Tensor]:
        """Three micro batches of uneven size, cut across queries and candidates."""
        edges = (0, 2, 7, len(self.inputs))
        return [self.inputs[start:stop] for start, stop in pairwise(edges)]

    def batch(self, rows: Tensor) -> ContrastiveBatch:
        """Put vectors in their places."""
        count = len(self.hard)
        own = torch.full((count, 1 + max(self.hard)), MISSING)
        margins = torch.full(own.shape, torch.nan, dtype=torch.float64)
        place = count
        for query, hard in enumerate(self.hard):
            own[query, 0] = query
            own[query, 1 : 1 + hard] = torch.arange(place, place + hard)
            place += hard
            judged = self.margins[query]
            margins[query, : len(judged)] = torch.tensor(judged, dtype=torch.float64)
        names = [f"hard {self.seed} {number}" for number in range(sum(self.hard))]
        ids = id_tensor(self.ids)
        return ContrastiveBatch(
            queries=rows[:count],
            candidates=rows[count:],
            targets=torch.arange(count),
            query_ids=ids,
            candidate_ids=torch.cat([ids, torch.full((len(names),), NO_ID)]),
            candidate_contents=id_tensor([*self.positive_contents, *names]),
            own=own,
            margins=margins,
        )


def shares() -> list[Share]:
    """Both processes' data: 3 and 4 queries, with 3 and 6 hard negatives."""
    generator = torch.Generator().manual_seed(1)

    def inputs(rows: int) -> Tensor:
        return torch.randn(rows, FEATURES, generator=generator, dtype=torch.float64)

    first = Share(inputs(9), (2, 1, 0), ("a", "b", "c"), ("A", "B", "C"), ((4.0, -2.0, 1.0), (3.0, -1.0), ()), 100)
    second = Share(
        inputs(14),
        (0, 3, 1, 2),
        ("d", "a", "e", "f"),  # "a" stands in both processes
        ("D", "G", "B", "F"),  # so does the content "B"
        ((2.0,), (1.0, -3.0, 0.5, -1.0), (2.0, 0.0), (1.5,)),
        200,
    )
    return [first, second]


def main(rank: int, meeting: Path, folder: Path) -> None:
    """Run all cases as one of the processes."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=meeting.as_uri(), rank=rank, world_size=PROCESSES)
    share = shares()[rank]
    gradients: dict[str, Tensor] = {}
    results: dict[str, Any] = {}
    for name, settings in CASES.items():
        model = Embedder()
        engine = GroupEngine(model)
        loss = ContrastiveLoss(Loss.model_validate(settings))
        torch.manual_seed(share.seed)

        def of_rows(rows: Tensor, loss: ContrastiveLoss = loss, engine: GroupEngine = engine) -> Any:
            return loss(gather_batch(share.batch(rows), engine))

        result = cached_backward(model, share.micros(), of_rows, engine)
        results[name] = {"loss": result.loss, "counters": dict(result.counters), "flags": engine.flags}
        gradients |= {f"{name}.{key}": value.grad for key, value in model.named_parameters() if value.grad is not None}
    engine = GroupEngine(model)
    try:
        cached_backward(model, share.micros()[rank:], lambda rows: (rows.sum(), {}), engine)
    except MagicError as error:
        results["uneven"] = [error.code.value, error.message]
    save_file(gradients, folder / f"{rank}.safetensors")
    (folder / f"{rank}.json").write_text(json.dumps(results), encoding="utf-8")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
