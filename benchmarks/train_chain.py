"""Does each stage of the training chain help? The tiny recipe on synthetic scenes, with ablations, over three seeds.

Each seed makes its own scenes, random base checkpoint and order of batches, and runs `recipes/tiny/tiny.yaml` as
`magicmm-train run` does. Two ablations share all stages before the one that they change, and train as many steps:
"no mining" trains stage 2b without hard negatives, "no judge" trains stage 3 on the top candidates as they are. The
row "judged by the truth" is the most that any judge could give.

What fits what is known by how scenes are made. It trains nothing but that last row: it measures the judge. A query of
the test has one right answer; in training several pictures often fit a caption.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise, repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chain_scores import TASKS, Scores, fitting_share, judge_counts, score_checkpoint, score_reranked
from chain_truth import train_on_truth
from magicmm_training.chain import run_chain
from magicmm_training.chain_keys import OpenData
from magicmm_training.chain_record import RunRecord
from magicmm_training.entries import PairSet
from magicmm_training.recipe import Mining, Recipe
from magicmm_training.recipe_file import load_recipe
from magicmm_training.scenes import Sizes, Truth, write_base, write_scenes
from report import CACHE, Report, parser

QUICK = Sizes(captions=24, changes=16, samples=200, test=12)
FULL = Sizes()
STAGES = {
    "random base": None,
    "1 restoration": "restoration",
    "2a warm-up": "warmup",
    "2b mined negatives": "hnm",
    "3 judged negatives": "finetune",
}
"""Rows of the whole chain, in order, and the stage whose checkpoint is scored."""
RERANKED = "3 and reranker, top 5"
NO_MINING = "2b without mining"
NO_JUDGE = "3 without judge, top candidates"
MINED_AGAIN = "3 without judge, mined again"
BY_TRUTH = "3 judged by the truth"
MINED = "2b mined negatives"
LAST = "3 judged negatives"
CHAIN = (*STAGES, RERANKED)
ROWS = (*CHAIN, NO_MINING, NO_JUDGE, MINED_AGAIN, BY_TRUTH)
PARTS = ("first", "five")
UNUSED = ("judge_model", "reranker", "evaluation")
"""Stages that the ablations leave out."""
JUDGED, UNJUDGED = "judged, for 3", "top candidates, for 3"
NEGATIVES = (
    ("mined, for 2b", "whole", "mine", "hnm"),
    (JUDGED, "whole", "judge", "finetune"),
    (UNJUDGED, "no judge", "top", "finetune"),
    ("mined again, for 3", "mined again", "again", "finetune"),
)
"""What the table calls hard negatives, the recipe and stage that found them, and the stage that uses them."""
QUICK_OPTIONS = [
    *(f"--stages.{name}.steps={steps}" for name, steps in (("restoration", 60), ("judge_model", 20), ("reranker", 3))),
    *(f"--stages.{name}.steps=2" for name in ("warmup", "hnm", "finetune")),
    *(
        f"--stages.{name}.batch.per_device=8"
        for name in ("restoration", "warmup", "hnm", "judge_model", "finetune", "reranker")
    ),
    "--stages.judge.unclear_share=1",
    "--stages.judge.top=5",
]
"""Enough restoration for answers of yes and no; the rest shows only that it runs."""


def main() -> int:
    """Run the benchmark."""
    options = build_parser().parse_args()
    report = Report("train_chain", options)
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        runs = list(pool.map(run_seed, range(options.seeds), repeat(options)))
    show_scores(report, runs)
    show_tasks(report, runs)
    show_judge(report, runs)
    show_reranker(report, runs)
    show_seconds(report, runs)
    compare(report, runs)
    report.finish()
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    found = parser(__doc__)
    found.add_argument("--seeds", type=int, default=3, help="how many times everything is done anew")
    found.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="seeds at a time, each on a core of its own"
    )
    found.add_argument(
        "--work", type=Path, metavar="DIR", default=CACHE / "train-chain", help="what is done is kept here"
    )
    return found


def run_seed(seed: int, options: argparse.Namespace) -> SeedRun:
    """Do everything for one seed. Tiny tensors gain nothing from threads."""
    torch.set_num_threads(1)
    run = SeedRun(seed, options)
    run.train()
    run.measure()
    sys.stderr.write(f"\nseed {seed} is done\n")
    return run


class SeedRun:
    """All recipes of one seed, in one folder: stages that they agree on run once.

    Attributes:
        seed: Of everything random.
        scores: Row of the tables -> what it reached on the test.
        judged: What the judge said, against the truth.
        false_negatives: Where hard negatives come from -> share of them that truly fits.
        cost: Of reranking, a query.
        seconds: Stage -> seconds.
    """

    def __init__(self, seed: int, options: argparse.Namespace) -> None:
        """Choose the folder and the recipes."""
        self.seed = seed
        self._sizes = QUICK if options.quick else FULL
        self._folder: Path = options.work / f"{'quick' if options.quick else 'full'}-{seed}"
        words = ["--data_root", str(self._folder), "--seed", str(seed)]
        if options.quick:
            words += QUICK_OPTIONS
        whole = load_recipe("tiny", words)
        if options.quick:
            whole = partly_judged(whole)
        self._recipes = {
            "whole": whole,
            "no mining": without_mining(whole),
            "no judge": without_judge(whole),
            "mined again": mined_again(whole),
            "ranked": ranked_only(whole),
        }
        self._records: dict[str, RunRecord] = {}
        self.scores: dict[str, Scores] = {}

    def train(self) -> None:
        """Write the data and run the recipes; what an earlier run finished is kept."""
        scenes, base = self._folder / "scenes", self._folder / "base"
        if not scenes.exists():
            write_scenes(scenes, self._sizes, self.seed)
        if not base.exists():
            write_base(base, scenes, seed=self.seed)
        for name, recipe in self._recipes.items():
            self._records[name] = run_chain(recipe, self._folder / "run")

    def measure(self) -> None:
        """Score the checkpoints, and compare judge and negatives with the truth."""
        truth = Truth.open(self._folder / "scenes")
        checkpoints = {row: self._checkpoint("whole", stage) for row, stage in STAGES.items()} | {
            NO_MINING: self._checkpoint("no mining", "hnm"),
            NO_JUDGE: self._checkpoint("no judge", "finetune"),
            MINED_AGAIN: self._checkpoint("mined again", "finetune"),
            BY_TRUTH: train_on_truth(
                self._recipes["whole"],
                "finetune",
                self._checkpoint("whole", "hnm"),
                self._output("ranked", "ranked"),
                self._data("whole", "judge"),
                truth,
                self._folder / "truth",
            ),
        }
        for row, checkpoint in checkpoints.items():
            self.scores[row] = score_checkpoint(checkpoint, self._folder)
        reranker = self._checkpoint("whole", "reranker")
        self.scores[RERANKED], self.cost = score_reranked(checkpoints[LAST], reranker, self._folder)
        self.judged = judge_counts(self._output("whole", "judge"), self._data("whole", "judge"), truth)
        self.false_negatives = {
            name: fitting_share(
                self._output(recipe, stage), self._data(recipe, stage), truth, self._stage(recipe, user).negatives_each
            )
            for name, recipe, stage, user in NEGATIVES
        }
        stages = {stage.key: stage for record in self._records.values() for stage in record.stages}
        self.seconds = {stage.name: 0.0 for stage in stages.values()}
        for stage in stages.values():
            self.seconds[stage.name] += stage.seconds

    def _stage(self, recipe: str, name: str) -> Any:
        return self._recipes[recipe].stage(name)

    def _data(self, recipe: str, stage: str) -> list[PairSet]:
        data = OpenData(self._recipes[recipe])
        return [pairs for _, pairs in data.pairs(self._stage(recipe, stage).data)]

    def _output(self, recipe: str, stage: str) -> Path:
        record = next(one for one in self._records[recipe].stages if one.name == stage)
        return self._folder / "run" / record.folder

    def _checkpoint(self, recipe: str, stage: str | None) -> Path:
        return self._folder / "base" if stage is None else self._output(recipe, stage) / "checkpoint"


def partly_judged(recipe: Recipe) -> Recipe:
    """Return the recipe with one source unjudged: after a few steps a judge may reject nothing, and nothing is left."""
    judge: Any = recipe.stage("judge")
    data = [source.model_dump() | {"judged": place > 0} for place, source in enumerate(judge.data)]
    return changed(recipe, {"judge": {"data": data}})


def without_mining(recipe: Recipe) -> Recipe:
    """Return the recipe whose second round of contrastive training has in-batch negatives only."""
    plain = {"hnm": {"negatives": None, "negatives_each": 0}}
    return changed(recipe, plain | dict.fromkeys(("mine", "judge", "finetune", *UNUSED)))


def without_judge(recipe: Recipe) -> Recipe:
    """Return the recipe whose last round takes the first candidates as hard negatives, whatever they are."""
    return _with_mining(recipe, "top", lambda each: (1, each))


def mined_again(recipe: Recipe) -> Recipe:
    """Return the recipe whose last round mines as the round before it did, with the newer model."""
    mine: Any = recipe.stage("mine")
    return _with_mining(recipe, "again", lambda each: mine.ranks)


def ranked_only(recipe: Recipe) -> Recipe:
    """Return the recipe that ends with each query's best candidates, enough of them for the truth to choose from."""
    judge: Any = recipe.stage("judge")
    each = 3 * judge.top
    mining = Mining(name="ranked", init=judge.init, data=judge.data, ranks=(1, each), each=each, batch=judge.batch)
    return changed(recipe, {"judge": mining.model_dump(), **dict.fromkeys((*UNUSED, "finetune"))})


