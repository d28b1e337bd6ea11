"""Write an InternVL3 checkpoint of a real size with random weights, shard by shard (about 1.5 GB of memory at 2B).

It says nothing about quality: it is there to load, lower and time what has the shapes of the real one. Its tokenizer
is a small byte-level one that knows the words of our own prompts, so that these are about as long as the real ones.

    python tests/tools/random_checkpoint.py build/random-2b --size 2B
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from magicmm_model.config import FAMILY, LanguageConfig, ModelConfig, VisionConfig
from magicmm_model.config_json import Layout
from magicmm_model.naming import tensor_shapes
from magicmm_model.saving import write_checkpoint
from magicmm_model.templates import ROLES, SYSTEM_MESSAGE
from tiny_checkpoints import write_tokenizer

_ROOM = 1600
"""Rows of a token table that hold the words of all prompts."""
SIZES = {
    "tiny": ModelConfig(VisionConfig(32, 2, 4, 64), LanguageConfig(48, 3, 6, 2, 80, 400)),
    "mid": ModelConfig(VisionConfig(384, 6, 6, 1536), LanguageConfig(512, 6, 8, 2, 2048, 32000)),
    # The vision tower as it is, and two of the 28 layers of the language model at their real width.
    "2B-part": ModelConfig(VisionConfig(), LanguageConfig(1536, 2, 12, 2, 8960, 2000)),
    **FAMILY,
}


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="a new folder")
    parser.add_argument("--size", choices=SIZES, default="2B")
    parser.add_argument("--layout", choices=[layout.value for layout in Layout], default="hf")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random_checkpoint(options.target, SIZES[options.size], Layout(options.layout), options.seed)
    return 0


def random_checkpoint(target: Path, config: ModelConfig, layout: Layout, seed: int = 0) -> None:
    """Write bfloat16 weights that keep activations of order one through all layers."""
    shapes = tensor_shapes(config)
    generator = torch.Generator().manual_seed(seed)

    def read(name: str) -> torch.Tensor:
        shape = shapes[name]
        # No float32 copy: the token table alone would take a gigabyte.
        noise = torch.empty(shape, dtype=torch.bfloat16).normal_(generator=generator)
        if "norm" in name and name.endswith("weight"):
            return 1 + 0.1 * noise
        if name.endswith((".ls1", ".ls2")):
            return 0.1 + 0.02 * noise
        if len(shape) == 1 or "embed" in name.rpartition(".")[0] or name.endswith("embedding"):
            return noise.mul_(0.02)
        return noise.mul_(noise[0].numel() ** -0.5)

    with TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), prompt_texts(), 256 if config.language.vocab_size < _ROOM else 1500)
        write_checkpoint(target, config, layout, read, lambda name: torch.bfloat16, Path(folder))


def prompt_texts() -> list[str]:
    """Return what all prompts are made of."""
    lines = [SYSTEM_MESSAGE, "system\n", "user\n", "assistant\n", "Query: ", "Text: "]
    return lines + [f"user\nInstruct: {role.instruction}\n" for role in ROLES.values()]


if __name__ == "__main__":
    sys.exit(main())
