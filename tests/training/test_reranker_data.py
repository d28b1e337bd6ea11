"""What is drawn for the reranker: positives are true or approved, negatives rejected, places and numbers as told."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from judged_pairs import PAGES, TOYS, beach_pairs, judged
from magicmm import ErrorCode, MagicError
from magicmm_training.loop.objective import SourceSpan
from magicmm_training.reranker.data import JudgedQueries
from training_pairs import MemoryPairs

PAIRS = beach_pairs(6)


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> JudgedQueries:
    return JudgedQueries([(TOYS, PAIRS)], judged(tmp_path_factory.mktemp("judged"), PAIRS))


def test_candidates_come_from_the_judgement(queries: JudgedQueries) -> None:
    positives: Counter[str | None] = Counter()
    for seed in range(200):
        drawn = queries.draw(2, (2, 5), seed)
        assert (drawn.dataset, drawn.id, drawn.query) == ("toys", "id 2", PAIRS[2].query)
        positives[drawn.positive.text] += 1
        assert set(drawn.negatives) <= set(PAIRS[0].negatives)
        assert len(set(drawn.negatives)) == len(drawn.negatives)
    assert set(positives) == {"a dog on the beach 2", "a dog on the beach 3"}
    assert min(positives.values()) > 70


def test_numbers_and_places_are_all_drawn(queries: JudgedQueries) -> None:
    seen: Counter[tuple[int, int]] = Counter()
    for seed in range(600):
        drawn = queries.draw(0, (2, 5), seed)
        seen[len(drawn.negatives), drawn.place] += 1
    assert set(seen) == {(count, place) for count in (2, 3, 4, 5) for place in range(count + 1)}
    assert min(seen.values()) > 10


def test_every_negative_is_the_first_now_and_then(queries: JudgedQueries) -> None:
    assert len({queries.draw(0, (2, 2), seed).negatives[0] for seed in range(100)}) == PAGES


def test_place_and_seed_decide(queries: JudgedQueries) -> None:
    assert queries.draw(3, (2, 5), 7) == queries.draw(3, (2, 5), 7)
    assert len({queries.draw(3, (2, 5), seed) for seed in range(20)}) > 10


def test_few_negatives_are_all_taken_and_none_leave_the_query_out(tmp_path: Path) -> None:
    queries = JudgedQueries([(TOYS, PAIRS)], judged(tmp_path, PAIRS, [0, 1, 2, 0, 3, 7]))
    assert len(queries) == 4
    assert queries.spans == (SourceSpan("toys", 0, 4, None),)
    assert [queries.draw(place, (2, 5), 0).id for place in range(4)] == ["id 1", "id 2", "id 4", "id 5"]
    assert [len(queries.draw(place, (5, 5), 0).negatives) for place in range(4)] == [1, 2, 3, 5]
    assert {queries.draw(0, (2, 5), seed).place for seed in range(20)} == {0, 1}


def test_sets_stand_one_after_the_other(tmp_path: Path) -> None:
    judgement = judged(tmp_path, PAIRS)
    unknown = MemoryPairs(PAIRS.pairs, "unjudged")
    weighted = replace(PAIRS)
    data = [
        (TOYS.model_copy(update={"name": "unjudged"}), unknown),
        (TOYS.model_copy(update={"weight": 2.0}), weighted),
    ]
    queries = JudgedQueries(data, judgement)
    assert queries.spans == (SourceSpan("toys", 0, 6, 2.0),)
    assert queries.fingerprint != JudgedQueries([(TOYS, PAIRS)], judgement).fingerprint


def test_data_without_rejected_candidates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MagicError, match="rejected no candidate") as caught:
        JudgedQueries([(TOYS, PAIRS)], judged(tmp_path, PAIRS, [0] * 6))
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_another_pair_at_a_place_is_refused(tmp_path: Path) -> None:
    judgement = judged(tmp_path, PAIRS)
    others = MemoryPairs([replace(pair, id=f"else {pair.id}") for pair in PAIRS])
    with pytest.raises(MagicError, match="is not the one that was judged"):
        JudgedQueries([(TOYS, others)], judgement).draw(0, (2, 5), 0)
