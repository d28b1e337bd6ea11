"""The command line `magicmm-export`: checkpoints to bundles, and looking at what came out.

Answers go to stdout and nothing else does. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C (finished
parts are kept; the next run goes on).
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from magicmm.cli import report_error
from magicmm.errors import MagicError
from magicmm.version import __version__

VERBS = ("check", "inspect", "bench")
RUNTIMES = ("onnx", "executorch", "coreml", "openvino")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    verb = given[0] if given and given[0] in VERBS else "export"
    options = (build_verbs() if verb != "export" else build_export()).parse_args(given)
    from magicmm_export import commands  # after parsing: --help needs none of it

    logging.getLogger("torch").setLevel(logging.ERROR)  # what its packages deprecate is nothing to a user
    try:
        answer, code = getattr(commands, f"run_{verb}")(options)
    except MagicError as error:
        report_error(error, as_json=options.json)
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nmagicmm-export: stopped; finished parts are kept, the same command goes on.\n")
        return 130
    text: str = json.dumps(answer.to_json(), indent=2) if options.json else answer.table()
    sys.stdout.write(text.rstrip("\n") + "\n")
    return int(code)


def build_export() -> argparse.ArgumentParser:
    """Return the parser of an export, which needs no verb."""
    parser = argparse.ArgumentParser(
        prog="magicmm-export",
        description="Turn an InternVL3 (or CLIP, SigLIP) checkpoint, or the built-in model, into a verified bundle.",
        epilog="Also: magicmm-export check CHECKPOINT BUNDLE | inspect BUNDLE | bench BUNDLE (see --help of each).",
    )
    parser.add_argument("--version", action="version", version=f"magicmm {__version__}")
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="a folder with config.json and safetensors, or a bundle of the built-in model",
    )
    parser.add_argument("target", type=Path, metavar="OUT.magicmm", help="the bundle to write")
    parser.add_argument("--runtime", default="onnx", metavar="NAME", help="onnx (default), executorch or coreml")
    parser.add_argument("--recipe", metavar="NAME", help="int8 (default), int4, mixed, float32, or FILE.json")
    parser.add_argument("--max-size", type=_size, metavar="SIZE", help="largest bundle, such as 1.3GB")
    parser.add_argument("--calibrate", type=Path, metavar="PHOTOS", help="a folder of your photos (NAME.txt = caption)")
    parser.add_argument("--samples", type=_count, default=16, metavar="N", help="photos to use of it (default 16)")
    parser.add_argument("--min-cosine", type=float, metavar="C", help="least mean cosine to float32")
    parser.add_argument("--report", action="store_true", help="also write OUT.report.json and OUT.report.html")
    parser.add_argument("--low-memory", action="store_true", help="keep 4-bit weights 4 bits wide in memory (slower)")
    parser.add_argument("--openvino", action="store_true", help="add a vision graph for OpenVINO (needs --calibrate)")
    parser.add_argument("--buckets", type=_lengths, metavar="N,N", help="executorch, coreml: lengths of sequences")
    parser.add_argument(
        "--also",
        type=_names,
        default=(),
        metavar="T,T",
        help="executorch: lower for vulkan or coreml, too (not run)",
    )
    parser.add_argument(
        "--max-outside", type=_share, default=0.05, metavar="S", help="largest share of work that no delegate takes"
    )
    parser.add_argument(
        "--system", choices=("iOS17", "iOS18"), default="iOS18", help="coreml: the oldest that reads it"
    )
    parser.add_argument(
        "--compute-units",
        choices=("all", "cpu_and_gpu"),
        default="all",
        help="coreml: where it may run (all: the ANE, too)",
    )
    parser.add_argument("--no-rotation", action="store_true", help="do not rotate the residual stream before rounding")
    parser.add_argument("--compression", type=int, choices=(1, 2), help="2 = 64 tokens a tile, 1 = 256")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="side of a tile")
    parser.add_argument("--id", metavar="NAME", help="name of the bundle in manifest and index")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep finished parts here, for other recipes, too")
    parser.add_argument("--no-cache", action="store_true", help="a stopped export starts anew")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    return parser


def build_verbs() -> argparse.ArgumentParser:
    """Return the parser of all other verbs."""
    parser = argparse.ArgumentParser(prog="magicmm-export")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="answer in JSON")
    verb = verbs.add_parser(
        "check",
        parents=[shared],
        help="compare a bundle with its checkpoint, stage by stage",
    )
    verb.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    verb.add_argument("bundle", type=Path, metavar="BUNDLE")
    _add_runtime(verb)
    verb = verbs.add_parser("inspect", parents=[shared], help="operators, types and bytes of a bundle, by part")
    verb.add_argument("bundle", type=Path, metavar="BUNDLE")
    verb.add_argument(
        "--max-outside", type=_share, metavar="S", help="exit code 1 when a part leaves a larger share to no delegate"
    )
    verb = verbs.add_parser("bench", parents=[shared], help="time a bundle on this machine")
    verb.add_argument("bundle", type=Path, metavar="BUNDLE")
    verb.add_argument("--rounds", type=_count, default=5, metavar="N", help="how often each part runs (default 5)")
    _add_runtime(verb)
    return parser


def _add_runtime(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--runtime", choices=RUNTIMES, default="onnx", help="what runs it (default: onnx)")


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)b?", text.strip().lower())
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 1.3GB, 900MB or bytes")
    return int(float(found[1]) * _UNITS[found[2]])


def _lengths(text: str) -> tuple[int, ...]:
    return tuple(_count(part.strip()) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share from 0 to 1")
    return share


def _count(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")


if __name__ == "__main__":
    sys.exit(main())
