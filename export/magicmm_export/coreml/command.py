"""What `magicmm-export --runtime coreml` says, as options of an export."""

from __future__ import annotations

import argparse

from magicmm_export.coreml.export import CoremlOptions
from magicmm_export.coreml.schemes import Target, Units, scheme_named


def coreml_options(options: argparse.Namespace) -> CoremlOptions:
    """Return the options of an export, checked against what the target can run.

    Raises:
        MagicError: `argument_invalid` for a scheme that does not exist or that the target cannot run; `runtime_failed`
            without coremltools.
    """
    found = CoremlOptions.of(
        scheme_named(options.recipe or "int8"),
        rotate=not options.no_rotation,
        compression=options.compression,
        image_size=options.image_size,
        model_id=options.id,
        target=Target(options.system),
        units=Units(options.compute_units),
        buckets=options.buckets,
        most_outside=options.max_outside,
    )
    found.check()
    return found
