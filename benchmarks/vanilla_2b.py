"""What one would do without this project: `torch.onnx.export`, then `quantize_dynamic`; 256 visual tokens.

Of the language model as many layers as are asked for: the whole one takes 9.5 GB to export. Runs as a child process:

    python benchmarks/vanilla_2b.py CHECKPOINT FOLDER --part language --layers 4
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from model_2b import finished
from report import child_environment, run_child

PARTS = ("vision", "language")
OPSET = 21


def main() -> int:
    """Export and quantise one part."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("checkpoint", type=Path)
    found.add_argument("target", type=Path, help="a folder, for plain.onnx and int8.onnx")
    found.add_argument("--part", choices=PARTS, required=True)
    found.add_argument("--layers", type=int, required=True)
    options = found.parse_args()
    aside = options.target.with_name(f"{options.target.name}.partial-{os.getpid()}")
    aside.mkdir(parents=True)
    export(options.checkpoint, options.part, options.layers, aside / "plain.onnx")
    unit = 1 if sys.platform == "darwin" else 1024
    sys.stdout.write(f"\n{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}\n")  # the peak of exporting
    quantise(aside / "plain.onnx", aside / "int8.onnx")
    for file in aside.glob("plain.onnx*"):
        file.unlink()
    aside.rename(options.target)
    return 0


def missing() -> str | None:
    """Say why this cannot run here."""
    lacking = [name for name in ("onnxscript", "onnx") if importlib.util.find_spec(name) is None]
    return f"{lacking[0]} is not installed" if lacking else None


def vanilla_graph(checkpoint: Path, folder: Path, part: str, layers: int) -> Path:
    """Return the int8 graph of a part, written once."""
    target = folder / f"vanilla-{part}-{layers}"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, str(checkpoint), str(target), "--part", part, "--layers", str(layers)]
        finished(run_child(command, child_environment()))
    return target / "int8.onnx"


def export(folder: Path, part: str, layers: int, target: Path) -> None:
    """Write the float32 graph of one part of the torch model, with weights in a file beside it."""
    import torch

    from magicmm_model.checkpoint import Checkpoint
    from magicmm_model.config import Head
    from magicmm_model.model import MagicModel
    from magicmm_model.naming import tensor_shapes

    checkpoint = Checkpoint.open(folder)
    config = checkpoint.config.variant(compression=1, head=Head.NONE)
    config = replace(config, **{part: replace(getattr(config, part), layers=layers)})
    with torch.device("meta"):
        model = MagicModel(config)
    owned = ("vision.", "connector.") if part == "vision" else ("language.layers.", "language.norm.")
    names = [name for name in tensor_shapes(config) if name.startswith(owned)]
    model.load_state_dict({name: checkpoint.read(name).float() for name in names}, strict=False, assign=True)
    model.requires_grad_(False).eval()

    class Part(torch.nn.Module):
        """One method of the model as a module, which is what the exporter takes."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Any) -> Any:
            return self.model.visual_tokens(*inputs) if part == "vision" else self.model.vectors(*inputs)

    side = config.vision.image_size
    inputs: tuple[Any, ...] = (torch.zeros(1, side, side, 3, dtype=torch.uint8),)
    shapes: Any = (({},),)
    if part == "language":
        inputs = (torch.randn(1, 24, config.dim), torch.tensor([23]))
        shapes = (({1: torch.export.Dim("s", min=2, max=config.max_tokens)}, {}),)
    program: Any = torch.onnx.export(
        Part().eval(),
        inputs,
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=shapes,
        external_data=True,
        verbose=False,
    )
    program.save(str(target), external_data=True)


def quantise(source: Path, target: Path) -> None:
    """Quantise as onnxruntime's documentation says: weights int8 per channel, activations uint8 per tensor."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8, use_external_data_format=True)


if __name__ == "__main__":
    sys.exit(main())
