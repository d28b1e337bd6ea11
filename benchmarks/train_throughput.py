"""How fast and how large is a training step: 64 against 256 visual tokens, GradCache against plain, 2 processes.

A contrastive stage of text queries and photos, all parameters trained in float32, runs in a process of its own for each
variant; variants take turns. The model is small and has random weights (its size is printed): what carries over to a
large one are ratios, not samples a second. Vision and language of it share the work about as in the 2B model.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from report import CACHE, ROOT, Report, child_environment, parser, run_child

if TYPE_CHECKING:
    from magicmm_training.entries import Pair

SIZES = {"quick": ((32, 2, 2, 64), (48, 2, 4, 2, 96)), "small": ((128, 3, 4, 512), (224, 6, 4, 2, 896))}
"""Width, layers, heads and inner width of vision and language (there with key and value heads)."""
WARM_UP = 1
"""Steps that are not counted: the first ones allocate."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to take the same step.

    Attributes:
        name: For the tables.
        batch: Pairs over all processes.
        image_size: Side of a tile.
        compression: 2 = a quarter of the visual tokens.
        micro: Pairs that go through the model at once; None = all.
        recompute: Gradient checkpointing.
        processes: That share the batch, each with one thread; 0 = one process with all threads.
        shard: FSDP2.
    """

    name: str
    batch: int
    image_size: int = 448
    compression: int = 2
    micro: int | None = None
    recompute: bool = False
    processes: int = 0
    shard: bool = False


def variants(batch: int) -> dict[str, list[Variant]]:
    """Return what is compared; the first of each table is what the others are held against."""
    small = max(1, batch // 4)
    return {
        "Visual tokens": [
            Variant("448 px, 64 tokens", batch),
            Variant("448 px, 256 tokens", batch, compression=1),
            Variant("224 px, 64 tokens", batch, image_size=224, compression=1),
        ],
        "GradCache at the same batch": [
            Variant("plain", batch),
            Variant(f"GradCache, {small} at once", batch, micro=small),
            Variant("GradCache, 1 at once", batch, micro=1),
            Variant("plain, activations recomputed", batch, recompute=True),
        ],
        "Processes with one thread each": [
            Variant("1 process", batch, processes=1),
            Variant("2 processes, replicated", batch, processes=2),
            Variant("2 processes, sharded (FSDP2)", batch, processes=2, shard=True),
        ],
    }


def main() -> int:
    """Run the benchmark."""
    options = build_parser().parse_args()
    if options.child:
        measure(Variant(**json.loads(options.child)), options)
        return 0
    if options.quick:
        options.batch, options.steps, options.rounds, options.size = 2, 1, 1, "quick"
    report = Report("train_throughput", options)
    with TemporaryDirectory() as folder:
        base = CACHE / f"random-train-{options.size}"
        if not base.exists():
            write_base(base, options.size)
        runs = Runs(base, Path(folder), options)
        report.table("The model", ("part", "parameters"), parameters(base))
        for title, compared in variants(options.batch).items():
            compared = compared[:2] if options.quick else compared
            found = runs.race(compared)
            first = found[compared[0]]
            rows = [
                [
                    variant.name,
                    one.samples_per_second,
                    one.samples_per_second / first.samples_per_second,
                    one.step_seconds,
                    one.peak / 1e6,
                    (one.peak - one.before) / 1e6,
                    one.loss,
                ]
                for variant, one in found.items()
            ]
            columns = ("variant", "pairs/s", "against the first", "s a step", "peak MB", "of it training", "loss")
            report.table(f"{title} ({options.batch} pairs a step)", columns, rows)
            if title.startswith("GradCache"):
                losses = [one.loss for one in found.values()]
                report.goal(
                    "GradCache and recomputation train as the plain loss does: largest relative difference of a loss",
                    "<= 1e-3",
                    f"{max(abs(loss / losses[0] - 1) for loss in losses):.1e}",
                    max(abs(loss / losses[0] - 1) for loss in losses) <= 1e-3,
                )
    report.finish()
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    found = parser(__doc__)
    found.add_argument("--size", choices=SIZES, default="small", help="of the model")
    found.add_argument("--batch", type=int, default=16, help="pairs of a step")
    found.add_argument("--steps", type=int, default=3, help="steps of a run that are counted")
    found.add_argument("--rounds", type=int, default=2, help="runs of each variant; the fastest step counts")
    found.add_argument("--child", help=argparse.SUPPRESS)
    found.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    found.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return found


@dataclass(frozen=True, slots=True)
class Measured:
    """What a variant took.

    Attributes:
        samples_per_second: Of the fastest step.
        step_seconds: Of that step.
        peak: Resident bytes at most, summed over processes.
        before: The same before training began: Python, torch, the model.
        loss: Of the last step.
    """

    samples_per_second: float
    step_seconds: float
    peak: float
    before: float
    loss: float


class Runs:
    """Starts processes and reads what they wrote."""

    def __init__(self, base: Path, folder: Path, options: argparse.Namespace) -> None:
        """Keep where things lie."""
        self._base, self._folder, self._options, self._count = base, folder, options, 0

    def race(self, compared: list[Variant]) -> dict[Variant, Measured]:
        """Run all variants of a table in turns, and keep the best run of each."""
        found: dict[Variant, list[Measured]] = {variant: [] for variant in compared}
        for _ in range(self._options.rounds):
            for variant in compared:
                found[variant].append(self._run(variant))
        return {variant: max(runs, key=lambda one: one.samples_per_second) for variant, runs in found.items()}

    def _run(self, variant: Variant) -> Measured:
        self._count += 1
        out = self._folder / str(self._count)
        processes = max(1, variant.processes)
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *(launcher if processes > 1 else []), __file__]
        command += ["--child", json.dumps(asdict(variant)), "--base", str(self._base), "--out", str(out)]
        command += ["--steps", str(self._options.steps)]
        # A quick run only shows that it runs, and should not wait for cores that others use.
        threads = {"OMP_NUM_THREADS": "1"} if variant.processes or self._options.quick else {}
        done = run_child(command, child_environment() | threads)
        if done.code:
            raise RuntimeError(f"{variant.name} ended with code {done.code}: {done.stderr[-2000:]}")
        rows = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        fastest = min(row["seconds"] for row in rows[WARM_UP:])
        facts = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("memory-*.json"))]
        peak, before = sum(one["peak"] for one in facts), sum(one["before"] for one in facts)
        return Measured(variant.batch / fastest, fastest, peak, before, rows[-1]["loss"])


def measure(variant: Variant, options: argparse.Namespace) -> None:
    """Train in this process, and write its memory beside the log."""
    import torch

    from magicmm_model.loading import load_model
    from magicmm_model.tokenizer import PromptTokenizer
    from magicmm_training.loop.contrastive import ContrastiveObjective
    from magicmm_training.loop.engine import leave_processes
    from magicmm_training.loop.loop import train
    from magicmm_training.loop.trainee import MagicTrainee
    from magicmm_training.recipe import Batch, Contrastive, Optimiser, Source

    if variant.processes:
        torch.set_num_threads(1)
    model = load_model(
        options.base, dtype=torch.float32, compression=variant.compression, image_size=variant.image_size
    )
    steps = WARM_UP + options.steps
    stage = Contrastive(
        name="throughput",
        batch=Batch(per_device=variant.batch // max(1, variant.processes), micro=variant.micro),
        optimiser=Optimiser(lr=1e-4),
        steps=steps,
        dtype="float32",
        gradient_checkpointing=variant.recompute,
        save_every=steps + 1,
    )
    source = Source(name="photos", format="pairs", path="made up")
    tokenizer = PromptTokenizer(options.base / "tokenizer.json")
    objective = ContrastiveObjective(stage, [(source, Photos(variant.batch * steps))], model.config, tokenizer)
    before = _peak_bytes()
    train(stage, objective, MagicTrainee(model, options.base), options.out, seed=0, shard=variant.shard)
    facts = {"before": before, "peak": _peak_bytes()}
    path = options.out / f"memory-{os.environ.get('RANK', '0')}.json"
    path.write_text(json.dumps(facts), encoding="utf-8")
    leave_processes()


class Photos:
    """Pairs of a text and a made-up photo."""

    name = "photos"
    fingerprint = "made up"

    def __init__(self, count: int) -> None:
        """Remember how many."""
        self._count = count

    def __len__(self) -> int:
        """Return how many pairs there are."""
        return self._count

    def __getitem__(self, place: int) -> Pair:
        """Return a pair; the photo is a JPEG of 448 x 448 pixels."""
        from PIL import Image

        from magicmm_model.templates import Side
        from magicmm_training.entries import Entry, Pair

        rng = np.random.default_rng(place)
        coarse = rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((448, 448), Image.Resampling.BICUBIC).save(file, "JPEG")
        words = f"a photo with the number {place} at sunset on the beach"
        query = Entry(words, None, "Find me an everyday image that matches the given query.", Side.QUERY)
        photo = Entry(None, file.getvalue(), "Represent the given image.", Side.CANDIDATE)
        return Pair(str(place), self.name, query, photo)


def write_base(folder: Path, size: str) -> None:
    """Write a checkpoint with random weights."""
    from magicmm_model.config import LanguageConfig, ModelConfig, VisionConfig
    from magicmm_model.config_json import Layout

    sys.path.insert(0, str(ROOT / "tests" / "tools"))
    write: Callable[..., None] = import_module("random_checkpoint").random_checkpoint
    vision, language = SIZES[size]
    write(folder, ModelConfig(VisionConfig(*vision), LanguageConfig(*language, vocab_size=2048)), Layout.HF)


def parameters(base: Path) -> list[list[object]]:
    """Return how many parameters each part has."""
    from magicmm_model.loading import load_model

    counts: dict[str, Any] = {}
    for name, parameter in load_model(base).named_parameters():
        part = name.split(".")[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    return [[part, count] for part, count in counts.items()]


def _peak_bytes() -> int:
    """Return the most memory that this process had resident."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main())
