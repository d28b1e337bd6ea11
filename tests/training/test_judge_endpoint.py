"""A judge behind OpenAI's chat interface: a server in this process stands in for vLLM."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from PIL import Image

from magicmm import ErrorCode, MagicError
from magicmm_training.judge.endpoint import EndpointJudge
from magicmm_training.judge.prompts import judge_message
from magicmm_training.judge.verdict import Verdict
from training_pairs import candidate, picture, query

RED = picture((255, 0, 0))
MESSAGE = judge_message(query("a dog", RED), candidate("a red dog"))
Reply = tuple[int, Any]


class Server:
    """Answers each request by `reply`, and remembers requests."""

    def __init__(self) -> None:
        self.reply: Callable[[dict[str, Any]], Reply] = lambda _: (200, said("Yes"))
        self.seen: list[tuple[str, dict[str, Any]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append((self.path, request))
                state, body = outer.reply(request)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(state)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                with contextlib.suppress(OSError):  # the client has left
                    self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


def said(words: str, **likely: float) -> dict[str, Any]:
    """Return a completion; `likely` are log-probabilities of first tokens, `_` for a blank before."""
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": words}}
    if likely:
        top = [{"token": token.replace("_", " "), "logprob": value} for token, value in likely.items()]
        choice["logprobs"] = {"content": [{"token": top[0]["token"], "logprob": 0, "top_logprobs": top}]}
    return {"choices": [choice]}


def asked(server: Server, reply: Any, state: int = 200) -> Verdict:
    server.reply = lambda _: (state, reply)
    return EndpointJudge(server.url, "judge", wait=lambda _: None).answer([MESSAGE])[0]


def test_the_request_holds_words_and_pictures_in_order(server: Server) -> None:
    asked(server, said("Yes"))
    path, request = server.seen[0]
    first, image, second, third, fourth, last = request["messages"][0]["content"]
    assert path == "/v1/chat/completions"
    assert (request["model"], request["temperature"], request["logprobs"]) == ("judge", 0, True)
    assert first == {"type": "text", "text": "Does the target fulfil this request: Find it.\nQuery: "}
    assert [part["text"] for part in (second, third, fourth, last)] == [
        " a dog",
        "\nTarget: ",
        "a red dog",
        "\nAnswer yes or no.",
    ]
    kind, _, data = image["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64"
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (shown.size, shown.getpixel((3, 3))) == ((32, 32), (255, 0, 0))


def test_probabilities_give_the_margin(server: Server) -> None:
    verdict = asked(server, said("Yes", Yes=-0.2, yes=-3.0, No=-2.5, _no=-4.0, Maybe=-5.0))
    yes, no = math.exp(-0.2) + math.exp(-3.0), math.exp(-2.5) + math.exp(-4.0)
    assert verdict.approved is True
    assert verdict.margin == pytest.approx(math.log(yes / no), abs=1e-6)


def test_no_wins(server: Server) -> None:
    assert asked(server, said("Yes", No=-0.1, Yes=-3.0)).approved is False


def test_an_answer_that_is_not_among_the_likely_ones_is_bounded(server: Server) -> None:
    assert asked(server, said("No", No=-0.5, Not=-1.5, Never=-8.0)) == Verdict(False, -7.5)


def test_a_most_likely_token_that_is_no_answer_is_unclear(server: Server) -> None:
    verdict = asked(server, said("Well", Well=-0.1, Yes=-3.0, No=-4.0))
    assert verdict.approved is None
    assert verdict.margin == pytest.approx(1.0, abs=1e-6)
    assert asked(server, said("Well", Well=-0.1, Hm=-3.0)) == Verdict(None, None)


@pytest.mark.parametrize(
    ("words", "approved"),
    [("Yes", True), (" no.", False), ("**No**, because", False), ("YES!", True), ("Maybe", None), ("", None)],
)
def test_without_probabilities_words_count(server: Server, words: str, approved: bool | None) -> None:
    assert asked(server, said(words)) == Verdict(approved, None)
    assert asked(server, {"choices": [{"message": {"content": words}, "logprobs": None}]}) == Verdict(approved, None)


def test_answers_come_in_the_order_of_the_questions(server: Server) -> None:
    def reply(request: dict[str, Any]) -> Reply:
        number = int(request["messages"][0]["content"][1]["text"])
        return 200, said("yes" if number % 3 else "no")

    server.reply = reply
    messages = [judge_message(query(str(n)), candidate("c")) for n in range(12)]
    verdicts = EndpointJudge(server.url + "/", "judge").answer(messages)
    assert [verdict.approved for verdict in verdicts] == [bool(n % 3) for n in range(12)]
    assert EndpointJudge(server.url, "judge").answer([]) == []


def test_a_busy_server_is_asked_again(server: Server) -> None:
    replies = iter([(503, b"loading"), (429, b"slow down"), (200, said("no"))])
    server.reply = lambda _: next(replies)
    waits: list[float] = []
    assert EndpointJudge(server.url, "judge", wait=waits.append).answer([MESSAGE])[0].approved is False
    assert waits == [1.0, 2.0]


def test_a_server_that_stays_busy_ends_the_stage(server: Server) -> None:
    with pytest.raises(MagicError, match="it answered 503: loading") as caught:
        asked(server, b"loading", 503)
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE
    assert len(server.seen) == 4


def test_a_refusal_is_not_repeated(server: Server) -> None:
    with pytest.raises(MagicError, match="it answered 404: no model 'judge'"):
        asked(server, b"no model 'judge'", 404)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "reply",
    [
        b"<html>",
        {},
        [],
        {"choices": []},
        {"choices": [{"message": {"content": 3}}]},
        said("Yes", Yes=math.nan, No=-1.0),
        {"choices": [{"logprobs": {"content": [{"token": "Yes"}]}}]},
    ],
)
def test_what_is_no_answer_is_said(server: Server, reply: Any) -> None:
    with pytest.raises(MagicError, match=r"its answer is no JSON|something else than a chat completion") as caught:
        asked(server, reply)
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE


def test_no_server_at_all_is_said() -> None:
    waits: list[float] = []
    with pytest.raises(MagicError, match="cannot be reached") as caught:
        EndpointJudge("http://127.0.0.1:1/v1", "judge", wait=waits.append).answer([MESSAGE])
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE
    assert waits == [1.0, 2.0, 4.0]


def test_a_server_that_never_answers_is_left(server: Server) -> None:
    release = threading.Event()

    def hang(_: dict[str, Any]) -> Reply:
        release.wait(20)
        return 200, said("yes")

    server.reply = hang
    with pytest.raises(MagicError, match="cannot be reached"):
        EndpointJudge(server.url, "judge", timeout=0.05, wait=lambda _: None).answer([MESSAGE])
    release.set()


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://host/v1", "file:///etc/passwd", "http://"])
def test_urls_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(MagicError) as caught:
        EndpointJudge(url, "judge")
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_a_picture_that_is_none_is_said(server: Server) -> None:
    with pytest.raises(MagicError) as caught:
        EndpointJudge(server.url, "judge").answer([judge_message(query("q"), candidate(None, b"nothing"))])
    assert caught.value.code is ErrorCode.IMAGE_INVALID
    assert server.seen == []


def test_another_server_or_model_is_another_judge() -> None:
    names = [("http://a/v1", "m"), ("http://b/v1", "m"), ("http://a/v1", "n"), ("http://a/v1", "m")]
    prints = [EndpointJudge(*name).fingerprint for name in names]
    assert prints[0] == prints[3]
    assert len(set(prints)) == 3
