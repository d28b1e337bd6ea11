"""The command line `magicmm-train`: recipes to models, and scores of models.

Answers go to stdout and nothing else does. Exit codes: 0 done, 1 failed (or a check that found errors), 2 wrong usage,
130 stopped by Ctrl-C (finished stages and saved states are kept; the same command goes on).
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from magicmm.cli import report_error
from magicmm.errors import MagicError
from magicmm.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

RECIPE_KEYS = ("name", "seed", "data_root", "model", "hardware", "assumptions", "stages")
"""What an override may begin with; listed here so that --help needs no pydantic."""
RECIPE_VERBS = ("plan", "run", "mine", "judge", "embed", "data", "eval")
"""Verbs that read a recipe."""
_OVERRIDES = (
    "Any value of the recipe can be changed: --stages.warmup.optimiser.lr 1e-4, --model.base DIR, --data_root DIR,"
    " --stages.judge null."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given, overrides = split_overrides(list(sys.argv[1:] if arguments is None else arguments))
    options = build_parser().parse_args(given)
    options.overrides = overrides
    from magicmm_training import commands  # after parsing: --help needs none of it

    try:
        answer, code = getattr(commands, f"run_{options.verb.replace('-', '_')}")(options)
    except MagicError as error:
        report_error(error, as_json=options.json)
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nmagicmm-train: stopped; what is saved is kept, the same command goes on.\n")
        return 130
    text: str = json.dumps(answer.to_json(), indent=2) if options.json else answer.table()
    sys.stdout.write(text.rstrip("\n") + "\n")
    return int(code)


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take `--stages.x.y VALUE` and the like out of a command line; argparse would not know where a value belongs."""
    rest: list[str] = []
    overrides: list[str] = []
    waiting = list(words)
    if not waiting or waiting[0] not in RECIPE_VERBS:
        return waiting, overrides
    while waiting:
        word = waiting.pop(0)
        key = word.partition("=")[0].removeprefix("--").partition(".")[0].replace("-", "_")
        if not word.startswith("--") or key not in RECIPE_KEYS:
            rest.append(word)
            continue
        overrides.append(word)
        if "=" not in word and waiting:
            overrides.append(waiting.pop(0))
    return rest, overrides


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="magicmm-train",
        description="Train Magic-MM-Embedding and measure it.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.",
    )
    parser.add_argument("--version", action="version", version=f"magicmm {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    _recipe_verb(verbs, "plan", "say what a recipe costs and what it lacks; nothing is changed")

    run = _recipe_verb(verbs, "run", "run the stages of a recipe that are not done")
    _add_run_options(run)
    run.add_argument("--until", metavar="STAGE", help="stop after this stage")
    run.add_argument("--from-scratch", action="store_true", help="delete the results of these stages first")

    for verb, what in (("mine", "mining"), ("judge", "judge")):
        single = _recipe_verb(verbs, verb, f"run one {what} stage of a recipe, and what it needs")
        _add_run_options(single)
        single.add_argument("--stage", metavar="NAME", help=f"which one (default: the only {what} stage)")

    embed = _recipe_verb(verbs, "embed", "embed a share of what a mining or judge stage ranks, beside other processes")
    _add_run_options(embed)
    embed.add_argument("--stage", required=True, metavar="NAME", help="which stage")
    embed.add_argument("--share", required=True, type=_share, metavar="I/N", help="share I, from 0, of N")

    data = verbs.add_parser("data", help="look at data")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = _recipe_verb(actions, "check", "read all data of a recipe and report what is wrong", verb="data-check")
    check.add_argument("--limit", type=_count, metavar="N", help="look at so many rows of each source only")

    _add_evaluation(verbs)

    scenes = _verb(verbs, "scenes", "write a synthetic data set and a tiny checkpoint to try everything with")
    scenes.add_argument("out", type=Path, metavar="OUT", help="a new folder; it becomes the data_root")
    scenes.add_argument("--seed", type=int, default=0, metavar="N", help="decides everything")
    for name, default, what in (
        ("captions", 4000, "training pairs of caption and picture"),
        ("changes", 2000, "training pairs of picture with change, and picture"),
        ("samples", 40000, "instruction samples"),
        ("test", 300, "test pairs of each task"),
    ):
        scenes.add_argument(f"--{name}", type=_count, default=default, metavar="N", help=f"{what} (default {default})")
    scenes.add_argument("--width", type=_count, default=96, metavar="N", help="of the language model (default 96)")
    scenes.add_argument("--layers", type=_count, default=3, metavar="N", help="of the language model (default 3)")

    stage = _verb(verbs, "stage", "train as one of several processes; started by torchrun or the like")
    stage.add_argument("job", type=Path, metavar="JOB.json", help="what `run` wrote into the stage's folder")
    return parser


def _add_run_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="folder of results (default runs)")
    verb.add_argument("--processes", type=_count, default=1, metavar="N", help="that train together (default 1)")
    verb.add_argument(
        "--launcher",
        type=shlex.split,
        metavar="COMMAND",
        help="how to start them on other machines: 'srun torchrun --nnodes 6 --nproc-per-node 8 ...'",
    )
    verb.add_argument("--shard", action="store_true", help="shard parameters over the processes (FSDP2)")


def _add_evaluation(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = _verb(verbs, "eval", "score a checkpoint, a bundle or a sentence-transformers model on benchmarks")
    verb.add_argument("model", type=Path, metavar="MODEL", help="a checkpoint, a NAME.magicmm bundle, or such a folder")
    verb.add_argument("--stored", action="store_true", help="round a bundle's vectors to int8, as the index keeps them")
    verb.add_argument("--recipe", metavar="RECIPE", help="benchmarks of this recipe's evaluation stage")
    verb.add_argument(
        "--benchmark",
        action="append",
        default=[],
        metavar="FORMAT=PATH",
        help="a benchmark in a public layout, such as mmeb=DIR or pairs=FILE; may be repeated",
    )
    verb.add_argument("--reranker", type=Path, metavar="CHECKPOINT", help="reorders the best candidates")
    verb.add_argument("--rerank-top", type=_count, default=5, metavar="N", help="how many (default 5)")
    verb.add_argument("--batch", type=_count, default=32, metavar="N", help="entries at a time (default 32)")
    verb.add_argument("--dims", type=_dims, default=(), metavar="N,N", help="also score vectors cut to these lengths")
    verb.add_argument(
        "--precisions", type=_precisions, default=(), metavar="NAME,NAME", help="and stored as float32, int8, binary"
    )
    verb.add_argument("--report", type=Path, metavar="DIR", help="write result.json, report.html and report.md here")
    verb.add_argument(
        "--compare",
        type=Path,
        action="append",
        default=[],
        metavar="RESULT.json",
        help="also show this one in the report",
    )
    verb.add_argument("--vectors", type=Path, metavar="DIR", help="keep vectors here, for another run")


def _recipe_verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, verb: str | None = None
) -> argparse.ArgumentParser:
    parser = _verb(verbs, name, summary, epilog=_OVERRIDES)
    if verb is not None:
        parser.set_defaults(verb=verb)
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, or a recipe of the package such as magicmm-2b")
    return parser


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, epilog: str | None = None
) -> argparse.ArgumentParser:
    text = summary[0].upper() + summary[1:] + "."
    parser = verbs.add_parser(name, help=summary, description=text, epilog=epilog)
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    return parser


def _count(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")


def _share(text: str) -> tuple[int, int]:
    share, slash, shares = text.partition("/")
    if slash and share.isdecimal() and shares.isdecimal() and int(share) < int(shares):
        return int(share), int(shares)
    raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N - 1")


def _precisions(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _dims(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
