"""The real size, with random weights: it loads in little more memory than it needs, and embeds a photo."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, sys
from pathlib import Path
import torch
from magicmm_model import Checkpoint, TorchEmbedder
from magicmm_model.templates import ROLES

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

folder, photo = Path(sys.argv[1]), sys.argv[2]
before = peak()
embedder = TorchEmbedder.open(folder, head=True)
loaded = peak()
embedding = embedder.embed_image(photo)
embedding_ids = embedder.prompts.build(ROLES["photo"], tiles=1).ids
assert embedding.tokens == len(embedding_ids)
print(json.dumps({
    "stored": Checkpoint.open(folder).size,
    "loading": loaded - before,
    "types": sorted({str(p.dtype) for p in embedder.model.parameters()}),
    "dim": len(embedding.vector),
    "length": float(embedding.vector.norm()),
    "finite": bool(embedding.vector.isfinite().all()),
    "visual_tokens": list(embedding_ids).count(embedder.tokenizer.special.context),
}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_2b_checkpoint_loads_in_its_own_size_and_embeds_a_photo(tmp_path: Path) -> None:
    folder, photo = tmp_path / "checkpoint", tmp_path / "photo.jpg"
    tool = ROOT / "tests" / "tools" / "random_checkpoint.py"
    subprocess.run([sys.executable, str(tool), str(folder), "--size", "2B"], check=True)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((1600, 1200), Image.Resampling.BICUBIC).save(photo)
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(folder), str(photo)], check=True, capture_output=True)
    facts = json.loads(done.stdout)
    assert facts["types"] == ["torch.bfloat16"]
    assert 4.1e9 < facts["stored"] < 4.3e9  # 2.089 B parameters with the untied head, in bfloat16
    assert facts["loading"] <= 1.1 * facts["stored"]
    assert facts["visual_tokens"] == 64
    assert facts["dim"] == 1536 and facts["finite"]
    assert facts["length"] == pytest.approx(1, abs=1e-5)
