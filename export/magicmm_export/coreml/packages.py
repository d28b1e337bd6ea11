"""The packages of one bundle: where they lie, what each says of itself, and the plan of who computes what."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicmm.bundle import fingerprint_of
from magicmm.runtime import COREML
from magicmm_export.coreml.facts import PackageFacts
from magicmm_export.coreml.package import MANIFEST, PROGRAM, write_metadata
from magicmm_export.coreml.planner import plan_packages
from magicmm_export.planner import write_plans

if TYPE_CHECKING:
    from magicmm_export.coreml.export import CoremlOptions

PLAN = f"{COREML}/plan.json"


class Packages:
    """What an exporter knows of the packages that it writes into a staged bundle.

    Attributes:
        paths: Folder of each package, by part.
    """

    def __init__(self, staged: Path, parts: Iterable[str], options: CoremlOptions, source: str) -> None:
        """Choose their places; nothing is written yet.

        Args:
            staged: The folder that becomes the bundle.
            parts: Names of the parts, in the order of the model.
            options: How they are lowered.
            source: Name of what they come from.
        """
        self._staged, self._options, self._source = staged, options, source
        self.paths = {part: staged / COREML / f"{part}.mlpackage" for part in parts}
        self._facts: dict[str, PackageFacts] = {}

    def begin(self) -> dict[str, Path]:
        """Make the folder for them, and return `paths`."""
        (self._staged / COREML).mkdir()
        return self.paths

    def note(
        self,
        part: str,
        stages: Mapping[str, str],
        buckets: Mapping[int, str] | None = None,
        prefix: int = 0,
        roles: tuple[str, ...] = (),
    ) -> None:
        """Remember what a package will say of itself (`PackageFacts`); the fingerprint is not known yet."""
        options = self._options
        self._facts[part] = PackageFacts(
            part=part,
            source=self._source,
            fingerprint="",
            scheme=options.scheme.name,
            target=options.target.value,
            units=options.units.value,
            buckets=buckets or {},
            prefix=prefix,
            roles=roles,
            stages=stages,
        )

    def planned(self) -> dict[str, Any]:
        """Write the plan, and return what the manifest says of graphs and plan.

        Raises:
            MagicError: `runtime_failed` for more work outside of the accelerator than the options allow.
        """
        plan = plan_packages(self.paths, self._options.units)
        plan.check(self._options.most_outside)
        write_plans(self._staged / PLAN, [plan])
        graphs = {part: f"{COREML}/{path.name}/{MANIFEST}" for part, path in self.paths.items()}
        return {"graphs": {COREML: graphs}, "plans": PLAN}

    def seal(self, manifest: Mapping[str, Any]) -> None:
        """Write into each package what was noted, with the fingerprint of the manifest's content."""
        tokenizer = hashlib.sha256((self._staged / manifest["text"]["tokenizer"]).read_bytes()).hexdigest()
        fingerprint = fingerprint_of(manifest, tokenizer)
        for part, path in self.paths.items():
            write_metadata(path, replace(self._facts[part], fingerprint=fingerprint).to_metadata())


def holds_weights(path: Path) -> bool:
    """Say whether a file of a package decides on vectors; the others get new identifiers in every package."""
    return path.name not in (MANIFEST, PROGRAM)


def common_stages(found: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the stages whose values all functions of a package name alike."""
    return {name: value for name, value in found[0].items() if all(one.get(name) == value for one in found)}
