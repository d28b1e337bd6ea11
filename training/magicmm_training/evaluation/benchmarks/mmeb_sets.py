"""The 36 data sets of MMEB (V1; "Image" of MMEB-V2), by category; what their rows look like is in `mmeb_habits`."""

from __future__ import annotations

from dataclasses import dataclass

from magicmm_training.data.mmeb_habits import TRAINED, UNSEEN, Habit

QUERIES = 1000
"""Of each set."""
_CATEGORIES = {
    "classification": (
        "ImageNet-1K N24News HatefulMemes VOC2007 SUN397 Place365 ImageNet-A ImageNet-R ObjectNet Country211"
    ),
    "VQA": "OK-VQA A-OKVQA DocVQA InfographicsVQA ChartQA Visual7W ScienceQA VizWiz GQA TextVQA",
    "retrieval": (
        "VisDial CIRR VisualNews_t2i VisualNews_i2t MSCOCO_t2i MSCOCO_i2t NIGHTS WebQA FashionIQ Wiki-SS-NQ OVEN EDIS"
    ),
    "grounding": "MSCOCO RefCOCO RefCOCO-Matching Visual7W-Pointing",
}
_DOCUMENT_QUERIES = {"DocVQA", "InfographicsVQA", "ChartQA"}
_DOCUMENT_TARGETS = {"Wiki-SS-NQ"}


@dataclass(frozen=True, slots=True)
class MmebSet:
    """One data set.

    Attributes:
        name: Of its folder.
        category: One of four.
        habit: Its task, its instructions, and how its queries are written.
        document_queries: Whether the pictures of queries are documents, cut into up to four tiles (our reading of the
            paper, which only gives their share).
        document_targets: The same for candidates.
    """

    name: str
    category: str
    habit: Habit
    document_queries: bool
    document_targets: bool

    @property
    def trained(self) -> bool:
        """Whether MMEB has a training part of it ("IND"); the others are "OOD"."""
        return self.name in TRAINED


SETS = tuple(
    MmebSet(name, category, {**TRAINED, **UNSEEN}[name], name in _DOCUMENT_QUERIES, name in _DOCUMENT_TARGETS)
    for category, names in _CATEGORIES.items()
    for name in names.split()
)


def means_of(each: MmebSet) -> dict[str, int]:
    """Return the published means that a set enters, and over how many sets each is."""
    side = "IND" if each.trained else "OOD"
    return {
        each.category: sum(other.category == each.category for other in SETS),
        side: sum(other.trained == each.trained for other in SETS),
        "all": len(SETS),
    }