def _with_mining(recipe: Recipe, name: str, ranks: Callable[[int], tuple[int, int]]) -> Recipe:
    judge: Any = recipe.stage("judge")
    finetune: Any = recipe.stage("finetune")
    each = finetune.negatives_each
    mining = Mining(name=name, init=judge.init, data=judge.data, ranks=ranks(each), each=each, batch=judge.batch)
    changes = {"finetune": {"negatives": name}, "judge": mining.model_dump(), **dict.fromkeys(UNUSED)}
    return changed(recipe, changes)


def changed(recipe: Recipe, changes: Mapping[str, Mapping[str, Any] | None]) -> Recipe:
    """Return a recipe with options of some stages replaced; None drops a stage, another kind replaces it."""
    stages = []
    for stage in recipe.stages:
        change = changes.get(stage.name, {})
        if change is not None:
            stages.append(dict(change) if "kind" in change else stage.model_dump() | dict(change))
    return Recipe.model_validate(recipe.model_dump() | {"stages": stages})


def show_scores(report: Report, runs: Sequence[SeedRun]) -> None:
    """Show for each stage the mean of the three tasks, seed by seed."""
    for title, name in (
        ("R@1: the query's own target comes first", "first"),
        ("R@5: it is among the first five", "five"),
    ):
        columns = ("stage", *(f"seed {run.seed}" for run in runs), "mean", "least", "most")
        rows = []
        for row in ROWS:
            values = [100 * run.scores[row].mean(name) for run in runs]
            rows.append([row, *map(one_digit, (*values, float(np.mean(values)), min(values), max(values)))])
        report.table(f"{title}; percent, mean of {len(TASKS)} tasks", columns, rows)


