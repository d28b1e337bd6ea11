"""Global hard-negative mining: rank all candidates of a data set, drop the truth, sample from a window of ranks.

Paper 3.2: two negatives from ranks 50 to 100, because what ranks higher is too often another true target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.mining.choice import chance, choose
from magicmm_training.mining.embedded import EmbeddedSet, check_names
from magicmm_training.mining.negative_rows import NegativesRow
from magicmm_training.mining.negatives import NegativesWriter
from magicmm_training.mining.report import MinedSet, MiningReport, write_report
from magicmm_training.mining.vectors import VectorCache

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from magicmm_training.entries import EntryEmbedder, PairSet
    from magicmm_training.mining.embedded import Progress, RankedQuery
    from magicmm_training.recipe import Mining

VECTORS = "vectors"


def mine(
    stage: Mining,
    pair_sets: Sequence[PairSet],
    embedder: EntryEmbedder,
    out: Path,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    vectors: Path | None = None,
    device: torch.device | str = "cpu",
) -> MiningReport:
    """Write the hard negatives of all queries to `out`, and a report beside them.

    A run that was killed and starts again embeds only what is missing. The same seed gives the same negatives,
    whatever the batch; a query's own positive, positives of queries with the same content, and the query itself are
    never among them.

    Args:
        stage: What is asked for.
        pair_sets: The stage's data, each a pool of candidates of its own.
        embedder: Ranks.
        out: Folder of the result.
        seed: Of the samples.
        progress: Called with (what is done, how much of it, of how much).
        vectors: Folder of cached vectors, which other stages may share; None = in `out`.
        device: Where torch ranks.

    Raises:
        MagicError: `argument_invalid` for an empty data set, equal names, or data in which no query has a negative;
            the first fault when more than 1 % of a data set is broken; `runtime_failed`, `storage_failed`.
    """
    check_names(pair_sets)
    mined: list[MinedSet] = []
    cache = VectorCache(vectors or out / VECTORS, embedder, stage.batch)
    with NegativesWriter(out, "mining", pair_sets) as writer:
        for pairs in pair_sets:
            embedded = EmbeddedSet.of(pairs, cache, progress)
            counts = MinedSet(pairs.name, len(pairs), len(embedded.faults), len(embedded.candidates.ids))
            mined.append(counts)
            for done, ranked in enumerate(embedded.ranked(stage.ranks[1], stage.backend, device), start=1):
                writer.write(_row(stage, embedded, ranked, seed, counts))
                if progress:
                    progress(f"{pairs.name}: negatives", done, len(embedded.usable))
        if not any(counts.negatives for counts in mined):
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                "No query has a hard negative: all candidates are true targets, or closer than the margin allows.",
                "Check that the data has different targets, and the stage's margin.",
            )
    report = MiningReport(embedder.name, tuple(mined))
    write_report(out, report.to_json())
    return report


def _row(stage: Mining, embedded: EmbeddedSet, ranked: RankedQuery, seed: int, counts: MinedSet) -> NegativesRow:
    bits = chance(seed, counts.dataset, ranked.pair_id)
    choice = choose(stage, ranked.scores, ranked.positive, bits)
    negatives = tuple(embedded.ref(int(ranked.candidates[rank])) for rank in choice.ranks)
    counts.negatives += len(negatives)
    counts.fewer += len(negatives) < stage.each
    counts.none += not negatives
    counts.small_pool += choice.is_small
    counts.above_margin += choice.above_margin
    counts.first += not len(ranked.scores) or bool(ranked.positive > ranked.scores[0])
    return NegativesRow(counts.dataset, ranked.place, ranked.pair_id, negatives)
