"""The quality of a staged bundle: its vectors against those of the checkpoint in float32, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from magicmm_export.isolated import embed_staged
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config import ModelConfig
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_quant.calibration import sequences
from magicmm_quant.quality import QualityReport, assess
from magicmm_quant.samples import Samples, prepare
from magicmm_quant.streaming import StreamedModel


def measure_quality(
    checkpoint: Checkpoint,
    config: ModelConfig,
    samples: Samples,
    tokenizer: PromptTokenizer,
    staged: Path,
    manifest: Mapping[str, Any],
    scheme: str,
    done: Callable[[str], None] | None = None,
    runtimes: Sequence[str] = ("onnx",),
) -> tuple[QualityReport, ...]:
    """Embed the samples by the checkpoint and by the bundle, and compare.

    Args:
        checkpoint: The model.
        config: The variant that was exported.
        samples: Photos and captions; with pairs, recall is compared, too.
        tokenizer: The checkpoint's.
        staged: The bundle, complete but for its manifest.
        manifest: What its manifest will say.
        scheme: Name of the recipe, for the report.
        done: Called after each layer of the reference.
        runtimes: What runs the bundle, as for `Embedder.open`.

    Returns:
        A report for each runtime; they gate nothing by themselves.
    """
    inputs = prepare(samples, config, tokenizer)
    model = StreamedModel(checkpoint, config)
    visual = model.visual_tokens(inputs.tiles, done)
    reference = model.vectors(sequences(model, inputs, visual), done).numpy()
    count = len(samples.photos)
    given = [part for part, items in (("photo", samples.photos), ("query", samples.captions)) if items]
    wanted = {"photo": reference[:count], "query": reference[count:]}
    reports = []
    for runtime in runtimes:
        photos, texts = embed_staged(staged, manifest, samples.photos, samples.captions, runtime)
        found = {"photo": photos, "query": texts}
        name = scheme if runtime == "onnx" else f"{scheme} on {runtime}"
        references = {part: wanted[part] for part in given}
        reports.append(
            assess(name, samples.describe(), references, {part: found[part] for part in given}, samples.pairs)
        )
    return tuple(reports)
