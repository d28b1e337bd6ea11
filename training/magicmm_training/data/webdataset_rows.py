"""The format "webdataset": tar shards of captioned pictures, or of pairs whose pictures lie in the shard.

A sample with a member `json` is a row of the format "pairs" in which pictures are named by their endings, such as
{"query": {"text": "a dog"}, "positive": {"image": "jpg"}}. A sample of a picture and `txt` is a caption and its
picture; the source's group says which of the two is searched with: "T->I" or "I->T".
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from magicmm_training.data.pair_rows import read_pair
from magicmm_training.data.prompts import task_instruction
from magicmm_training.data.reader import PairContext, PairFormat
from magicmm_training.data.rows import Row, shown
from magicmm_training.data.tar_rows import KEY
from magicmm_training.entries import Pair

_ENDINGS = ("jpg", "jpeg", "png", "webp")


def read_sample(row: Row, context: PairContext) -> Pair:
    """Make a pair of a sample.

    Raises:
        MagicError: When members are missing, or `json` is no row of pairs.
    """
    key = str(row.values[KEY])
    if "json" in row.values and "txt" not in row.values:
        values = _with_pictures(row, _object(row))
        return read_pair(replace(row, values={"id": key, **values}), context)
    text = _decoded(row, "txt").strip() or None
    endings = [ending for ending in _ENDINGS if ending in row.values]
    if len(endings) != 1:
        raise row.fault("jpg", f"{key} has {len(endings)} pictures instead of one")
    image = context.pictures.of(row, endings[0], row.values[endings[0]])
    prompts = context.prompts
    if context.source.group == "T->I":
        query, positive = prompts.query(row, "txt", text, None), prompts.candidate(row, endings[0], None, image)
    elif context.source.group == "I->T":
        query, positive = prompts.query(row, endings[0], None, image), prompts.candidate(row, "txt", text, None)
    else:
        raise row.fault("txt", "is searched with or found", remedy="Set the source's group: 'T->I' or 'I->T'.")
    return Pair(key, context.source.name, query, positive)


def _object(row: Row) -> dict[str, Any]:
    try:
        value = json.loads(row.values["json"])
    except (ValueError, RecursionError) as error:
        raise row.fault("json", f"is no JSON ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(value, dict):
        raise row.fault("json", f"is no object but {shown(value)}")
    return value


def _with_pictures(row: Row, values: dict[str, Any]) -> dict[str, Any]:
    """Return the row with the bytes of members where it names them."""

    def filled(field: str, value: Any) -> Any:
        if not isinstance(value, dict) or not value.get("image"):
            return value
        ending = value["image"]
        if not isinstance(ending, str) or ending == KEY or ending not in row.values:
            raise row.fault(f"{field}.image", f"{shown(ending)} is no member of the sample")
        return {**value, "image": row.values[ending]}

    result = {field: filled(field, value) for field, value in values.items()}
    if isinstance(result.get("negatives"), list):
        result["negatives"] = [filled(f"negatives[{place}]", value) for place, value in enumerate(result["negatives"])]
    return result


def _decoded(row: Row, field: str) -> str:
    data = row.required(field)
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise row.fault(field, "is no UTF-8") from None


WEBDATASET = PairFormat(read_sample, task_instruction, (".tar",))
