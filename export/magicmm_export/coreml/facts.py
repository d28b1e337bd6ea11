"""What a package says of itself, as user-defined metadata: enough to call it without the bundle around it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magicmm import ErrorCode, MagicError

_PREFIX = "magicmm."


@dataclass(frozen=True, slots=True)
class PackageFacts:
    """The metadata of one package.

    Attributes:
        part: "vision", "language", "image", "text" or "composed".
        source: The checkpoint's name.
        fingerprint: Of the bundle that the package belongs to: what vectors depend on (docs/FORMAT.md).
        scheme: How they are stored.
        target: The oldest system that reads it.
        units: The compute units that the scheme was chosen for.
        buckets: Function by length of its sequence; empty for vision and image.
        prefix: Longest prefix that a function takes.
        roles: Names of the roles whose prefixes fit.
        stages: By stage of the parity ladder, the value inside that holds it; the same in every function.
    """

    part: str
    source: str
    fingerprint: str
    scheme: str
    target: str
    units: str
    buckets: Mapping[int, str]
    prefix: int
    roles: tuple[str, ...]
    stages: Mapping[str, str]

    def to_metadata(self) -> dict[str, str]:
        """Return texts by key, as Core ML stores them."""
        structured = {
            "buckets": {str(length): name for length, name in self.buckets.items()},
            "roles": list(self.roles),
            "stages": dict(self.stages),
        }
        plain = ("part", "source", "fingerprint", "scheme", "target", "units")
        found = {name: str(getattr(self, name)) for name in plain} | {"prefix": str(self.prefix)}
        return {_PREFIX + key: value for key, value in found.items()} | {
            _PREFIX + key: json.dumps(value, ensure_ascii=False) for key, value in structured.items()
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> PackageFacts:
        """Read them again.

        Raises:
            MagicError: `bundle_invalid` when one is missing or is no such value.
        """
        found: dict[str, Any] = {
            key.removeprefix(_PREFIX): value for key, value in metadata.items() if key.startswith(_PREFIX)
        }
        try:
            plain = {name: str(found[name]) for name in ("part", "source", "fingerprint", "scheme", "target", "units")}
            return cls(
                **plain,
                buckets={int(length): str(name) for length, name in json.loads(found["buckets"]).items()},
                prefix=int(found["prefix"]),
                roles=tuple(map(str, json.loads(found["roles"]))),
                stages={str(name): str(value) for name, value in json.loads(found["stages"]).items()},
            )
        except (KeyError, ValueError, AttributeError, TypeError) as error:
            raise MagicError(
                ErrorCode.BUNDLE_INVALID,
                f"The metadata of the package cannot be read ({error!r}).",
                "Export the bundle anew.",
            ) from None
