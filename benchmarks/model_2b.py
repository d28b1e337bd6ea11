"""What one photo costs at the real size: FLOPs, seconds and memory of vision and language at 64 and 256 visual tokens.

The weights are random, so this says nothing about quality. "224 px" reads the photo at half the side and does not
pool: it has the same 64 visual tokens, and 448 px with compression must find better than it to be worth its price.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import CACHE, ROOT, Child, Report, child_environment, parser, race, run_child

DTYPES = ("bfloat16", "float32")
GOAL_LOAD = 1.1


@dataclass(frozen=True, slots=True)
class Case:
    """One way to look at a photo."""

    name: str
    image_size: int
    compression: int


CASES = (Case("448 px, 64 tokens", 448, 2), Case("448 px, 256 tokens", 448, 1), Case("224 px, 64 tokens", 224, 1))


def main() -> int:
    """Run the benchmark."""
    options = build_parser().parse_args()
    if options.child:
        sys.stdout.write(json.dumps(measure(options)))
        return 0
    if options.quick:
        options.size, options.rounds = "tiny", 2
    report = Report("model_2b", options)
    checkpoint = options.checkpoint or random_checkpoint(options.size)
    for dtype in DTYPES:
        report_one(report, dtype, checkpoint, options)
    report.finish()
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    found = checkpoint_parser(__doc__)
    found.add_argument("--text-tokens", type=int, default=26, help="tokens of the prompt beside the visual ones")
    found.add_argument("--rounds", type=int, default=3, help="how often each case runs")
    found.add_argument("--child", choices=DTYPES, help=argparse.SUPPRESS)
    return found


def checkpoint_parser(summary: str | None) -> argparse.ArgumentParser:
    """Return a parser with what all benchmarks of a checkpoint accept."""
    found = parser(summary)
    found.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="default: random weights, kept in build/bench")
    found.add_argument("--size", choices=("tiny", "1B", "2B"), default="2B", help="shapes of the random weights")
    return found


def random_checkpoint(size: str) -> Path:
    """Return a checkpoint with random weights, written once."""
    folder = CACHE / f"random-{size}"
    if not folder.exists():
        tool = ROOT / "tests" / "tools" / "random_checkpoint.py"
        finished(run_child([sys.executable, str(tool), str(folder), "--size", size], child_environment()))
    return folder


def report_one(report: Report, dtype: str, checkpoint: Path, options: argparse.Namespace) -> None:
    """Measure one type of weights in a process of its own."""
    command = [sys.executable, __file__, "--child", dtype, "--checkpoint", str(checkpoint)]
    command += ["--rounds", str(options.rounds), "--text-tokens", str(options.text_tokens)]
    facts = json.loads(finished(run_child(command, child_environment())).stdout)
    load, unit = facts["load"], 1e6
    grown = load["peak_bytes"] - load["before_bytes"]
    report.table(
        f"{dtype}: loading with the head for next-token logits ({facts['threads']} threads)",
        ("part of the process", "MB"),
        [
            ["checkpoint on disk, bfloat16", load["stored_bytes"] / unit],
            ["weights in memory", load["weight_bytes"] / unit],
            ["peak before loading (Python, torch)", load["before_bytes"] / unit],
            ["growth of the peak by loading", grown / unit],
        ],
    )
    columns = ("case", "part", "tokens", "GFLOP", "best s", "median s", "CPU s", "GFLOP/s", "activations MB")
    rows = []
    for row in facts["parts"]:
        speed = row["flops"] / 1e9 / row["best"]
        seconds = [row["best"], row["median"], row["cpu"]]
        rows.append(
            [row["case"], row["part"], row["tokens"], row["flops"] / 1e9, *seconds, speed, row["peak_bytes"] / unit]
        )
    report.table(f"{dtype}: one photo by part", columns, rows)
    whole = {case.name: sum(row["best"] for row in facts["parts"] if row["case"] == case.name) for case in CASES}
    work = {case.name: sum(row["flops"] for row in facts["parts"] if row["case"] == case.name) for case in CASES}
    first = CASES[0].name
    report.table(
        f"{dtype}: one photo as a whole",
        ("case", "GFLOP", "FLOPs against 64 tokens", "best s", "seconds against 64 tokens"),
        [[name, work[name] / 1e9, work[name] / work[first], whole[name], whole[name] / whole[first]] for name in whole],
    )
    if dtype == "bfloat16" and options.size != "tiny":
        ratio = grown / load["stored_bytes"]
        goal = f"<= {GOAL_LOAD}"
        report.goal("memory that loading takes at most / bf16 size", goal, f"{ratio:.3f}", ratio <= GOAL_LOAD)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Load the model and run every part of every case; runs in the child."""
    import torch

    from magicmm_model.checkpoint import Checkpoint
    from magicmm_model.loading import load_model

    before = _resident("VmHWM")
    begun = time.perf_counter()
    checkpoint = Checkpoint.open(options.checkpoint)
    model = load_model(checkpoint, dtype=getattr(torch, options.child), head=True)
    load = {
        "seconds": time.perf_counter() - begun,
        "peak_bytes": _resident("VmHWM"),
        "before_bytes": before,
        "weight_bytes": sum(parameter.nbytes for parameter in model.parameters()),
        "stored_bytes": checkpoint.size,
    }
    calls = _calls(model, options.text_tokens)
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    timings = race({name: _timed(call, cpu[name]) for name, (call, _) in calls.items()}, options.rounds, 3600)
    parts = []
    for name, (call, tokens) in calls.items():
        case, part = name.split("; ")
        facts: dict[str, float] = {"flops": _flops(call), "peak_bytes": _peak_of(call)}
        facts |= {"best": timings[name].best, "median": timings[name].median, "cpu": min(cpu[name])}
        parts.append({"case": case, "part": part, "tokens": tokens, **facts})
    return {"threads": torch.get_num_threads(), "load": load, "parts": parts}


