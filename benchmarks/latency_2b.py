"""How long photos and queries take at the real size, against the usual ways, in one run in which all take turns.

The weights are random, so this says nothing about quality. Vision and language are timed apart; a photo is their sum.
"Vanilla" is `torch.onnx.export` and `quantize_dynamic` with 256 visual tokens: vision as a whole, and the language
model by straight lines through the times of graphs with a few of its layers, since exporting all of them takes 10 GB.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from dataclasses import astuple
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import llama_2b
from fidelity_2b import fidelities
from lower_2b import lowered
from magicmm.openvino_runtime import saturates
from model_2b import checkpoint_parser, random_checkpoint
from report import CACHE, Report, Timing, race, readers
from roofs import Roofs, measure_roofs, photo_work
from variants_2b import (
    FLOAT32,
    INT4,
    INT8,
    LLAMA,
    OPENVINO,
    RECIPES,
    SMALL,
    TORCH,
    VANILLA,
    Look,
    Workshop,
    absent,
    case_name,
    language_calls,
    length_name,
    vision_calls,
)

VARIANTS = (INT8, OPENVINO, INT4, SMALL, FLOAT32, TORCH, VANILLA, LLAMA)
QUERY, PREFIX, PROMPT = 16, 50, 26
"""Tokens of a text query, of an instruction, and of the prompt beside a photo."""
FULL, LARGE = Look(448, 2), Look(448, 1)
LOOKS = {
    INT8: (FULL, Look(336, 2), Look(224, 1), Look(224, 2)),
    OPENVINO: (FULL,),
    INT4: (FULL,),
    SMALL: (FULL,),
    FLOAT32: (FULL, Look(336, 2), Look(224, 1)),
    TORCH: (FULL, Look(336, 2), Look(224, 1)),
    VANILLA: (LARGE,),
    LLAMA: (LARGE,),
}


def main() -> int:
    """Run the benchmark."""
    options = build_parser().parse_args()
    if options.quick:
        options.size, options.rounds, options.threads, options.layers = "tiny", 2, [1], [1, 2]
        options.without = [
            INT4,
            SMALL,
            VANILLA,
            LLAMA,
        ]  # groups of 128 do not divide the tiny model; three more exports
    report = Report("latency_2b", options)
    checkpoint = options.checkpoint or random_checkpoint(options.size)
    place = TemporaryDirectory() if options.quick else nullcontext(str(CACHE / f"latency-{options.size}"))
    with place as folder:
        Latency(report, Workshop(checkpoint, Path(folder), tuple(options.layers)), options).run()
    report.finish()
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    found = checkpoint_parser(__doc__)
    found.add_argument("--rounds", type=int, default=3, help="how often each variant runs")
    found.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="threads of all variants")
    found.add_argument("--layers", type=int, nargs="+", default=[2, 5, 8], help="language layers of the vanilla graphs")
    found.add_argument("--without", nargs="+", choices=VARIANTS[1:], default=[], help="what to leave out")
    return found


class Latency:
    """One run."""

    def __init__(self, report: Report, workshop: Workshop, options: argparse.Namespace) -> None:
        """Decide which variants there are."""
        self.report, self.workshop, self.options = report, workshop, options
        self.config = workshop.config
        self.why = dict.fromkeys(options.without, "left out (--without)")
        self.why |= {name: f"not measured: {why}" for name in VARIANTS if (why := absent(name))}
        self.names = [name for name in VARIANTS if name not in self.why]
        self.roofs: dict[int, Roofs] = {}
        self.vision: dict[int, dict[str, Timing]] = {}
        self.language: dict[int, dict[str, Timing]] = {}
        self.read: dict[int, float] = {}

    def run(self) -> None:
        """Prepare, measure, report."""
        if LLAMA in self.names:
            self.report.table("llama.cpp was built with", ("instructions",), [[llama_2b.instructions()]])
        self._prepare()
        for threads in self.options.threads:
            self._measure_roofs(threads)
        self._roof_table()
        for threads in self.options.threads:
            self._measure(threads)
        self._part_tables()
        if VANILLA in self.names:
            self._fit_table()
        self._photo_table()
        self._query_tables()
        self._opening_table()
        if FLOAT32 in self.names:
            self._fidelity_table()

    def live(self, look: Look) -> int:
        """Return the tokens of a photo's sequence."""
        return look.tokens(self.config) + PROMPT

    def _prepare(self) -> None:
        """Write what is not there yet, before anything is timed."""
        for name in self.names:
            if name in RECIPES:
                self.workshop.bundle(name)
        if OPENVINO in self.names:
            self.workshop.openvino_graph(FULL)

    def _measure_roofs(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.roofs[threads] = measure_roofs(threads, *((2, 1) if self.options.quick else ()))

    def _measure(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        looks = {name: LOOKS[name] for name in self.names}
        calls = vision_calls(self.workshop, looks, threads)
        self.vision[threads] = race(calls, self.options.rounds, 3600)
        calls.clear()  # vision and language need not be in memory together
        lengths = {name: self._lengths(name) for name in self.names if name != OPENVINO}
        words = np.ones(1 << (20 if self.options.quick else 25), np.int64)
        reading = readers(words, threads)
        timings = race(language_calls(self.workshop, lengths, threads) | reading, self.options.rounds, 3600)
        self.read[threads] = min(timings.pop(name).best for name in reading) / words.nbytes
        self.language[threads] = timings

    def _lengths(self, name: str) -> tuple[tuple[int, int], ...]:
        """Return live and prefix tokens of what a variant runs."""
        if name == VANILLA:
            return (self.live(LARGE), 0), (QUERY, 0)
        lives = {self.live(FULL), self.live(LARGE), QUERY, *(self.live(look) for look in LOOKS[name])}
        prefixed = ((QUERY, PREFIX), (QUERY + PREFIX, 0)) if name == INT8 else ()
        return (*((live, 0) for live in sorted(lives)), *prefixed)

    def _roof_table(self) -> None:
        columns = ("threads", "int8 GEMM GFLOP/s (onnxruntime)", "bf16 (torch)", "fp32 (torch)", "memory read GB/s")
        self.report.table(
            "what this machine can do", columns, [[n, *astuple(roofs)] for n, roofs in self.roofs.items()]
        )

    def _part_tables(self) -> None:
        for part, found in (("vision", self.vision), ("language", self.language)):
            columns = ["variant", "case"]
            columns += [f"{what}, {n} thr." for n in found for what in ("best ms", "median ms", "calm")]
            rows = []
            for key in next(iter(found.values())):
                cells: list[object] = []
                for one in (found[n][key] for n in found):
                    cells += [one.best * 1e3, one.median * 1e3, f"{one.calm}/{one.runs}"]
                rows.append([*key.split("; "), *cells])
            self.report.table(part, columns, rows)

    def fit(self, threads: int, live: int) -> tuple[float, float, float]:
        """Return seconds of no layer, seconds of each layer, and the largest distance of a time from the line."""
        layers = np.array(self.workshop.vanilla_layers, float)
        case = f"{VANILLA}; {length_name(live, 0)}"
        times = np.array([self.language[threads][f"{case}, {count} layers"].best for count in self.options.layers])
        each, none = np.polyfit(layers, times, 1)
        return float(none), float(each), float(np.abs(none + each * layers - times).max())

    def _fit_table(self) -> None:
        rows = []
        for threads in self.options.threads:
            for live in (self.live(LARGE), QUERY):
                none, each, error = self.fit(threads, live)
                whole = none + each * self.config.language.layers
                rows.append([threads, length_name(live, 0), none * 1e3, each * 1e3, error * 1e3, whole * 1e3])
        columns = ("threads", "case", "ms without layers", "ms a layer", "largest error ms", "whole model ms")
        counts = ", ".join(map(str, self.options.layers))
        self.report.table(f"{VANILLA}: language, by lines through {counts} layers", columns, rows)

    def language_seconds(self, name: str, threads: int, live: int, before: int = 0) -> float:
        """Return the best time of the whole language model."""
        if name == VANILLA:
            none, each, _ = self.fit(threads, live)
            return none + each * self.config.language.layers
        name = INT8 if name == OPENVINO else name  # its language model is the same
        return self.language[threads][f"{name}; {length_name(live, before)}"].best

    def photo_seconds(self, name: str, look: Look, threads: int) -> float:
        """Return the best times of vision and language together."""
        vision = self.vision[threads][f"{name}; {case_name(self.config, look)}"].best
        return vision + self.language_seconds(name, threads, self.live(look))

    def _photo_table(self) -> None:
        report, rows = self.report, []
        first = {n: self.photo_seconds(INT8, FULL, n) for n in self.options.threads}
        for name in self.names:
            for look in LOOKS[name]:
                cells: list[Any] = []
                for n in self.options.threads:
                    taken = self.photo_seconds(name, look, n)
                    cells += [taken, taken / first[n]]
                rows.append([name, case_name(self.config, look), *cells])
        rows += [[name, why, *["-", "-"] * len(first)] for name, why in self.why.items()]
        columns = ["variant", "case", *(f"{what}, {n} thr." for n in first for what in ("s", "x ours int8"))]
        report.table("one photo: vision + language", columns, rows)
        if self.options.size != "tiny":
            self._photo_goals(first)

    def _photo_goals(self, first: dict[int, float]) -> None:
        report = self.report
        work = sum(photo_work(self.config.variant(image_size=FULL.image_size, compression=2), self.live(FULL)))
        for n in self.options.threads:
            if VANILLA in self.names:
                ratio = self.photo_seconds(VANILLA, LARGE, n) / first[n]
                report.goal(f"photo against {VANILLA}, {n} thr.", ">= 2.5 x faster", f"{ratio:.2f} x", ratio >= 2.5)
            share = work / first[n] / 1e9 / self.roofs[n].int8
            what = f"{work / 1e9:.0f} GFLOP of a photo against the int8 roof, {n} thr."
            report.goal(what, ">= 30 %", f"{share:.0%}", share >= 0.3)
            if OPENVINO in self.names:
                share = work / self.photo_seconds(OPENVINO, FULL, n) / 1e9 / self.roofs[n].int8
                how = " (here in float32: 8-bit products come out wrong on this processor)" if saturates() else ""
                what = f"photo with {OPENVINO}{how} against the int8 roof, {n} thr."
                report.goal(what, ">= 45 %", f"{share:.0%}", share >= 0.45)
            if INT4 in self.names:
                slower = self.photo_seconds(INT4, FULL, n) / first[n] - 1
                report.goal(f"photo with {INT4}, {n} thr.", "<= 5 % slower", f"{slower:+.1%}", slower <= 0.05)
            if LLAMA in self.names:
                # It has no compression; with as few rows for its language model as ours reads, it is at its best.
                vision = self.vision[n][f"{LLAMA}; {case_name(self.config, LARGE)}"].best
                ratio = (vision + self.language_seconds(LLAMA, n, self.live(FULL))) / first[n]
                what = f"photo against {LLAMA}, both with {self.live(FULL)} rows, {n} thr."
                report.goal(what, ">= 4 x faster", f"{ratio:.2f} x", ratio >= 4)
        if LLAMA in self.why:
            report.goal(f"photo against {LLAMA}", ">= 4 x faster", self.why[LLAMA], False)

    def _query_tables(self) -> None:
        graph = (self.workshop.bundle(INT8) / "onnx").glob("language.onnx*")
        size = sum(path.stat().st_size for path in graph)
        rows = []
        for n in self.options.threads:
            reading, alone = self.read[n] * size, self.language_seconds(INT8, n, QUERY)
            after = self.language_seconds(INT8, n, QUERY, PREFIX)
            together = self.language_seconds(INT8, n, QUERY + PREFIX)
            rows.append(
                [
                    n,
                    *(seconds * 1e3 for seconds in (reading, alone, after, together)),
                    alone / reading,
                    together / after,
                ]
            )
            if self.options.size != "tiny":
                what = f"{QUERY}-token query against reading {size / 1e9:.2f} GB once, {n} thr."
                self.report.goal(what, "<= 1.25 x", f"{alone / reading:.2f} x", alone <= 1.25 * reading)
                what = f"query of {QUERY} tokens with its {PREFIX}-token instruction as a prefix, {n} thr."
                self.report.goal(what, ">= 2 x faster", f"{together / after:.2f} x", together >= 2 * after)
        live = (length_name(QUERY, 0), length_name(QUERY, PREFIX), length_name(QUERY + PREFIX, 0))
        columns = ("threads", "reading weights ms", *(f"{one} ms" for one in live), "query / reading", "gain of prefix")
        self.report.table("text queries, ours int8", columns, rows)

    def _opening_table(self) -> None:
        rows = []
        for name in self.names:
            if name in RECIPES:
                bundle = self.workshop.bundle(name)
                _, facts = lowered("open", bundle)
                size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
                rows.append([name, size / 1e9, facts["seconds"], facts["own_peak"] / 1e9, facts["own_anon"] / 1e9])
        columns = ("variant", "bundle GB", "s to first text and photo", "peak GB", "of it own, not mapped, GB")
        self.report.table("a fresh process opens a bundle and embeds a text and a photo", columns, rows)

    def _fidelity_table(self) -> None:
        names = [name for name in self.names if name in {*RECIPES, OPENVINO} - {FLOAT32}]
        found = fidelities(self.workshop, names, max(self.options.threads), 2 if self.options.quick else 4)
        rows = []
        for name, one in found.items():
            stages = (one.visual, one.language, one.text, one.whole)
            rows.append([name, *(f"{mean:.5f} ({least:.5f})" for mean, least in stages)])
            if name == INT8 and self.options.size != "tiny":
                goal = f"{one.whole[1]:.5f} at least (random weights)"
                self.report.goal(f"cosine of a photo, {name} to {FLOAT32}", ">= 0.995", goal, one.whole[1] >= 0.995)
        columns = ("variant", "visual tokens", "language, same visual tokens", "text query", "photo as a whole")
        self.report.table("random weights: cosines to our float32 graphs, mean (minimum)", columns, rows)


if __name__ == "__main__":
    sys.exit(main())
