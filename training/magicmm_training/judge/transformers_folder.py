"""Any vision-language model that transformers reads from a local folder, as judge (the paper used a Qwen3-VL)."""

from __future__ import annotations

import hashlib
import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.judge.message import Picture
from magicmm_training.judge.pictures import decoded
from magicmm_training.judge.verdict import AnswerTokens, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from magicmm_training.judge.message import Message


class TransformersJudge:
    """Answers with the next-token logits of the folder's model, asked in its own chat template.

    Only safetensors are read, code in the folder is not run, and nothing is fetched.

    Attributes:
        name: For reports.
        fingerprint: Of the folder's files and the type of the weights.
    """

    def __init__(
        self, folder: Path, *, dtype: torch.dtype = torch.bfloat16, device: torch.device | str = "cpu"
    ) -> None:
        """Load model and processor.

        Raises:
            MagicError: `source_unavailable` without transformers; `checkpoint_invalid` when it cannot read the folder,
                or there is no chat template; `model_mismatch` when yes and no begin alike.
        """
        transformers = _library()
        self.name = folder.name
        self.fingerprint = f"transformers-{_folder_fingerprint(folder)}-{dtype}"
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._processor = transformers.AutoProcessor.from_pretrained(folder, **local)
            self._model = transformers.AutoModelForImageTextToText.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, **local
            )
        except Exception as error:  # the library raises anything on a broken folder
            lines = filter(None, map(str.strip, str(error).splitlines()))
            raise _unreadable(folder, next(lines, repr(error)).rstrip(".")) from None
        if not getattr(self._processor, "chat_template", None):
            raise _unreadable(folder, "its processor has no chat template")
        self._model.to(device).eval()
        self._device = device
        # The answer comes after the last token of each row, so that padding belongs on the left.
        self._processor.tokenizer.padding_side = "left"
        self._tokens = AnswerTokens.of(lambda text: self._processor.tokenizer.encode(text, add_special_tokens=False))
        # Logits of all tokens would fill memory: at 150,000 words, 0.6 MB a token.
        last_only = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        self._options = {"logits_to_keep": 1} if last_only else {}

    @torch.inference_mode()
    def answer(self, messages: Sequence[Message]) -> list[Verdict]:
        """Return a verdict on each message; see `Backend`."""
        if not messages:
            return []
        inputs = self._processor.apply_chat_template(
            [[{"role": "user", "content": _content(message)}] for message in messages],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
        ).to(self._device, self._model.dtype)
        logits = self._model(**inputs, **self._options).logits[:, -1]
        return self._tokens.verdicts(logits.float())


def _content(message: Message) -> list[dict[str, Any]]:
    return [
        {"type": "image", "image": decoded(part)} if isinstance(part, Picture) else {"type": "text", "text": part}
        for part in message.parts
    ]


def _folder_fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix in {".json", ".safetensors", ".jinja", ".txt"})
        for path in files:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise _unreadable(folder, error.strerror or str(error)) from None
    return digest.hexdigest()[:32]


def _library() -> Any:
    try:
        return import_module("transformers")
    except ImportError:
        raise MagicError(
            ErrorCode.SOURCE_UNAVAILABLE,
            "This judge needs transformers.",
            "pip install 'magicmm[judge]', or let one of our own checkpoints judge.",
        ) from None


def _unreadable(folder: Path, what: str) -> MagicError:
    return MagicError(
        ErrorCode.CHECKPOINT_INVALID,
        f"transformers cannot read a vision-language model from {folder}: {what}.",
        "Download the model again, safetensors and processor included, and install what it asks for (torchvision).",
    )
