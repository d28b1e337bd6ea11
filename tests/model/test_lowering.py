"""What export will lower: torch.export takes both parts whole, at any size, in operators that phones have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils._pytree import tree_leaves

from magicmm_model.loading import load_model
from magicmm_model.model import MagicModel

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of torch itself

MOST_DIMENSIONS = 5
"""As many as a tensor has in Core ML."""


class Vision(nn.Module):
    """Pixels to visual tokens."""

    def __init__(self, model: MagicModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.visual_tokens(pixels)


class Language(nn.Module):
    """Rows of tokens to vectors."""

    def __init__(self, model: MagicModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, embeds: Tensor, last: Tensor, past: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        return self.model.vectors(embeds, last, past)


@pytest.fixture(scope="module", params=[(448, 2), (224, 1)], ids=["compressed", "224 px"])
def vision(request: pytest.FixtureRequest, folder: Path) -> Vision:
    side, compression = request.param
    return Vision(load_model(folder, image_size=side, compression=compression)).eval()


@pytest.fixture(scope="module")
def vision_program(vision: Vision, pixels: Tensor) -> ExportedProgram:
    side = vision.model.config.vision.image_size
    return torch.export.export(vision, (pixels[:2, :side, :side],), dynamic_shapes=({0: Dim("n", max=64)},))


@pytest.fixture(scope="module")
def language(folder: Path) -> Language:
    return Language(load_model(folder)).eval()


@pytest.fixture(scope="module")
def language_program(language: Language) -> ExportedProgram:
    b, s = Dim("b", max=64), Dim("s", max=2048)
    example = (torch.randn(2, 20, 48), torch.tensor([19, 11]))
    return torch.export.export(language, example, dynamic_shapes=({0: b, 1: s}, {0: b}))


def unfit(program: ExportedProgram) -> set[str]:
    """Return what no phone runs, in a program as it is and in the smaller operators that back ends reduce it to."""
    found = set()
    for stage in (program, program.run_decompositions()):
        for node in stage.graph.nodes:
            results, name = tree_leaves(node.meta.get("val")), str(node.target)
            if any(isinstance(value, Tensor) and value.ndim > MOST_DIMENSIONS for value in results):
                found.add("dimensions")
            # Symbols without a size behind them stand for what only the values of a tensor tell.
            if "masked_scatter" in name or any(free_unbacked_symbols(value) for value in results if value is not None):
                found.add(name)
    return found


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_exported_vision_part_gives_the_same(
    vision: Vision, vision_program: ExportedProgram, pixels: Tensor, count: int
) -> None:
    side = vision.model.config.vision.image_size
    tiles = pixels[:count, -side:, -side:]
    torch.testing.assert_close(vision_program.module()(tiles), vision(tiles), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(1, 7), (3, 100), (2, 20), (5, 2)])
def test_the_exported_language_part_gives_the_same(
    language: Language, language_program: ExportedProgram, shape: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(8)
    embeds = torch.randn(*shape, 48, generator=generator)
    last = torch.randint(0, shape[1], shape[:1], generator=generator)
    torch.testing.assert_close(language_program.module()(embeds, last), language(embeds, last), atol=1e-6, rtol=0)


def test_the_exported_language_part_takes_a_prefix_of_any_length(language: Language) -> None:
    generator = torch.Generator().manual_seed(9)

    def inputs(b: int, p: int, s: int) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        embeds = torch.randn(1, p, 48, generator=generator)
        _, past = language.model.language(embeds)
        return torch.randn(b, s, 48, generator=generator), torch.randint(0, s, (b,), generator=generator), past

    b, p, s = Dim("b", max=64), Dim("p", max=512), Dim("s", max=512)
    shapes = ({0: b, 1: s}, {0: b}, [({2: p}, {2: p})] * 3)
    program = torch.export.export(language, inputs(2, 11, 20), dynamic_shapes=shapes)
    assert unfit(program) == set()
    for sizes in ((1, 11, 20), (3, 4, 9)):
        embeds, last, past = inputs(*sizes)
        given = language(embeds, last, past)
        torch.testing.assert_close(program.module()(embeds, last, past), given, atol=1e-6, rtol=0)


def test_the_vision_part_has_nothing_that_no_phone_runs(vision_program: ExportedProgram) -> None:
    assert unfit(vision_program) == set()


def test_the_language_part_has_nothing_that_no_phone_runs(language_program: ExportedProgram) -> None:
    assert unfit(language_program) == set()


@pytest.mark.parametrize(
    ("step", "name"),
    [
        (lambda rows: rows.nonzero(), "aten.nonzero.default"),
        (lambda rows: rows[rows > 0], "aten.index.Tensor"),
        (lambda rows: rows.masked_scatter(rows > 0, rows), "aten.masked_scatter.default"),
        (lambda rows: rows * rows.sum().item(), "aten.item.default"),
        (lambda rows: rows.reshape(1, 2, 1, 2, 1, 4) + 1, "dimensions"),
    ],
)
def test_what_no_phone_runs_is_found(step: Callable[[Tensor], Tensor], name: str) -> None:
    class Step(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            return step(rows)

    assert name in unfit(torch.export.export(Step(), (torch.ones(2, 8),)))
