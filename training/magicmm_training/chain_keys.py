"""Keys of stages: a hash of all that a stage's result depends on, so that a changed recipe reruns only what it touches.

A key is made of the kind of the stage and the revision of its code, its options, the keys of the stages that it reads,
the fingerprints of its data, the seed, and for training the number of processes. Places on the machine are no part of
it, nor is what only decides how a run goes on: how often it saves, how many broken samples it tolerates.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.data.files import content_fingerprint
from magicmm_training.data.registry import open_conversations, open_pairs
from magicmm_training.recipe import Contrastive, Evaluation, Judge, Reranker, Restoration, TrainingStage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from magicmm_training.entries import ConversationSet, PairSet
    from magicmm_training.recipe import Benchmark, Recipe, Source, Stage

REVISIONS = {
    "restoration": 1,
    "contrastive": 1,
    "distillation": 1,
    "mining": 1,
    "judge": 1,
    "reranker": 1,
    "evaluation": 1,
}
"""Raised when the code of a kind of stage gives other results: then old ones are not taken for new."""
KEY_DIGITS = 16
_UNIMPORTANT = {"name", "data", "save_every", "max_bad_share", "known_hours", "benchmarks"}
_OF_PLACE = {"path", "licence", "samples"}
_TEXTUAL = {".json", ".jsonl", ".parquet", ".txt", ".tar", ".tsv", ".csv"}


@dataclass(frozen=True, slots=True)
class StageKey:
    """Why a stage has the key that it has.

    Attributes:
        digits: The key.
        facts: All that it is a hash of.
    """

    digits: str
    facts: Mapping[str, Any]


class OpenData:
    """The data sets of a recipe, each opened once however many stages read it."""

    def __init__(self, recipe: Recipe) -> None:
        """Open nothing yet."""
        self.root = Path(recipe.data_root)
        self._seed = recipe.seed
        self._pairs: dict[str, PairSet] = {}
        self._conversations: dict[str, ConversationSet] = {}

    def pairs(self, sources: Sequence[Source]) -> list[tuple[Source, PairSet]]:
        """Return the pair sets of sources.

        Raises:
            MagicError: See `open_pairs`.
        """
        for source in sources:
            if source.model_dump_json() not in self._pairs:
                self._pairs[source.model_dump_json()] = open_pairs(source, self.root, self._seed)
        return [(source, self._pairs[source.model_dump_json()]) for source in sources]

    def conversations(self, sources: Sequence[Source]) -> list[tuple[Source, ConversationSet]]:
        """Return the sets of instruction samples of sources; see `pairs`."""
        for source in sources:
            if source.model_dump_json() not in self._conversations:
                opened = open_conversations(source, self.root, self._seed)
                self._conversations[source.model_dump_json()] = opened
        return [(source, self._conversations[source.model_dump_json()]) for source in sources]


def stage_keys(recipe: Recipe, stages: Sequence[Stage], data: OpenData, processes: int) -> dict[str, StageKey]:
    """Return the key of each stage by name.

    All data of these stages are opened: what is missing is found before anything runs.

    Args:
        recipe: What they are part of.
        stages: Those that shall run, with all that they read, in order.
        data: Of the recipe.
        processes: That train together.

    Raises:
        MagicError: For data, checkpoints or benchmarks that are missing or broken.
    """
    base = base_fingerprint(data.root / recipe.model.base)
    keys: dict[str, StageKey] = {}
    for stage in stages:
        facts: dict[str, Any] = {
            "kind": stage.kind,
            "revision": REVISIONS[stage.kind],
            "options": stage.model_dump(mode="json", exclude=_UNIMPORTANT),
            "data": _data_facts(stage, data),
            "seed": recipe.seed,
            "model": recipe.model.model_dump(mode="json", exclude={"base", "size"}),
            "base": base,
            "inputs": {name: keys[name].digits for name in stage_inputs(stage)},
        }
        if isinstance(stage, TrainingStage):
            facts["processes"] = processes
        if isinstance(stage, Judge):
            facts["judge"] = _judge_fact(stage, keys, data.root)
        text = json.dumps(facts, sort_keys=True)
        keys[stage.name] = StageKey(hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS], facts)
    return keys


def stage_inputs(stage: Stage) -> list[str]:
    """Return the names of the stages that a stage reads."""
    named = [stage.init]
    if isinstance(stage, Contrastive):
        named.append(stage.negatives)
    if isinstance(stage, Reranker):
        named.append(stage.judged)
    if isinstance(stage, Evaluation):
        named.append(stage.reranker)
    return [name for name in named if name is not None]


def base_fingerprint(folder: Path) -> str:
    """Return a name for a checkpoint's content.

    Raises:
        MagicError: `source_unavailable` when the folder holds no checkpoint.
    """
    small = ("config.json", "tokenizer.json", "concepts.json")
    files = sorted([*folder.glob("*.safetensors"), *(folder / name for name in small if (folder / name).exists())])
    if not any(path.suffix == ".safetensors" for path in files):
        raise MagicError(
            ErrorCode.SOURCE_UNAVAILABLE,
            f"{folder} holds no checkpoint.",
            "Set model.base and data_root to where it lies (docs/TRAINING.md).",
        )
    return content_fingerprint(files, {})


def _data_facts(stage: Stage, data: OpenData) -> list[Any]:
    if isinstance(stage, Evaluation):
        return [
            [benchmark.model_dump(mode="json", exclude={"path"}), _benchmark_fingerprint(benchmark, data.root)]
            for benchmark in stage.benchmarks
        ]
    opened: Sequence[tuple[Source, PairSet | ConversationSet]]
    opened = data.conversations(stage.data) if isinstance(stage, Restoration) else data.pairs(stage.data)
    return [[source.model_dump(mode="json", exclude=_OF_PLACE), part.fingerprint] for source, part in opened]


def _benchmark_fingerprint(benchmark: Benchmark, root: Path) -> str:
    """Name a benchmark's rows by content; pictures beside them by name and length."""
    path = root / benchmark.path
    if path.is_file():
        return content_fingerprint([path], {})
    if not path.is_dir():
        raise MagicError(
            ErrorCode.SOURCE_UNAVAILABLE,
            f"Benchmark {benchmark.name!r}: {path} does not exist.",
            "Put it there, or take it out of the recipe (docs/TRAINING.md).",
        )
    files = sorted(file for file in path.rglob("*") if file.is_file())
    others = {str(file.relative_to(path)): file.stat().st_size for file in files if file.suffix not in _TEXTUAL}
    return content_fingerprint([file for file in files if file.suffix in _TEXTUAL], others)


def _judge_fact(stage: Judge, keys: Mapping[str, StageKey], root: Path) -> str:
    model = stage.judge
    if model.kind == "own" and model.path in keys:
        return keys[model.path].digits
    return model.path if model.kind == "endpoint" else base_fingerprint(root / model.path)
