"""Colours as words: the conversion against published values, the nearest word, and the weights."""

from __future__ import annotations

import numpy as np
import torch

from magicmm_model.nano.colours import COLOURS, LEVELS, ColourWords, centred_words, cielab, nearest_colours

NAMES = list(COLOURS)


def test_cielab_has_the_published_values() -> None:
    rgb = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 255, 255], [0, 0, 0]], np.float64)
    published = [[53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86], [97.14, -21.55, 94.48]]
    np.testing.assert_allclose(cielab(rgb), [*published, [100, 0, 0], [0, 0, 0]], atol=0.05)


def test_each_colour_is_nearest_to_itself() -> None:
    table = nearest_colours().reshape(LEVELS, LEVELS, LEVELS)
    for place, rgb in enumerate(COLOURS.values()):
        assert table[tuple(value // (256 // LEVELS) for value in rgb)] == place


def test_shares_of_colours_weigh_their_words() -> None:
    words = ColourWords(len(NAMES))
    words.vectors.copy_(torch.eye(len(NAMES)))
    picture = np.empty((1, 32, 32, 3), np.uint8)
    picture[:, :24] = COLOURS["green"]
    picture[:, 24:] = COLOURS["blue"]
    found = words(torch.from_numpy(picture))[0].numpy()
    wanted = np.zeros(len(NAMES))
    wanted[NAMES.index("green")], wanted[NAMES.index("blue")] = 0.75**0.5, 0.25**0.5
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_words_are_told_apart() -> None:
    rows = centred_words(np.random.default_rng(0).standard_normal((11, 5)).astype(np.float32) + 3)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert np.abs(rows.mean(0)).max() < 0.5
