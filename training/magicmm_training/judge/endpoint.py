"""A server with OpenAI's chat interface as judge, such as one of vLLM or llama.cpp in the same building."""

from __future__ import annotations

import hashlib
import json
import math
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import numpy as np

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.judge.message import Picture
from magicmm_training.judge.pictures import png
from magicmm_training.judge.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from magicmm_training.judge.message import Message

_TOP = 20
"""Most likely tokens that are asked for: the most that servers give."""
_TRIES = 4
_BUSY = {408, 425, 429, 500, 502, 503, 504}
"""States that pass."""
_WORDS = {"yes": True, "no": False}


class EndpointJudge:
    """Asks a server, several questions at a time.

    Where the server tells how likely tokens are, the margin is that of yes over no among the first token's most likely
    ones; where it does not, the words of the answer count and there is no margin.

    Attributes:
        name: Of the model.
        fingerprint: Of URL and name: a server does not tell its weights.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        timeout: float = 120.0,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """Keep where to ask.

        Args:
            url: What comes before `/chat/completions`, such as `http://127.0.0.1:8000/v1`.
            model: Name of the model at the server.
            timeout: Seconds without any answer after which a try has failed.
            wait: Called with the seconds between two tries.

        Raises:
            MagicError: `argument_invalid` for a URL that is none.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID, f"{url!r} is no URL of a server.", "Give one like http://127.0.0.1:8000/v1."
            )
        self.name = model
        place = hashlib.sha256(f"{url} {model}".encode()).hexdigest()
        self.fingerprint = f"endpoint-{place[:32]}"
        self._url = url
        self._path = f"{parts.path.rstrip('/')}/chat/completions"
        self._host, self._port, self._secure = parts.hostname, parts.port, parts.scheme == "https"
        self._timeout = timeout
        self._wait = wait

    def answer(self, messages: Sequence[Message]) -> list[Verdict]:
        """Return a verdict on each message; see `Backend`.

        Raises:
            MagicError: `source_unavailable` when the server cannot be reached, refuses, or says what is no answer.
        """
        if not messages:
            return []
        with ThreadPoolExecutor(len(messages)) as pool:
            return list(pool.map(self._ask, messages))

    def _ask(self, message: Message) -> Verdict:
        request = {
            "model": self.name,
            "messages": [{"role": "user", "content": [_part(part) for part in message.parts]}],
            "max_tokens": 4,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": _TOP,
        }
        reply = self._post(json.dumps(request).encode())
        try:
            choice = reply["choices"][0]
            likely = _likely_tokens(choice)
            return _from_tokens(likely) if likely else _from_words(choice["message"]["content"])
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise self._failed("it answered with something else than a chat completion") from None

    def _post(self, body: bytes) -> dict[str, Any]:
        problem = ""
        for attempt in range(_TRIES):
            if attempt:
                self._wait(2.0 ** (attempt - 1))
            try:
                state, text = self._send(body)
            except (OSError, HTTPException) as error:
                problem = f"it cannot be reached ({str(error) or type(error).__name__})"
                continue
            if state == 200:
                return self._parsed(text)
            problem = f"it answered {state}: {text[:200].decode(errors='replace')}"
            if state not in _BUSY:
                break
        raise self._failed(problem)

    def _send(self, body: bytes) -> tuple[int, bytes]:
        kind = HTTPSConnection if self._secure else HTTPConnection
        connection = kind(self._host, self._port, timeout=self._timeout)
        try:
            connection.request("POST", self._path, body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def _parsed(self, text: bytes) -> dict[str, Any]:
        try:
            return cast("dict[str, Any]", json.loads(text))
        except ValueError:
            raise self._failed("its answer is no JSON") from None

    def _failed(self, what: str) -> MagicError:
        return MagicError(
            ErrorCode.SOURCE_UNAVAILABLE,
            f"The judge at {self._url} failed: {what}.",
            "Check the server and the model's name; what was judged is kept.",
        )


def _part(part: str | Picture) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64encode(png(part)).decode()}"}}


def _likely_tokens(choice: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the most likely first tokens with their log-probabilities; empty when the server does not tell."""
    content = (choice.get("logprobs") or {}).get("content") or []
    return [(token["token"], float(token["logprob"])) for token in content[0]["top_logprobs"]] if content else []


def _from_tokens(likely: Sequence[tuple[str, float]]) -> Verdict:
    if not all(math.isfinite(value) for _, value in likely):
        raise ValueError("log-probabilities that are no numbers")
    found = {word: [value for token, value in likely if _bare(token) == word] for word in _WORDS}
    best = _bare(max(likely, key=lambda pair: pair[1])[0])
    if not any(found.values()):
        return Verdict(None, None)
    # A word that is not among the most likely ones has at most the probability of the least of them.
    least = min(value for _, value in likely)
    yes, no = (np.logaddexp.reduce(found[word]) if found[word] else least for word in _WORDS)
    margin = float(np.float32(yes - no))
    return Verdict(margin > 0 if best in _WORDS and margin else None, margin)


def _from_words(answer: str) -> Verdict:
    words = answer.split()
    return Verdict(_WORDS.get(_bare(words[0])) if words else None, None)


def _bare(token: str) -> str:
    return token.strip(" \t\r\n.,:;!\"'*`▁Ġ").lower()
