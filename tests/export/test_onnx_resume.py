"""Resuming: a stopped or killed export finds its finished parts again, and takes no others for them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from exported_bundles import importable_in_children
from graph_runs import FOUR, SIDE, damaged, hashes, options, partial_folders
from magicmm_export.onnx.export import OnnxOptions, export_onnx
from magicmm_export.onnx.source import unit_source
from magicmm_export.options import Progress
from magicmm_export.part_cache import PartCache
from magicmm_model.checkpoint import Checkpoint
from magicmm_quant.recipe import RECIPES, Recipe, Rule
from magicmm_quant.schemes import Scheme
from magicmm_quant.units import unit_plans
from magicmm_quant.weights import RewrittenWeights


def stop_at(unit: str) -> Callable[[Progress], None]:
    """Return a progress callback that does what Ctrl-C does."""

    def stop(progress: Progress) -> None:
        if progress.what == unit:
            raise KeyboardInterrupt

    return stop


def test_a_stopped_export_goes_on_where_it_was(
    tiny: Checkpoint, int4_bundle: Path, tmp_path: Path, in_process: None
) -> None:
    target, first = tmp_path / "tiny.magicmm", PartCache(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        export_onnx(tiny, target, options(FOUR, cache=first), progress=stop_at("language.layers.1.o"))
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]
    assert (first.found, first.made) == (0, 11 + 6)
    again = PartCache(first.folder)
    export_onnx(tiny, target, options(FOUR, cache=again))
    assert (again.found, again.made) == (17, 6)
    assert hashes(target) == hashes(int4_bundle)


def test_a_killed_command_goes_on_where_it_was(tiny: Checkpoint, int8_bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "tiny.magicmm"
    command = [sys.executable, "-m", "magicmm_export", str(tiny.folder), str(target), "--image-size", str(SIDE)]
    with importable_in_children():
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        parts, limit = tmp_path / "tiny.magicmm.parts", time.monotonic() + 120
        while len(list(parts.glob("*.safetensors"))) < 3:
            assert child.poll() is None and time.monotonic() < limit
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        left = len(list(parts.glob("*.safetensors")))
        assert not target.exists() and left >= 3
        cache = PartCache(parts)
        export_onnx(tiny, target, options(cache=cache))
    assert cache.found == left and cache.found + cache.made == 23
    assert hashes(target) == hashes(int8_bundle)
    assert partial_folders(tmp_path) == [], "what the killed process left lies about"


def test_what_another_export_is_writing_is_left_alone(tiny: Checkpoint, tmp_path: Path, in_process: None) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        theirs = tmp_path / f"a.magicmm.partial-{other.pid}"
        theirs.mkdir()
        export_onnx(tiny, tmp_path / "a.magicmm", options())
        other.communicate(b"\n")
    assert theirs.is_dir()
    export_onnx(tiny, tmp_path / "a.magicmm", options())
    assert not theirs.exists()


def test_a_changed_recipe_redoes_only_what_it_touches(tiny: Checkpoint, tmp_path: Path, in_process: None) -> None:
    cache = PartCache(tmp_path / "parts")
    export_onnx(tiny, tmp_path / "a.magicmm", options(cache=cache))
    assert (cache.found, cache.made) == (0, 23)
    other = Recipe("other", (Rule(r"language\.layers\.[01]\.down", Scheme("int4", 32)), *RECIPES["int8"].rules))
    export_onnx(tiny, tmp_path / "b.magicmm", options(other, cache=cache))
    assert (cache.found, cache.made) == (21, 25)


def keys(checkpoint: Checkpoint, lowering: OnnxOptions) -> dict[str, str]:
    """Return the key of every unit."""
    config = checkpoint.config.variant(compression=lowering.compression, image_size=lowering.image_size)
    source = unit_source(checkpoint, RewrittenWeights(checkpoint, config, None), config, lowering)
    return {unit: source._key(unit, *source._facts(unit)) for unit in unit_plans(config)}


def test_keys_change_with_all_that_a_part_depends_on(tiny: Checkpoint, tmp_path: Path) -> None:
    plain = OnnxOptions(recipe=RECIPES["int8"])
    before = keys(tiny, plain)
    assert keys(tiny, replace(plain, model_id="b", low_memory=True)) == before
    for changed in (
        replace(plain, rotate=False),
        replace(plain, calibration="2 photos (abc)"),
        replace(plain, image_size=224),
    ):
        after = keys(tiny, changed)
        assert not set(after.values()) & set(before.values())
    after = keys(tiny, replace(plain, recipe=FOUR))
    assert {unit for unit in before if after[unit] != before[unit]} == {u for u in before if u.startswith("language")}

    def nudge(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in tensors if name.endswith("layers.1.mlp.up_proj.weight"))
        tensors[name][0, 0] += 1e-3

    other = keys(damaged(tiny, tmp_path / "other", nudge), plain)
    assert [unit for unit in before if other[unit] != before[unit]] == ["language.layers.1.gate_up"]


def test_calibrated_keys_change_with_the_compression(tiny: Checkpoint) -> None:
    first, second = (keys(tiny, options(FOUR, calibration="2 photos (abc)", compression=level)) for level in (1, 2))
    assert not set(first.values()) & set(second.values())


def test_a_corrupted_part_is_made_again(tiny: Checkpoint, int8_bundle: Path, tmp_path: Path, in_process: None) -> None:
    cache = PartCache(tmp_path / "parts")
    export_onnx(tiny, tmp_path / "tiny.magicmm", options(cache=cache))
    broken = sorted(cache.folder.iterdir())[3]
    broken.write_bytes(broken.read_bytes()[:-8])
    again = PartCache(cache.folder)
    export_onnx(tiny, tmp_path / "tiny.magicmm", options(cache=again))
    assert (again.found, again.made) == (22, 1)
    assert hashes(tmp_path / "tiny.magicmm") == hashes(int8_bundle)
