"""The command line `magicmm`: what it accepts. What each verb does is in `magicmm.commands`.

Answers go to stdout and nothing else does; progress and messages go to stderr.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import sys
import warnings
from calendar import monthrange
from datetime import date, datetime
from typing import TYPE_CHECKING

from magicmm.errors import MagicError
from magicmm.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = build_parser().parse_args(arguments)
    from magicmm import commands  # after parsing: --help and usage errors need none of it

    # Pillow warns of broken metadata and of large photos; what we skip is reported with its reason instead.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        code: int = getattr(commands, f"run_{options.verb}")(options)
        sys.stdout.flush()
        return code
    except MagicError as error:
        report_error(error, as_json=options.json)
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nmagicmm: stopped; what was done is kept.\n")
        return 130
    except BrokenPipeError:
        # The reader has gone (`| head`): keep Python from complaining about it at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def report_error(error: MagicError, as_json: bool) -> None:
    """Write an error to stderr, for people or for programs."""
    if as_json:
        parts = {"code": error.code.value, "message": error.message, "remedy": error.remedy}
        sys.stderr.write(json.dumps({"error": parts}) + "\n")
    else:
        sys.stderr.write(f"magicmm: {printable(str(error))}\n")


def printable(text: str) -> str:
    """Return text that a terminal shows as one harmless line, whatever bytes a file name holds."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return shown.encode(sys.stdout.encoding or "utf-8", "backslashreplace").decode(sys.stdout.encoding or "utf-8")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="magicmm",
        description="Find photos by meaning, offline.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C. Answers go to stdout, the rest"
        " to stderr.",
    )
    parser.add_argument("--version", action="version", version=f"magicmm {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    on_index, on_bundle, hits = _index_options(), _bundle_options(), _hit_options()

    verb = _verb(verbs, "index", "add folders and bring the index up to date", on_index, on_bundle)
    verb.add_argument("folders", nargs="*", metavar="DIR", help="folders to add; none = those already known")
    verb.add_argument("--plan", action="store_true", help="only say what would be done")
    verb.add_argument("--budget", type=_seconds, metavar="SECONDS", help="stop after this time; the next run goes on")

    verb = _verb(verbs, "search", "find photos by words, by a photo, or by both", on_index, on_bundle, hits)
    verb.add_argument("text", nargs="?", metavar="TEXT", help="what the photo shows")
    verb.add_argument("--image", metavar="PATH", help="a photo to look for, alone or together with TEXT")
    verb.add_argument("--no-taught", action="store_true", help="read taught names as words like others")
    verb.add_argument("--no-signals", action="store_true", help="do not lift photos taken when or where TEXT says")

    verb = _verb(verbs, "similar", "find photos like one you have", on_index, on_bundle, hits)
    verb.add_argument("photo", metavar="PHOTO", help="a photo, indexed or not")

    verb = _verb(verbs, "duplicates", "group photos with the same bytes, or that look alike", on_index)
    verb.add_argument("--min-score", type=_score, metavar="S", help="group look-alikes from this cosine on, e.g. 0.95")

    _verb(verbs, "status", "say what is indexed, and every skipped photo with its reason", on_index)
    _verb(verbs, "doctor", "check model and index; say what to do", on_index, on_bundle)

    verb = _verb(verbs, "rebuild", "embed all photos anew, or repair a damaged index", on_index, on_bundle)
    verb.add_argument("folders", nargs="*", metavar="DIR", help="folders to add")

    verb = _verb(verbs, "teach", "teach a name for something of yours by photos of it", on_index, on_bundle)
    verb.add_argument("name", metavar="NAME", help='what searches will call it, e.g. "our dog"')
    verb.add_argument(
        "photos", nargs="+", metavar="PHOTO", help="photos of it, as paths or URIs; they add to earlier ones"
    )
    verb.add_argument(
        "--is", dest="noun", metavar="WORDS", help='what it is in words that the model knows, e.g. "a dog"'
    )
    verb.add_argument("--replace", action="store_true", help="forget the earlier photos and --is of this name")

    _verb(verbs, "taught", "list what was taught", on_index)

    verb = _verb(verbs, "forget", "remove folders or taught names from the index (photos are not touched)", on_index)
    verb.add_argument(
        "what", nargs="+", metavar="DIR|NAME", help="folders that were indexed, or names that were taught"
    )
    verb.add_argument("--taught", action="store_true", help="names only: no folder is meant, even one of that name")

    verb = _verb(verbs, "verify", "check a bundle's hashes and run its golden cases here")
    _add_runtime(verb)
    verb.add_argument("bundle", nargs="?", metavar="BUNDLE", help="a NAME.magicmm folder; none = the built-in model")

    verb = _verb(verbs, "info", "say what a bundle is")
    verb.add_argument("bundle", nargs="?", metavar="BUNDLE", help="a NAME.magicmm folder; none = the built-in model")
    return parser


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    *parents: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".", parents=parents)
    verb.add_argument("--json", action="store_true", help="answer in JSON")
    return verb


