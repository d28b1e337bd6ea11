"""VisDoc, the documents of MMEB-V2: 24 data sets in four groups, nDCG@5, all means plain.

The page sets of ViDoSeek and MMLongBench had wrong labels until November 2025. Here the fixed ones are read
(`ViDoSeek-page-fixed`, `MMLongBench-page-fixed`); `ood: old` reads the first ones, for numbers as in the paper, and
says so in every name that they touch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.evaluation.benchmarks.pages import is_beir, read_beir
from magicmm_training.evaluation.benchmarks.reading import Options
from magicmm_training.evaluation.benchmarks.vidore import METRICS
from magicmm_training.evaluation.task import Average, EvaluationTask

if TYPE_CHECKING:
    from pathlib import Path

    from magicmm_training.recipe import Benchmark

OLD = " (old split)"


@dataclass(frozen=True, slots=True)
class DocumentSet:
    """One data set.

    Attributes:
        name: As the leaderboard has it; the folder may bear it.
        group: Published mean.
        queries: How many there are.
        folder: Other name of the folder: that of the repository.
        split: Of its files.
    """

    name: str
    group: str
    queries: int
    folder: str
    split: str = "test"


def _visrag(name: str, queries: int) -> DocumentSet:
    return DocumentSet(f"VisRAG_{name}", "VisRAG", queries, f"VisRAG-Ret-Test-{name}", "train")


def _synthetic(topic: str) -> DocumentSet:
    return DocumentSet(f"ViDoRe_syntheticDocQA_{topic}", "ViDoRe-V1", 100, f"syntheticDocQA_{topic}_test_beir")


SETS = (
    DocumentSet("ViDoRe_arxivqa", "ViDoRe-V1", 500, "arxivqa_test_subsampled_beir"),
    DocumentSet("ViDoRe_docvqa", "ViDoRe-V1", 451, "docvqa_test_subsampled_beir"),
    DocumentSet("ViDoRe_infovqa", "ViDoRe-V1", 494, "infovqa_test_subsampled_beir"),
    DocumentSet("ViDoRe_tabfquad", "ViDoRe-V1", 280, "tabfquad_test_subsampled_beir"),
    DocumentSet("ViDoRe_tatdqa", "ViDoRe-V1", 1646, "tatdqa_test_beir"),
    DocumentSet("ViDoRe_shiftproject", "ViDoRe-V1", 100, "shiftproject_test_beir"),
    _synthetic("artificial_intelligence"),
    _synthetic("energy"),
    _synthetic("government_reports"),
    _synthetic("healthcare_industry"),
    DocumentSet("ViDoRe_esg_reports_human_labeled_v2", "ViDoRe-V2", 52, "esg_reports_human_labeled_v2"),
    DocumentSet("ViDoRe_biomedical_lectures_v2_multilingual", "ViDoRe-V2", 640, "biomedical_lectures_v2"),
    DocumentSet("ViDoRe_economics_reports_v2_multilingual", "ViDoRe-V2", 232, "economics_reports_v2"),
    DocumentSet("ViDoRe_esg_reports_v2_multilingual", "ViDoRe-V2", 228, "esg_reports_v2"),
    _visrag("ArxivQA", 816),
    _visrag("ChartQA", 63),
    _visrag("MP-DocVQA", 591),
    _visrag("SlideVQA", 556),
    _visrag("InfoVQA", 718),
    _visrag("PlotQA", 863),
    DocumentSet("ViDoSeek-page", "OOD", 1142, "ViDoSeek-page-fixed"),
    DocumentSet("ViDoSeek-doc", "OOD", 1142, "ViDoSeek"),
    DocumentSet("MMLongBench-page", "OOD", 838, "MMLongBench-page-fixed"),
    DocumentSet("MMLongBench-doc", "OOD", 838, "MMLongBench-doc"),
)
_FIXED = "-fixed"


def open_visdoc(benchmark: Benchmark, root: Path) -> tuple[EvaluationTask, ...]:
    """Open the data sets, each in a folder of its name or its repository's.

    Options: `ood` ("fixed" or "old"), `partial` (accept missing sets and other numbers of queries).

    Raises:
        MagicError: `argument_invalid` for an unknown option, `source_unavailable` for a set that is not there.
    """
    options = Options(benchmark, {"ood": "fixed", "partial": False})
    old = options.choice("ood", ("fixed", "old")) == "old"
    partly = options.flag("partial")
    tasks = []
    for each in SETS:
        folder = _folder(root / benchmark.path, each, old)
        if folder is None:
            if partly:
                continue
            raise MagicError(
                ErrorCode.SOURCE_UNAVAILABLE,
                f"{root / benchmark.path} has no data set {each.name} (a folder of that name, or {each.folder}).",
                "Download it, or set the benchmark's option `partial: true`.",
            )
        load = partial(read_beir, folder, each.split, None)
        mark = OLD if old and each.folder.endswith(_FIXED) else ""
        tasks.append(
            EvaluationTask(
                each.name + mark,
                benchmark.name,
                METRICS,
                METRICS[0],
                load,
                averages_of(each, old),
                expected=None if partly else each.queries,
            )
        )
    return tuple(tasks)


def averages_of(each: DocumentSet, old: bool) -> tuple[Average, ...]:
    """Return the published means that a set enters; those that the old labels touch say so."""
    in_group = sum(other.group == each.group for other in SETS)
    mark = OLD if old else ""
    return Average(each.group + (mark if each.group == "OOD" else ""), in_group), Average("all" + mark, len(SETS))


def _folder(path: Path, each: DocumentSet, old: bool) -> Path | None:
    fixed = each.folder.endswith(_FIXED)
    # A folder with the plain name of a page set holds the old labels.
    names = (
        [each.folder.removesuffix(_FIXED)] if fixed and old else [each.folder] if fixed else [each.name, each.folder]
    )
    return next((path / name for name in names if is_beir(path / name)), None)
