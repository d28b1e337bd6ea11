"""One scale for all rows of a unit: its largest number, after smoothing, is the code 127."""

from __future__ import annotations

import numpy as np
import pytest

from magicmm_quant.calibration import Statistics, UnitStatistics
from magicmm_quant.ranges import static_scales


def seen(*peaks: float) -> UnitStatistics:
    return UnitStatistics(1, np.array(peaks, np.float32), np.ones(len(peaks)))


def test_the_largest_number_is_the_largest_code() -> None:
    statistics = Statistics({"vision.layers.0.fc2": seen(2, 254, 1)}, "some")
    assert static_scales(statistics, {})["vision.layers.0.fc2"] == 2


def test_smoothing_divides_what_is_read() -> None:
    statistics = Statistics({"vision.layers.0.qkv": seen(127, 254)}, "some")
    smoothing = {"vision.layers.0.qkv": np.array([1, 4], np.float32)}
    assert static_scales(statistics, smoothing)["vision.layers.0.qkv"] == 1


def test_units_that_never_saw_anything_have_a_scale() -> None:
    found = static_scales(Statistics({"connector.linear_1": seen(0, 0)}, "some"), {})
    assert found["connector.linear_1"] > 0


def test_only_the_vision_tower_has_scales() -> None:
    statistics = Statistics({"vision.layers.0.qkv": seen(1), "language.layers.0.o": seen(1)}, "some")
    found = static_scales(statistics, {})
    assert found == {"vision.layers.0.qkv": pytest.approx(1 / 127)}
