"""Tiny data, stages and objectives for tests of the training loop, and how these are started in other processes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import loop_worker
from magicmm.errors import ErrorCode, MagicError
from magicmm_model.loading import load_model
from magicmm_model.model import MagicModel
from magicmm_model.templates import Side, Turn
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_training.entries import Conversation, Entry, Pair
from magicmm_training.loop.contrastive import ContrastiveObjective, HardNegatives
from magicmm_training.loop.loop import Progress, train
from magicmm_training.loop.objective import Objective
from magicmm_training.loop.restoration import RestorationObjective
from magicmm_training.loop.trainee import MagicTrainee
from magicmm_training.recipe import Batch, Contrastive, Optimiser, Restoration, Source, TrainingStage
from tiny_checkpoints import write_checkpoint

COLOURS = ("red", "green", "blue", "yellow", "black", "white", "grey", "pink", "brown", "orange", "cyan", "violet")
FAST: dict[str, Any] = {"compression": 1, "image_size": 224}
"""Tiles of 224 pixels: 64 visual tokens out of a quarter of the patches."""


def write_base(folder: Path) -> Path:
    """Write a tiny checkpoint, and return it."""
    write_checkpoint(folder)
    return folder


def load(folder: Path, **options: Any) -> MagicModel:
    return load_model(folder, head=True, **{**FAST, **options})


def tokenizer_of(folder: Path) -> PromptTokenizer:
    return PromptTokenizer(folder / "tokenizer.json")


def photo(seed: int) -> bytes:
    """A PNG of one noisy colour."""
    rng = np.random.default_rng(seed)
    return png((rng.integers(0, 200, 3) + rng.integers(0, 50, (40, 30, 3))).astype(np.uint8))


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Rows(list):  # type: ignore[type-arg]
    """A list as a data set; places in `broken` cannot be read."""

    def __init__(self, name: str, rows: Sequence[Any], broken: Sequence[int] = ()) -> None:
        super().__init__(rows)
        self.name = name
        self.fingerprint = hashlib.sha256(repr((name, len(rows))).encode()).hexdigest()
        self.broken = frozenset(broken)

    def __getitem__(self, place: Any) -> Any:
        if place in self.broken:
            raise MagicError(ErrorCode.IMAGE_INVALID, f"photo {place} is torn.", "Restore it.")
        return super().__getitem__(place)


def text_entry(text: str, side: Side = Side.CANDIDATE) -> Entry:
    return Entry(text, None, "Represent the given query.", side)


def photo_entry(seed: int) -> Entry:
    return Entry(None, photo(seed), "Represent the given image.", Side.CANDIDATE)


def pair(name: str, number: int, *, picture: bool, negatives: int = 0) -> Pair:
    words = f"{COLOURS[number % 12]} {COLOURS[number // 12 % 12]}"
    target = photo_entry(number) if picture else text_entry(f"a {words} dog on the beach")
    others = tuple(text_entry(f"not {COLOURS[(number + other) % 12]} {other}") for other in range(negatives))
    return Pair(str(number), name, text_entry(words, Side.QUERY), target, others)


def texts(name: str = "texts", count: int = 12, **options: Any) -> Rows:
    broken = options.pop("broken", ())
    return Rows(name, [pair(name, number, picture=False, **options) for number in range(count)], broken)


def photos(name: str = "photos", count: int = 6, **options: Any) -> Rows:
    broken = options.pop("broken", ())
    return Rows(name, [pair(name, number, picture=True, **options) for number in range(count)], broken)


def chats(name: str = "chats", count: int = 8, *, pictures: bool = True) -> Rows:
    """Every third chat has a picture, every fourth two answers."""
    rows = []
    for number in range(count):
        seen = pictures and number % 3 == 0
        turns = [
            Turn("user", ("<image>\n" if seen else "") + f"what is {COLOURS[number % 12]}?"),
            Turn("assistant", f"a {COLOURS[(5 * number + 1) % 12]} dog" + " on the beach" * (number % 3)),
        ]
        if number % 4 == 0:
            turns += [Turn("user", "and then?"), Turn("assistant", "sunset")]
        rows.append(Conversation(str(number), name, tuple(turns), (photo(number),) if seen else ()))
    return Rows(name, rows)


def source(name: str, **options: Any) -> Source:
    return Source(name=name, format="pairs", path="unused", **options)


def contrastive_stage(**options: Any) -> Contrastive:
    defaults: dict[str, Any] = {
        "name": "warm-up",
        "batch": Batch(per_device=4),
        "optimiser": Optimiser(lr=1e-3, warmup_share=0.1),
        "dtype": "float32",
        "steps": 4,
    }
    return Contrastive(**{**defaults, **options})


def restoration_stage(**options: Any) -> Restoration:
    defaults: dict[str, Any] = {
        "name": "restore",
        "batch": Batch(per_device=4),
        "optimiser": Optimiser(lr=1e-3, warmup_share=0.1),
        "dtype": "float32",
        "steps": 4,
        "max_tokens": 400,
    }
    return Restoration(**{**defaults, **options})


def contrastive(
    folder: Path,
    stage: Contrastive,
    *sets: Rows,
    weights: Sequence[float | None] = (),
    negatives: HardNegatives | None = None,
) -> ContrastiveObjective:
    weights = weights or [None] * len(sets)
    data = [(source(rows.name, weight=weight), rows) for rows, weight in zip(sets, weights, strict=True)]
    return ContrastiveObjective(stage, data, load(folder).config, tokenizer_of(folder), negatives)


def restoration(folder: Path, stage: Restoration, *sets: Rows) -> RestorationObjective:
    return RestorationObjective(
        stage, [(source(rows.name), rows) for rows in sets], load(folder).config, tokenizer_of(folder)
    )


DATA: dict[str, Callable[[], list[Rows]]] = {
    "texts": lambda: [texts()],
    "both": lambda: [texts(), photos()],
    "mixed": lambda: [Rows("mixed", [pair("mixed", n, picture=n % 3 == 0, negatives=n % 3) for n in range(12)])],
    "chats": lambda: [chats()],
    "torn photos": lambda: [texts(), photos(broken=[1])],
    "torn": lambda: [texts(broken=range(1, 12))],
}
"""Data sets by a name that another process is told."""


@dataclass(frozen=True)
class Job:
    """A run that may be started in another process.

    Attributes:
        base: Checkpoint folder of the start.
        out: Folder of the run.
        kind: "contrastive" or "restoration".
        stage: Changed settings, as JSON.
        data: Key of `DATA`.
        shard: See `train`.
        half: Load the start in bfloat16, as checkpoints are published.
        kill_after: Die by SIGKILL after so many steps.
        kill_saving: Die by SIGKILL while the state after so many steps is being saved.
    """

    base: str
    out: str
    kind: str
    stage: dict[str, Any]
    data: str
    shard: bool = False
    half: bool = False
    kill_after: int | None = None
    kill_saving: int | None = None

    def run(self, progress: Progress | None = None) -> Path:
        """Run it here."""
        base, sets = Path(self.base), DATA[self.data]()
        objective: Objective
        stage: TrainingStage
        if self.kind == "contrastive":
            stage = contrastive_stage(**self.stage)
            objective = contrastive(base, stage, *sets)
        else:
            stage = restoration_stage(**self.stage)
            objective = restoration(base, stage, *sets)
        out, model = Path(self.out), load(base, dtype=torch.bfloat16 if self.half else None)
        trainee = MagicTrainee(model, base)
        return train(stage, objective, trainee, out, seed=3, shard=self.shard, progress=progress)


def start(jobs: Sequence[Job], processes: int = 1) -> subprocess.CompletedProcess[str]:
    """Run jobs, one after the other, in other processes, which torchrun starts when there are several."""
    paths = [str(Path(loop_worker.__file__).parent), *filter(None, sys.path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    return subprocess.run(
        [sys.executable, *launcher, loop_worker.__file__, json.dumps([asdict(job) for job in jobs])],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )


def run(base: Path, stage: TrainingStage, objective: Objective, out: Path, **options: Any) -> Path:
    """Train the checkpoint `base` and return the new one."""
    model = options.pop("model", None) or load(base)
    return train(stage, objective, MagicTrainee(model, base), out, **{"seed": 3, **options})


def same_but_for_rounding(first: Path, second: Path) -> bool:
    """Return whether two checkpoints are equal but for the order of sums.

    Adam divides by the size of a gradient, which makes rounding visible where a gradient is nearly zero: a few weights
    may differ by a tenth of what a run of four steps at 1e-3 can move them, all of them together hardly at all.
    """
    ours, theirs = weights_of(first), weights_of(second)
    differences = torch.cat([(ours[name] - theirs[name]).abs().flatten() for name in ours])
    return bool(differences.max() < 4e-4 and differences.mean() < 1e-7)


def distance(first: Path, second: Path) -> float:
    """Return the largest difference of any weight of two checkpoints."""
    ours, theirs = weights_of(first), weights_of(second)
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def weights_of(folder: Path) -> dict[str, Tensor]:
    """Read a checkpoint's parameters by name."""
    return dict(load(folder).named_parameters())
