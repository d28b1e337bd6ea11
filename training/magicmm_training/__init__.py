"""Training of Magic-MM-Embedding: three stages, mining, a judge, a reranker, and the benchmarks that measure them.

The method is that of arXiv 2602.05275; what the paper leaves open is chosen in the recipes and marked there.
"""

from __future__ import annotations

from importlib import util

_NEEDED = ("torch", "accelerate", "peft", "pyarrow", "pydantic", "yaml")
_MISSING = [name for name in _NEEDED if util.find_spec(name) is None]
if _MISSING:
    raise ImportError(f"magicmm_training needs {', '.join(_MISSING)}: pip install 'magicmm[training]'")
