"""Times the embedder in Python by JSON commands, one a line, as the Kotlin runner's verb `bench` does.

`{"verb": "embed", "bundle", "threads", "rounds", "text" or "image"}` gives `{"result": {"seconds", "vector"}}`.
"""

from __future__ import annotations

import base64
import json
import sys
from functools import cache
from typing import Any

import numpy as np

from magicmm import Embedder
from report import seconds_of


@cache
def opened(bundle: str, threads: int) -> Embedder:
    """Open a bundle once."""
    return Embedder.open(bundle, threads=threads)


def embed(command: dict[str, Any]) -> dict[str, Any]:
    """Embed a text or a decoded photo some times; the first call of a bundle loads its graphs."""
    embedder = opened(command["bundle"], command["threads"])
    if "text" in command:
        text = command["text"]

        def call() -> Any:
            return embedder.embed_text(text)
    else:
        given = command["image"]
        flat = np.frombuffer(base64.b64decode(given["pixels"]), np.uint8)
        image = flat.reshape(given["height"], given["width"], 3)

        def call() -> Any:
            return embedder.embed_image(image)

    vector = call()
    return {"seconds": [seconds_of(call) for _ in range(command["rounds"])], "vector": vector.tolist()}


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps({"result": embed(json.loads(line))}) + "\n")
        sys.stdout.flush()