def _index_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--index", metavar="PATH", help="the index file (default: in the platform's data folder)")
    return options


def _bundle_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--bundle", metavar="PATH", help="a NAME.magicmm folder (default: the built-in model)")
    options.add_argument("--threads", type=_count, default=0, metavar="N", help="threads of the model (0 = all cores)")
    _add_runtime(options)
    return options


def _add_runtime(options: argparse.ArgumentParser) -> None:
    choices = ("onnx", "executorch", "openvino")
    options.add_argument("--runtime", choices=choices, default="onnx", help="what runs the model (default: onnx)")


def _hit_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("-k", "--top", dest="k", type=_positive, default=20, metavar="N", help="how many (default 20)")
    options.add_argument("--min-score", type=_score, metavar="S", help="least cosine, -1 to 1")
    options.add_argument("--since", type=_first_day, metavar="D", help="taken on or after: 2024, 2024-05, 2024-05-31")
    options.add_argument("--until", type=_last_day, metavar="D", help="taken on or before")
    options.add_argument("--under", action="append", default=[], metavar="DIR", help="only below this folder")
    options.add_argument("--no-sync", action="store_true", help="do not look for new photos first")
    options.add_argument("--sheet", metavar="OUT.html", help="also write a contact sheet that any browser shows")
    form = options.add_mutually_exclusive_group()
    form.add_argument("--jsonl", action="store_true", help="answer in JSON, a line a photo")
    form.add_argument("-0", "--null", dest="null", action="store_true", help="answer with paths ended by NUL")
    return options


def _number(convert: Callable[[str], float], accepts: Callable[[float], bool], what: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            value = convert(text)
            if accepts(value):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")

    return parse


_positive = _number(int, lambda value: value >= 1, "a whole number from 1 on")
_count = _number(int, lambda value: value >= 0, "a whole number from 0 on")
_seconds = _number(float, lambda value: 0 < value < math.inf, "a number of seconds")
_score = _number(float, lambda value: -1 <= value <= 1, "a score from -1 to 1")


def _first_day(text: str) -> date:
    return _day(text, last=False)


def _last_day(text: str) -> date:
    return _day(text, last=True)


def _day(text: str, last: bool) -> date:
    """Read a year, a month, a day or a moment; a span means its first or its last day."""
    with contextlib.suppress(ValueError):
        if found := re.fullmatch(r"(\d{4})(?:-(\d{1,2}))?(?:-(\d{1,2}))?", text):
            year, month, day = (int(part) if part else None for part in found.groups())
            assert year is not None, "the pattern demands it"  # noqa: S101
            month = month or (12 if last else 1)
            return date(year, month, day or (monthrange(year, month)[1] if last else 1))
        return datetime.fromisoformat(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no date; write 2024, 2024-05, 2024-05-31 or 2024-05-31T18:30")


if __name__ == "__main__":
    sys.exit(main())
