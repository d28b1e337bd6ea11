"""Training of the built-in model: made-up maps, the objective, and a run of the recipe at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch.nn import functional

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.nano.config import CLS, SEP
from magicmm_model.nano.storing import TOKENIZER, load_nano
from magicmm_training.chain import ChainOptions, run_chain
from magicmm_training.loop.logs import read_log
from magicmm_training.nano.distillation import DistillationObjective
from magicmm_training.nano.maps import CEILING, MapMaker
from magicmm_training.plan import make_plan
from magicmm_training.recipe import Batch, Distillation, Maps, Optimiser
from magicmm_training.recipe_file import load_recipe
from one_thread import one_thread as one_thread
from tiny_nano import TINY, WORDS, tiny_nano, tiny_nano_checkpoint

STEPS = 40


class Alone:
    """One process, as an objective sees it."""

    processes, rank = 1, 0

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        self.last = last
        loss.backward()  # type: ignore[no-untyped-call]

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().reshape(-1)


def stage(**options: object) -> Distillation:
    facts = {"batch": Batch(per_device=8), "optimiser": Optimiser(lr=1e-2), "steps": STEPS, "dtype": "float32"}
    return Distillation.model_validate({"name": "distil", **facts, **options})


def objective(folder: Path, **options: object) -> DistillationObjective:
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    return DistillationObjective(stage(**options), load_nano(folder), tokenizer, WORDS)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_nano_checkpoint(tmp_path_factory.mktemp("nano") / "nano-base")


def test_maps_are_activations_and_show_their_classes() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 400), dtype=np.float32)
    maker = MapMaker(rows, Maps(gain=(12.0, 17.0), cutmix_share=0.0, second_share=0.0))
    right, shown = 0, 0
    for seed in range(200):
        scene = maker.scene(np.random.default_rng(seed))
        assert scene.cells.shape == (16, 400) and scene.cells.dtype == np.float32
        assert scene.cells.min() >= 0 and scene.cells.max() <= CEILING
        if scene.classes:
            shown += 1
            right += int((scene.cells @ rows.T).max(0).argmax() == scene.classes[0])
    assert 130 < shown < 190  # 80 %
    assert right > shown / 2  # clipping takes a part of it


def test_a_composed_sample_is_an_object_a_place_and_the_object_in_the_place() -> None:
    maker = MapMaker(np.random.default_rng(0).standard_normal((5, 30), dtype=np.float32), Maps())
    for seed in range(50):
        thing, place, both = maker.object_in(np.random.default_rng(seed))
        own = (both.cells == thing.cells).all(1)
        assert own.any()
        assert np.array_equal(both.cells[~own], place.cells[~own])
        assert both.classes == (*thing.classes, *place.classes)
        _, place, _ = maker.object_in(np.random.default_rng(seed), (1, 4))
        assert len(place.classes) == 2 and set(place.classes) <= {1, 4}


def test_samples_depend_on_place_and_seed_alone(base: Path) -> None:
    first, second = (objective(base, composed_share=0.5) for _ in range(2))
    assert first.fingerprint == second.fingerprint != objective(base, composed_share=0.4).fingerprint
    seen = set()
    for place in range(20):
        one, other = first.sample(place, 3), second.sample(place, 3)
        assert one.ids == other.ids and np.array_equal(one.cells, other.cells)
        assert not np.array_equal(one.cells, first.sample(place, 4).cells)
        assert one.ids[:2] == (CLS, SEP)
        assert len(one.ids) == 2 or one.ids[-1] == SEP
        assert np.array_equal(one.cells, one.wanted) == (len(one.ids) == 2)
        seen.add(len(one.ids) > 2)
    assert seen == {True, False}


def test_hard_negatives_of_composed_samples_are_ranked_behind(base: Path) -> None:
    options = {"composed_share": 1.0, "cosine_weight": 0.0, "divergence_weight": 0.0, "temperature": 0.1}
    mine, model, engine = objective(base, contrast_weight=0.5, **options), load_nano(base), Alone()
    samples = [mine.sample(place, 0) for place in range(5)]
    result = mine.step(model, samples, engine)
    queries = []
    for one in samples:
        ids = torch.tensor([one.ids])
        queries.append(model(ids, torch.ones_like(ids), torch.from_numpy(one.cells)[None]).detach())
    maps = [*(one.wanted for one in samples), *(cells for one in samples for cells in one.negatives)]
    assert len(maps) == 15
    scores = torch.cat(queries) @ model.teacher(torch.from_numpy(np.stack(maps))).T / 0.1
    assert result.loss == pytest.approx(0.5 * float(functional.cross_entropy(scores, torch.arange(5))), rel=1e-4)


def test_words_of_a_composed_sample_name_a_class_or_a_scene(base: Path) -> None:
    (scene,) = WORDS.scenes
    ids = Tokenizer.from_file(str(base / TOKENIZER)).encode(scene, add_special_tokens=False).ids
    for share in (0.0, 1.0):
        made = objective(base, composed_share=1.0, scene_share=share)
        found = [" ".join(map(str, ids)) in " ".join(map(str, made.sample(place, 0).ids)) for place in range(20)]
        assert set(found) == {share == 1.0}


def test_the_loss_is_cosine_and_divergence(base: Path) -> None:
    options = {"composed_share": 0.0, "cosine_weight": 2.0, "divergence_weight": 0.5, "temperature": 0.1}
    mine, model, engine = objective(base, matryoshka=[8], **options), load_nano(base), Alone()
    samples = [mine.sample(place, 0) for place in range(4)]
    result = mine.step(model, samples, engine)
    assert engine.last
    cells = torch.from_numpy(np.stack([one.cells for one in samples]))
    found, wanted = model.photos(cells[:, None]).detach(), model.teacher(cells)
    cosine = float((found * wanted).sum(-1).mean())
    loss = 2 * (1 - cosine)
    for length in (TINY.width, 8):
        bank = functional.normalize(model.bank.vectors[:, :length], dim=-1)
        shares = [(functional.normalize(one[:, :length], dim=-1) @ bank.T / 0.1).softmax(-1) for one in (wanted, found)]
        loss += 0.5 * float((shares[0] * (shares[0] / shares[1]).log()).sum(-1).mean())
    assert result.loss == pytest.approx(loss, rel=1e-4)
    assert result.counters == {"photo_cosine": pytest.approx(cosine, rel=1e-5)}


def test_the_recipe_trains_photos_and_leaves_texts_alone(base: Path, tmp_path: Path, one_thread: None) -> None:
    recipe = tmp_path / "nano.yaml"
    recipe.write_text(
        "extends: nano\nstages: {distil: {steps: 40, save_every: 10, samples: 512, batch: {per_device: 16},"
        " optimiser: {lr: 1.0e-2}}}\n",
        encoding="utf-8",
    )
    chosen = load_recipe(recipe, ["--data_root", str(base.parent)])
    record = run_chain(chosen, tmp_path / "run", ChainOptions())
    (folder,) = [path.parent for path in (tmp_path / "run").rglob("checkpoint")]
    trained, start = load_nano(folder / "checkpoint"), tiny_nano()
    rows = read_log(folder)
    assert len(rows) == STEPS
    assert (
        np.mean([row["photo_cosine"] for row in rows[-5:]]) > np.mean([row["photo_cosine"] for row in rows[:5]]) + 0.1
    )
    ids, mask = torch.tensor([[2, 5, 10, 3]]), torch.ones(1, 4)
    assert torch.equal(trained(ids, mask), start(ids, mask))
    changed = {name for name, value in trained.state_dict().items() if not torch.equal(value, start.state_dict()[name])}
    assert changed
    assert all(name.endswith((".up", ".down")) or name.startswith("connector.") for name in changed)
    assert "connector.classifier.weight" not in changed
    assert record is not None
    again = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert again["stage"]["kind"] == "distillation"


@pytest.mark.parametrize(
    "option", ["lora: {rank: 4}", "quantised_forward: int8", "gradient_checkpointing: true", "dtype: bfloat16"]
)
def test_options_of_the_large_model_are_refused(base: Path, tmp_path: Path, option: str) -> None:
    recipe = tmp_path / "nano.yaml"
    recipe.write_text(f"extends: nano\nstages: {{distil: {{{option}}}}}\n", encoding="utf-8")
    chosen = load_recipe(recipe, ["--data_root", str(base.parent)])
    with pytest.raises(MagicError) as caught:
        run_chain(chosen, tmp_path / "run", ChainOptions())
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    assert option.split(":")[0] in str(caught.value)


def test_there_is_no_plan_of_the_built_in_model() -> None:
    with pytest.raises(MagicError) as caught:
        make_plan(load_recipe("nano"))
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
