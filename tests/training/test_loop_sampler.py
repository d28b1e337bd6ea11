"""Batches: each sample once an epoch, one data set a batch, shares by weight, the same for any number of processes."""

from __future__ import annotations

from collections import Counter

import pytest

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.loop.objective import SourceSpan
from magicmm_training.loop.sampler import BatchSampler, seed_of

SPANS = (SourceSpan("a", 0, 10), SourceSpan("b", 10, 13), SourceSpan("c", 13, 30))


def epoch(sampler: BatchSampler, number: int = 0) -> list[tuple[int, ...]]:
    steps = sampler.steps_per_epoch
    return [sampler.batch(step).places for step in range(number * steps, (number + 1) * steps)]


def test_without_weights_an_epoch_has_every_sample_once_but_for_the_last_batches() -> None:
    sampler = BatchSampler(SPANS, 4, single_source=True, seed=1)
    assert sampler.steps_per_epoch == 3 + 1 + 5
    for number in range(3):
        seen = Counter(place for places in epoch(sampler, number) for place in places)
        assert set(seen) == set(range(30))
        # Filled up: 2 of a, 1 of b, 3 of c.
        assert sum(seen.values()) - 30 == 2 + 1 + 3
        assert max(seen.values()) == 2


def test_batches_hold_one_data_set_and_say_which() -> None:
    sampler = BatchSampler(SPANS, 4, single_source=True, seed=1)
    sources = [sampler.batch(step).source for step in range(9)]
    for step, source in enumerate(sources):
        assert {sampler.span_of(place).name for place in sampler.batch(step).places} == {source}
    assert Counter(sources) == {"a": 3, "b": 1, "c": 5}
    assert sources != sorted(sources, key=str), "the data sets are shuffled"


def test_a_data_set_smaller_than_a_batch_is_repeated() -> None:
    sampler = BatchSampler([SourceSpan("a", 0, 3)], 8, single_source=True, seed=0)
    assert sampler.steps_per_epoch == 1
    assert Counter(sampler.batch(0).places).most_common()[0][1] == 3
    assert set(sampler.batch(0).places) == {0, 1, 2}


def test_the_order_depends_on_seed_epoch_and_nothing_else() -> None:
    sampler = BatchSampler(SPANS, 4, single_source=True, seed=1)
    forwards = [sampler.batch(step) for step in range(27)]
    fresh = BatchSampler(SPANS, 4, single_source=True, seed=1)
    assert [fresh.batch(step) for step in reversed(range(27))] == forwards[::-1]
    assert [batch.epoch for batch in forwards] == [0] * 9 + [1] * 9 + [2] * 9
    assert epoch(sampler, 0) != epoch(sampler, 1)
    assert epoch(sampler) != epoch(BatchSampler(SPANS, 4, single_source=True, seed=2))


def test_mixed_batches_hold_every_sample_once() -> None:
    sampler = BatchSampler(SPANS, 4, single_source=False, seed=1)
    assert sampler.steps_per_epoch == 8
    seen = Counter(place for places in epoch(sampler) for place in places)
    assert set(seen) == set(range(30)) and sum(seen.values()) == 32
    assert all(batch.source is None for batch in map(sampler.batch, range(8)))
    assert any(len({sampler.span_of(place).name for place in places}) > 1 for places in epoch(sampler))


@pytest.mark.parametrize("single_source", [True, False])
def test_weights_are_shares_of_an_epoch_as_long_as_one_pass(single_source: bool) -> None:
    spans = [SourceSpan("small", 0, 40, weight=3.0), SourceSpan("large", 40, 400, weight=1.0)]
    sampler = BatchSampler(spans, 4, single_source=single_source, seed=5)
    assert sampler.steps_per_epoch == 100
    seen = Counter(place < 40 for places in epoch(sampler) for place in places)
    assert seen == {True: 300, False: 100}


def test_a_weighted_data_set_goes_on_where_the_last_epoch_stopped() -> None:
    spans = [SourceSpan("small", 0, 8, weight=3.0), SourceSpan("large", 8, 32, weight=1.0)]
    sampler = BatchSampler(spans, 4, single_source=True, seed=5)
    assert sampler.steps_per_epoch == 8  # 6 of small, 2 of large
    large = [place for number in range(3) for places in epoch(sampler, number) for place in places if place >= 8]
    assert sorted(large) == list(range(8, 32)), "three epochs make one pass over the large set"
    small = Counter(place for places in epoch(sampler) for place in places if place < 8)
    assert set(small.values()) == {3}


def test_a_tiny_weight_still_gives_a_batch() -> None:
    spans = [SourceSpan("a", 0, 40, weight=1000.0), SourceSpan("b", 40, 44, weight=0.001)]
    sampler = BatchSampler(spans, 4, single_source=True, seed=0)
    assert {sampler.batch(step).source for step in range(sampler.steps_per_epoch)} == {"a", "b"}


def test_processes_share_the_batch_that_one_would_have() -> None:
    whole = BatchSampler(SPANS, 4, single_source=True, seed=1)
    assert BatchSampler(SPANS, 2 * 2, single_source=True, seed=1).batch(5) == whole.batch(5)


def test_a_replacement_is_of_the_same_data_set_and_always_the_same() -> None:
    sampler = BatchSampler(SPANS, 4, single_source=True, seed=1)
    drawn = [sampler.replacement(11, step, 0) for step in range(20)]
    assert set(drawn) == {10, 11, 12}
    assert drawn == [sampler.replacement(11, step, 0) for step in range(20)]


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        ([], "no data"),
        ([SourceSpan("void", 0, 0)], "void is empty"),
        ([SourceSpan("a", 0, 2, 1.0), SourceSpan("b", 2, 4)], "b have none"),
    ],
)
def test_data_that_makes_no_batch_is_refused(spans: list[SourceSpan], words: str) -> None:
    with pytest.raises(MagicError, match=words) as caught:
        BatchSampler(spans, 4, single_source=True, seed=0)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_seeds_differ_by_every_part() -> None:
    seeds = {seed_of(seed, name, step) for seed in range(3) for name in ("a", "b") for step in range(5)}
    assert len(seeds) == 30 and all(0 <= seed < 1 << 63 for seed in seeds)
