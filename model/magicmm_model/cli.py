"""The command line `magicmm-model`: look at checkpoints, change their layout, try them.

Answers go to stdout and nothing else does. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

from magicmm.cli import printable, report_error
from magicmm.errors import MagicError
from magicmm.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = build_parser().parse_args(arguments)
    try:
        answer = _VERBS[options.verb](options)
    except MagicError as error:
        report_error(error, as_json=options.json)
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nmagicmm-model: stopped.\n")
        return 130
    text = json.dumps(answer, indent=2) if options.json else _readable(answer)
    sys.stdout.write(text + "\n")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="magicmm-model", description="Look at InternVL3 checkpoints, change their layout, embed with them."
    )
    parser.add_argument("--version", action="version", version=f"magicmm {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    verb = _verb(verbs, "inspect", "check every tensor of a checkpoint and say what it is")

    verb = _verb(verbs, "convert", "write a checkpoint again in the other layout, bit for bit")
    verb.add_argument("target", metavar="TARGET", help="a new folder")
    verb.add_argument("--layout", choices=("hf", "original"), required=True, help="the layout to write")

    verb = _verb(verbs, "embed", "embed a text, a picture or both and print the vector")
    verb.add_argument("--text", metavar="TEXT", help="words")
    verb.add_argument("--image", metavar="PATH", help="a picture")
    verb.add_argument("--role", metavar="ROLE", help="photo, query, document, ... (default: by what is given)")
    verb.add_argument("--compression", type=int, choices=(1, 2), help="2 = 64 tokens a tile, 1 = vanilla")
    verb.add_argument("--image-size", type=int, metavar="PIXELS", help="side of a tile, e.g. 224 with --compression 1")
    verb.add_argument("--dtype", choices=("float32", "bfloat16"), help="type of the weights (default: as stored)")
    return parser


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    verb.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder with config.json and *.safetensors")
    verb.add_argument("--json", action="store_true", help="answer in JSON")
    return verb


def _inspect(options: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import asdict
    from math import prod

    from magicmm_model.checkpoint import Checkpoint
    from magicmm_model.naming import tensor_shapes

    checkpoint = Checkpoint.open(options.checkpoint)
    parameters = dict.fromkeys(("vision", "connector", "language"), 0)
    for name, shape in tensor_shapes(checkpoint.config).items():
        parameters[name.partition(".")[0]] += prod(shape)
    return {
        "layout": checkpoint.layout.value,
        "bytes": checkpoint.size,
        "types": sorted({str(checkpoint.dtype(name)).removeprefix("torch.") for name in checkpoint.names}),
        "tensors": len(checkpoint.names),
        "parameters": {**parameters, "total": sum(parameters.values())},
        "dim": checkpoint.config.dim,
        "tokens_per_tile": checkpoint.config.tile_tokens,
        "config": {**asdict(checkpoint.config), "head": checkpoint.config.head.value},
    }


def _convert(options: argparse.Namespace) -> dict[str, Any]:
    from magicmm_model.config_json import Layout
    from magicmm_model.saving import convert_checkpoint

    with _bar("tensors") as progress:
        convert_checkpoint(options.checkpoint, options.target, Layout(options.layout), progress)
    return {"written": options.target, "layout": options.layout}


def _embed(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from magicmm_model.embedder import Item, TorchEmbedder

    embedder = TorchEmbedder.open(
        options.checkpoint,
        dtype=getattr(torch, options.dtype) if options.dtype else None,
        compression=options.compression,
        image_size=options.image_size,
    )
    if options.role:
        embedding = embedder.embed([Item(options.text, options.image)], options.role)[0]
    else:
        embedding = embedder.embed_query(options.text, options.image)
    return {
        "dim": embedder.dim,
        "tokens": embedding.tokens,
        "truncated": embedding.truncated,
        "vector": embedding.vector.tolist(),
    }


_VERBS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "inspect": _inspect,
    "convert": _convert,
    "embed": _embed,
}


@contextlib.contextmanager
def _bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on stderr when somebody watches."""
    from tqdm import tqdm

    with tqdm(unit=f" {unit}", file=sys.stderr, dynamic_ncols=True, disable=not sys.stderr.isatty()) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance


def _readable(answer: dict[str, Any], indent: str = "") -> str:
    lines = []
    for key, value in answer.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", _readable(value, indent + "  ")]
        elif isinstance(value, list) and len(value) > 8:
            lines.append(f"{indent}{key:<18} {' '.join(f'{number:.4f}' for number in value[:6])} ... ({len(value)})")
        else:
            shown = f"{value:,}" if type(value) is int and value >= 10_000 else printable(str(value))
            lines.append(f"{indent}{key:<18} {shown}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
