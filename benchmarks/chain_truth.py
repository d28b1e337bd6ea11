"""The last round of training with hard negatives that a perfect judge chose: the most that judging can give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from magicmm_training.chain_training import Job, run_job
from magicmm_training.entries import PairSet
from magicmm_training.mining.negative_rows import NegativesRow
from magicmm_training.mining.negatives import Negatives, NegativesWriter
from magicmm_training.recipe import Recipe
from magicmm_training.scenes import Truth


def train_on_truth(
    recipe: Recipe, stage: str, start: Path, ranked: Path, pair_sets: Sequence[PairSet], truth: Truth, folder: Path
) -> Path:
    """Train a stage on candidates that truly do not fit; return its checkpoint. A killed run goes on.

    Args:
        recipe: Whose stage it is.
        stage: Name of a contrastive stage with hard negatives.
        start: Checkpoint that it starts from.
        ranked: Output of a mining stage that kept each query's best candidates, fitting ones among them.
        pair_sets: Data of both.
        truth: Says what fits.
        folder: For the result.
    """
    options: Any = recipe.stage(stage)
    checkpoint = folder / "checkpoint"
    if not checkpoint.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write_negatives(ranked, pair_sets, truth, options.negatives_each, folder)
        run_job(Job(recipe, stage, folder, start, folder))
    return checkpoint


def _write_negatives(ranked: Path, pair_sets: Sequence[PairSet], truth: Truth, each: int, folder: Path) -> None:
    found = Negatives.load(ranked, pair_sets)
    with NegativesWriter(folder, "judge", pair_sets) as writer:
        for pairs in pair_sets:
            for place in range(len(pairs)):
                row = found.row(pairs.name, pairs[place].id)
                if row is not None:
                    data = f"train-{pairs.name}"
                    wrong = [ref for ref in row.negatives if not truth.fits(data, row.query_id, ref.pair_id)]
                    writer.write(NegativesRow(row.dataset, row.place, row.query_id, tuple(wrong[:each])))