def show_tasks(report: Report, runs: Sequence[SeedRun]) -> None:
    """Show the tasks one by one, as means over seeds."""
    columns = ("stage", *(f"{group} {what}" for group, _ in TASKS.values() for what in ("R@1", "R@5")))
    rows = []
    for row in ROWS:
        scores = [run.scores[row] for run in runs]
        cells = [100 * np.mean([getattr(one, name)[task] for one in scores]) for task in TASKS for name in PARTS]
        rows.append([row, *map(one_digit, cells)])
    report.table("by task, percent, mean over seeds", columns, rows)


def show_judge(report: Report, runs: Sequence[SeedRun]) -> None:
    """Compare the judge, and all hard negatives, with what truly fits."""
    rows = []
    for run in runs:
        counts = run.judged
        shares = (
            counts.right / counts.asked,
            1 - counts.fitting / counts.asked,
            counts.fitting / counts.asked,
            counts.approved / counts.asked,
            counts.rightly_approved / max(counts.approved, 1),
            counts.rightly_approved / max(counts.fitting, 1),
        )
        rows.append([f"seed {run.seed}", counts.asked, *(one_digit(100 * share) for share in shares)])
    columns = (
        "",
        "candidates",
        "right",
        "always no is right",
        "truly fit",
        "approved",
        "of these fit",
        "of fitting approved",
    )
    report.table("the judge against the truth, percent", columns, rows)
    names = [name for name, *_ in NEGATIVES]
    table = [[name, *(one_digit(100 * run.false_negatives[name]) for run in runs)] for name in names]
    report.table(
        "false negatives: percent of hard negatives that truly fit their query",
        ("hard negatives", *(f"seed {run.seed}" for run in runs)),
        table,
    )


