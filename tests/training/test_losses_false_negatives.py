"""The mask of false negatives: each rule alone, their order, and what is never masked."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from magicmm_training.losses.false_negatives import NO_ID, false_negative_mask, id_tensor
from magicmm_training.recipe import FalseNegatives
from one_thread import one_thread as one_thread

OFF = FalseNegatives(same_id=False, same_content=False)


def mask_of(
    config: FalseNegatives,
    query_ids: list[int],
    candidate_ids: list[int],
    contents: list[int],
    scores: Tensor | None = None,
) -> tuple[list[list[int]], dict[str, float]]:
    """Query i's target is candidate i."""
    targets = torch.arange(len(query_ids))
    shown = torch.tensor(contents)
    ids = torch.tensor(query_ids), torch.tensor(candidate_ids)
    mask, counters = false_negative_mask(scores, targets, *ids, shown, shown[targets], config)
    assert mask.dtype is torch.bool
    return mask.int().tolist(), counters


def test_same_id() -> None:
    # Queries 0 and 2 are the same pair, drawn twice.
    found, counters = mask_of(FalseNegatives(same_content=False), [7, 8, 7], [7, 8, 7, NO_ID], [1, 2, 3, 4])
    assert found == [[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert counters == {"masked_same_id": 2}


def test_same_content() -> None:
    # Candidates 0, 2 and the hard negative 3 show the same; each query keeps its own target.
    found, counters = mask_of(FalseNegatives(same_id=False), [7, 8, 9], [7, 8, 9, NO_ID], [1, 2, 1, 1])
    assert found == [[0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 0, 1]]
    assert counters == {"masked_same_content": 4}


def test_margin_takes_what_scores_clearly_above_the_target() -> None:
    scores = torch.tensor([[0.50, 0.61, 0.59], [0.90, 0.70, 0.80]])
    found, counters = mask_of(FalseNegatives(margin=0.1), [1, 2], [1, 2, NO_ID], [1, 2, 3], scores)
    # 0.61 > 0.50 + 0.1 > 0.59, and 0.90 > 0.70 + 0.1.
    assert found[0] == [0, 1, 0]
    assert found[1][0] == 1
    assert counters == {"masked_same_id": 0, "masked_same_content": 0, "masked_margin": 2}


def test_ties_stay() -> None:
    scores = torch.tensor([[0.5, 0.5, 0.75]])
    config = OFF.model_copy(update={"margin": 0.0})
    assert mask_of(config, [1], [1, NO_ID, NO_ID], [1, 2, 3], scores) == ([[0, 0, 1]], {"masked_margin": 1})
    exactly = OFF.model_copy(update={"margin": 0.25})  # 0.5 + 0.25 is exact in binary
    assert mask_of(exactly, [1], [1, NO_ID, NO_ID], [1, 2, 3], scores) == ([[0, 0, 0]], {"masked_margin": 0})


def test_a_negative_margin_masks_below_the_target_but_never_the_target() -> None:
    scores = torch.tensor([[0.5, 0.45, 0.3]])
    config = OFF.model_copy(update={"margin": -0.1})
    assert mask_of(config, [1], [1, NO_ID, NO_ID], [1, 2, 3], scores) == ([[0, 1, 0]], {"masked_margin": 1})


def test_the_first_rule_counts() -> None:
    # Candidate 1 breaks all three rules, candidate 2 content and margin, candidate 3 the margin only.
    scores = torch.tensor([[0.1, 0.9, 0.9, 0.9]])
    found, counters = mask_of(FalseNegatives(margin=0.2), [5], [5, 5, NO_ID, NO_ID], [1, 1, 1, 2], scores)
    assert found == [[0, 1, 1, 1]]
    assert counters == {"masked_same_id": 1, "masked_same_content": 1, "masked_margin": 1}


def test_all_rules_off() -> None:
    assert mask_of(OFF, [5, 5], [5, 5], [1, 1]) == ([[0, 0], [0, 0]], {})


def test_no_gradient_flows_through_the_mask() -> None:
    scores = torch.rand(2, 2, requires_grad=True)
    config = OFF.model_copy(update={"margin": 0.0})
    two = torch.arange(2)
    mask, _ = false_negative_mask(scores, two, two, two, two, two, config)
    assert not mask.requires_grad


def test_the_margin_needs_scores() -> None:
    with pytest.raises(TypeError, match="scores"):
        mask_of(FalseNegatives(margin=0.1), [1], [1], [1])


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_against_a_loop(data: st.DataObject) -> None:
    queries = data.draw(st.integers(1, 5))
    candidates = queries + data.draw(st.integers(0, 4))
    few = st.integers(0, 3)
    query_ids = data.draw(st.lists(few, min_size=queries, max_size=queries))
    candidate_ids = data.draw(st.lists(st.integers(NO_ID, 3), min_size=candidates, max_size=candidates))
    contents = data.draw(st.lists(few, min_size=candidates, max_size=candidates))
    tenths = st.lists(st.integers(-10, 10), min_size=queries * candidates, max_size=queries * candidates)
    scores = torch.tensor(data.draw(tenths), dtype=torch.float64).view(queries, candidates) / 8
    margin = data.draw(st.sampled_from([None, 0.0, 0.125]))
    rules = FalseNegatives(same_id=data.draw(st.booleans()), same_content=data.draw(st.booleans()), margin=margin)
    wanted = [[0] * candidates for _ in range(queries)]
    counts = {"masked_same_id": 0, "masked_same_content": 0, "masked_margin": 0}
    for query in range(queries):
        for candidate in range(candidates):
            if candidate == query:
                continue
            if rules.same_id and query_ids[query] == candidate_ids[candidate]:
                rule = "masked_same_id"
            elif rules.same_content and contents[query] == contents[candidate]:
                rule = "masked_same_content"
            elif margin is not None and scores[query, candidate] > scores[query, query] + margin:
                rule = "masked_margin"
            else:
                continue
            wanted[query][candidate] = 1
            counts[rule] += 1
    found, counters = mask_of(rules, query_ids, candidate_ids, contents, scores)
    assert found == wanted
    assert counters == {name: counts[name] for name in counters}
    assert sum(counters.values()) == sum(counts.values())


def test_ids_are_stable_numbers() -> None:
    found = id_tensor(["a", "b", "a", ""])
    assert found.dtype is torch.int64
    assert found[0] == found[2] != found[1]
    # The first 8 bytes of SHA-256 of nothing are e3b0c44298fc1c14; halved, they fit 63 bits.
    assert int(found[3]) == 0xE3B0C44298FC1C14 // 2
    assert hashlib.sha256().hexdigest().startswith("e3b0c44298fc1c14")
    assert (id_tensor(str(number) for number in range(1000)) >= 0).all()
    assert len(set(id_tensor(str(number) for number in range(1000)).tolist())) == 1000
    assert id_tensor([]).shape == (0,)
