"""The model as static torch modules that every runtime lowers: one tile, one sequence of fixed length, no masks built.

Built from a loaded `MagicModel`, whose parameters they share: several lengths of one model hold its weights once.
"""

from magicmm_export.decomposition.language import LanguageBlocks
from magicmm_export.decomposition.norms import Norms
from magicmm_export.decomposition.vision import VisionEncoder

__all__ = ["LanguageBlocks", "Norms", "VisionEncoder"]
