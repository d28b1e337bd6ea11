"""`python -m magicmm_export.nano OUT.magicmm`: build the built-in model and write it as a bundle (`make nano`)."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

_PACKAGES = ("onnx", "torch", "transformers", "efficientnet_lite_pytorch")


def main() -> int:
    """Build, verify, write, and report to stdout in JSON.

    Raises:
        ImportError: When a package that building needs is missing, with the command that installs it.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise ImportError(f'Building nano needs {", ".join(missing)}. Run: pip install "magicmm[nano]"')
    from magicmm_export.nano.bundle import build_bundle

    parser = argparse.ArgumentParser(prog="python -m magicmm_export.nano", description=__doc__)
    parser.add_argument("target", type=Path, metavar="OUT.magicmm")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FOLDER", help="the trained model; without it, the concept bank alone"
    )
    parser.add_argument("--precision", choices=("int8", "fp32"), default="int8", help="fp32 = the reference (125 MB)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    staged = options.target.with_name(options.target.name + ".new")
    shutil.rmtree(staged, ignore_errors=True)  # what a killed build left
    bundle, report = build_bundle(staged, options.target, options.precision, options.checkpoint)
    report |= {"fingerprint": bundle.fingerprint, "total_bytes": bundle.total_bytes}
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