def _calls(model: Any, text_tokens: int) -> dict[str, tuple[Callable[[], object], int]]:
    """Return what is measured: all cases share one set of weights, but for the position embeddings."""
    import torch

    from magicmm_model.model import MagicModel
    from magicmm_model.vision import resize_positions

    generator = torch.Generator().manual_seed(0)
    calls: dict[str, tuple[Callable[[], object], int]] = {}
    state = dict(model.named_parameters())
    positions = "vision.position_embedding"
    for case in CASES:
        config = model.config.variant(compression=case.compression, image_size=case.image_size)
        with torch.device("meta"):
            variant = MagicModel(config)
        table = resize_positions(state[positions].data, config.vision.grid)
        variant.load_state_dict({**state, positions: table}, assign=True)
        variant.requires_grad_(False).eval()
        pixels = torch.randint(0, 256, (1, case.image_size, case.image_size, 3), generator=generator).to(torch.uint8)
        length = config.tile_tokens + text_tokens
        embeds = torch.randn((1, length, config.dim), generator=generator).to(state[positions].dtype)
        calls[f"{case.name}; vision"] = _inference(variant.visual_tokens, pixels), config.vision.grid**2 + 1
        calls[f"{case.name}; language"] = _inference(variant.vectors, embeds, torch.tensor([length - 1])), length
    return calls


def _inference(function: Callable[..., object], *inputs: object) -> Callable[[], object]:
    import torch

    def call() -> object:
        with torch.inference_mode():
            return function(*inputs)

    return call


def _timed(call: Callable[[], object], seconds: list[float]) -> Callable[[], object]:
    def timed() -> object:
        begun = time.process_time()
        result = call()
        seconds.append(time.process_time() - begun)
        return result

    return timed


def _flops(call: Callable[[], object]) -> int:
    """Count multiplications and additions of matrix products, convolutions and attention, as torch counts them."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The fused CPU kernel of attention is not in torch's table; its parts are.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def _peak_of(call: Callable[[], object]) -> int:
    """Return by how much resident memory grows at most while `call` runs (Linux with glibc)."""
    import ctypes

    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed would hide the growth
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except (OSError, AttributeError):
        return 0
    before = _resident("VmRSS")
    call()
    return max(0, _resident("VmHWM") - before)


def _resident(key: str) -> int:
    """Return resident memory in bytes: VmRSS now, VmHWM at most (Linux)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0


def finished(child: Child) -> Child:
    """Insist that a process succeeded."""
    if child.code != 0:
        raise RuntimeError(f"a measured process failed with {child.code}: {child.stderr[-2000:]}")
    return child


if __name__ == "__main__":
    sys.exit(main())