def show_reranker(report: Report, runs: Sequence[SeedRun]) -> None:
    """Show what reranking costs."""
    rows = [
        [
            f"seed {run.seed}",
            *(run.cost.per_query()[name] for name in ("pairs", "tokens", "tiles")),
            1e3 * run.cost.per_query()["seconds"],
        ]
        for run in runs
    ]
    report.table("cost of reranking, a query", ("", "pairs", "tokens", "tiles", "ms"), rows)


def show_seconds(report: Report, runs: Sequence[SeedRun]) -> None:
    """Show how long stages took, ablations included."""
    names = list(dict.fromkeys(name for run in runs for name in run.seconds))
    rows = [[name, *(run.seconds.get(name, 0.0) for run in runs)] for name in names]
    rows.append(["all", *(sum(run.seconds.values()) for run in runs)])
    report.table("seconds", ("stage", *(f"seed {run.seed}" for run in runs)), rows)


def compare(report: Report, runs: Sequence[SeedRun]) -> None:
    """Say of each stage whether it helps."""
    pairs = list(pairwise(CHAIN))
    pairs += [(NO_MINING, MINED), (NO_JUDGE, LAST), (MINED_AGAIN, LAST)]
    for worse, better in pairs:
        gains = [100 * (run.scores[better].mean("first") - run.scores[worse].mean("first")) for run in runs]
        said = f"{np.mean(gains):+.1f} ({', '.join(f'{gain:+.1f}' for gain in gains)})"
        report.goal(f"R@1 of {better!r}", f"above {worse!r}, mean over seeds", said, float(np.mean(gains)) > 0)
    wins = [run.judged.right / run.judged.asked - (1 - run.judged.fitting / run.judged.asked) for run in runs]
    said = ", ".join(f"{100 * win:+.1f}" for win in wins)
    report.goal("judge", "right more often than always no", f"{said} points", min(wins) > 0)
    fewer = [100 * (run.false_negatives[UNJUDGED] - run.false_negatives[JUDGED]) for run in runs]
    said = f"{np.mean(fewer):+.1f} ({', '.join(f'{one:+.1f}' for one in fewer)}) points fewer"
    report.goal("false negatives", "fewer among the judged than among the top candidates", said, min(fewer) > 0)


def one_digit(value: float) -> str:
    """Return a number with one digit after the point."""
    return f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
