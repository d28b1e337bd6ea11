"""The format "instructions": conversations for the restoration stage, as LLaVA or as OpenAI writes them.

    {"id": "1", "image": "a.jpg", "conversations": [{"from": "human", "value": "<image> What?"}, {"from": "gpt", ...}]}
    {"images": ["a.jpg"], "messages": [{"role": "user", "content": "<image> What?"}, {"role": "assistant", ...}]}
    {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.jpg"}, {"type": "text", ...}]}, ...]}

Every `<image>` is the place of a picture, and there are as many of them as pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicmm.errors import ErrorCode
from magicmm_model.templates import IMAGE_PLACEHOLDER, Turn
from magicmm_training.data.reader import ConversationFormat
from magicmm_training.data.rows import Row, shown
from magicmm_training.entries import Conversation

if TYPE_CHECKING:
    from magicmm_training.data.pictures import Pictures
    from magicmm_training.entries import ImageSource
    from magicmm_training.recipe import Source

_SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}


def read_conversation(row: Row, source: Source, pictures: Pictures) -> Conversation:
    """Make a sample of a row.

    Raises:
        MagicError: For fields of another kind, unknown speakers, turns out of order, an empty answer, or places of
            pictures that do not match the pictures.
    """
    field = "conversations" if row.values.get("conversations") is not None else "messages"
    messages = row.required(field)
    if not isinstance(messages, list):
        raise row.fault(field, f"is no list but {shown(messages)}")
    images = _row_images(row, pictures)
    turns = []
    for place, message in enumerate(messages):
        turn, inner = _turn(row, f"{field}[{place}]", message, pictures)
        turns.append(turn)
        images += inner
    _check_order(row, field, turns)
    places = sum(turn.text.count(IMAGE_PLACEHOLDER) for turn in turns)
    if places != len(images):
        raise row.fault(
            field, f"has {places} places of pictures ({IMAGE_PLACEHOLDER}), but there are {len(images)} pictures"
        )
    return Conversation(row.id(), source.name, tuple(turns), tuple(images))


def _row_images(row: Row, pictures: Pictures) -> list[ImageSource]:
    values = {field: row.values[field] for field in ("image", "images") if row.values.get(field)}
    if len(values) > 1:
        raise row.fault("images", "stands beside 'image'")
    found = []
    for field, value in values.items():
        for place, each in enumerate(value if isinstance(value, list) else [value]):
            found.append(_picture(row, f"{field}[{place}]", each, pictures))
    return found


def _turn(row: Row, field: str, message: Any, pictures: Pictures) -> tuple[Turn, list[ImageSource]]:
    if not isinstance(message, dict):
        raise row.fault(field, f"is no message but {shown(message)}")
    speaker = message.get("from", message.get("role"))
    if not isinstance(speaker, str) or speaker not in _SPEAKERS:
        raise row.fault(field, f"is said by {shown(speaker)}; speakers are {', '.join(_SPEAKERS)}")
    content = message.get("value", message.get("content"))
    if not isinstance(content, list):
        return Turn(_SPEAKERS[speaker], row.as_text(field, content) or ""), []
    texts: list[str] = []
    images: list[ImageSource] = []
    for part in content:
        if isinstance(part, dict) and part.get("type") == "text":
            texts.append(row.as_text(field, part.get("text")) or "")
        elif isinstance(part, dict) and part.get("type") in ("image", "image_url"):
            texts.append(f"{IMAGE_PLACEHOLDER}\n")
            images += _part_image(row, field, part, pictures)
        else:
            raise row.fault(field, f"holds a part that is neither text nor image: {shown(part)}")
    return Turn(_SPEAKERS[speaker], "".join(texts)), images


def _part_image(row: Row, field: str, part: dict[str, Any], pictures: Pictures) -> list[ImageSource]:
    """Return the picture that a part brings; none when it only marks the place of one of the row's."""
    value = part.get("image", part.get("image_url"))
    if isinstance(value, dict) and "url" in value:
        value = value["url"]
    return [] if value is None else [_picture(row, field, value, pictures)]


def _picture(row: Row, field: str, value: Any, pictures: Pictures) -> ImageSource:
    image = pictures.of(row, field, value)
    if image is None:
        raise row.fault(field, "names no picture", ErrorCode.IMAGE_INVALID)
    return image


def _check_order(row: Row, field: str, turns: list[Turn]) -> None:
    spoken = turns[1:] if turns and turns[0].speaker == "system" else turns
    wanted = ["user", "assistant"] * (len(spoken) // 2)
    if not spoken or [turn.speaker for turn in spoken] != wanted:
        said = " ".join(turn.speaker for turn in turns) or "nobody"
        raise row.fault(field, f"must go user, assistant, user, ... and end with an answer; it goes {said}")
    if not all(turn.text.strip() for turn in spoken if turn.speaker == "assistant"):
        raise row.fault(field, "has an empty answer")


INSTRUCTIONS = ConversationFormat(
    read_conversation,
    (".jsonl", ".json", ".parquet"),
    optional=("id", "image", "images", "conversations", "messages"),
)
