"""What tests share: tiny bundles, and pictures as the bytes of a file."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from tiny_bundles import composing_bundle, dual_bundle, vision_language_bundle


@pytest.fixture(scope="session")
def dual_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dual encoder on disk; tests must not change it."""
    return dual_bundle(tmp_path_factory.mktemp("dual") / "tiny.magicmm")


@pytest.fixture(scope="session")
def composing_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dual encoder with a composed graph on disk; tests must not change it."""
    return composing_bundle(tmp_path_factory.mktemp("composing") / "tiny.magicmm")


@pytest.fixture(scope="session")
def vlm_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision-language bundle on disk; tests must not change it."""
    return vision_language_bundle(tmp_path_factory.mktemp("vlm") / "tiny.magicmm")


@pytest.fixture(scope="session", params=["dual", "composing", "vlm"])
def bundle_path(request: pytest.FixtureRequest, dual_path: Path, composing_path: Path, vlm_path: Path) -> Path:
    """Each architecture in turn, a dual encoder with and without a composed graph."""
    return {"dual": dual_path, "composing": composing_path, "vlm": vlm_path}[str(request.param)]


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """Return a function that gives a picture as the bytes of a file."""

    def encode(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
        Image.init()
        if kind not in Image.SAVE:
            pytest.skip(f"this Pillow cannot write {kind}")  # AVIF came with 11.3
        file = io.BytesIO()
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
        return file.getvalue()

    return encode
