"""What is known of onnxruntime's execution providers: which operators of a graph they would leave to the CPU.

Nothing is guessed: a provider without a published list says so. Lists tell what a provider never takes; what it does
take still depends on shapes and types, and only a run on the device shows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

CONTRIB = "com.microsoft"

# docs/execution-providers/Xnnpack-ExecutionProvider.md of onnxruntime, section "Supported ops".
_XNNPACK = frozenset(
    {
        "AveragePool",
        "Conv",
        "ConvTranspose",
        "Gemm",
        "MatMul",
        "MaxPool",
        "QLinearConv",
        "Resize",
        "Softmax",
        f"{CONTRIB}.QLinearAveragePool",
        f"{CONTRIB}.QLinearConvTranspose",
        f"{CONTRIB}.QLinearSoftmax",
    }
)
# onnxruntime/contrib_ops/webgpu/webgpu_contrib_kernels.cc, commit 01671d9.
_WEBGPU_CONTRIB = frozenset(
    f"{CONTRIB}.{name}"
    for name in (
        "Attention",
        "BiasAdd",
        "BiasGelu",
        "BiasSplitGelu",
        "FastGelu",
        "FusedConv",
        "GatherBlockQuantized",
        "Gelu",
        "GroupQueryAttention",
        "MatMulNBits",
        "MatMulNBitsMlp",
        "MatMulNBitsQkv",
        "MultiHeadAttention",
        "QMoE",
        "QuickGelu",
        "RotaryEmbedding",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    )
)
_LISTED = re.compile(r"^\|(ai\.onnx|com\.microsoft)[:.](\w+)\|", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ProviderCheck:
    """One provider and one graph.

    Attributes:
        provider: Its short name.
        unsupported: Operators that it leaves to the CPU ("com.microsoft.X" for contrib operators); None = not known.
        notes: What else is known to matter for this graph, as sentences.
    """

    provider: str
    unsupported: tuple[str, ...] | None
    notes: tuple[str, ...]


def check_providers(operators: Iterable[str], is_dynamic: bool) -> tuple[ProviderCheck, ...]:
    """Return what is known of each provider.

    Args:
        operators: Names of a graph's operators, contrib ones as "com.microsoft.X".
        is_dynamic: Whether an input of the graph has a free dimension.
    """
    used = sorted(set(operators))
    contrib = [name for name in used if name.startswith(f"{CONTRIB}.")]
    nnapi, coreml = _listed("nnapi_supported_ops.md"), _listed("coreml_supported_mlprogram_ops.md")
    # github.com/microsoft/onnxruntime/issues/22439 and 11073.
    fixed = ("It takes no free dimensions; the inputs of this graph have some.",) if is_dynamic else ()
    return (
        ProviderCheck("XNNPACK", _missing(used, _XNNPACK), ("It has a pool of threads of its own.",)),
        ProviderCheck("NNAPI", _missing(used, nnapi), ("Android has deprecated NNAPI.", *fixed)),
        ProviderCheck(
            "CoreML",
            _missing(used, coreml),
            ("The list is that of ML programs; each gap splits the graph into more partitions.",),
        ),
        ProviderCheck(
            "QNN", None, ("The NPU wants quantised graphs as QuantizeLinear/DequantizeLinear pairs.", *fixed)
        ),
        ProviderCheck(
            "WebGPU", _missing(contrib, _WEBGPU_CONTRIB), ("Only contrib operators were compared with its kernels.",)
        ),
    )


def _missing(used: Iterable[str], supported: frozenset[str] | None) -> tuple[str, ...] | None:
    if supported is None:
        return None
    known = {name.casefold() for name in supported}  # the lists are not consistent in case
    return tuple(name for name in used if name.casefold() not in known)


@cache
def _listed(file: str) -> frozenset[str] | None:
    """Return the operators of a list that onnxruntime installs for its usability checker, or None without it."""
    try:
        text = files("onnxruntime.tools.mobile_helpers").joinpath(file).read_text(encoding="utf-8")
    except (OSError, ImportError):
        return None
    names = frozenset(f"{CONTRIB}.{name}" if domain == CONTRIB else name for domain, name in _LISTED.findall(text))
    return names or None
