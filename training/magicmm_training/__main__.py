"""`python -m magicmm_training` is `magicmm-train`."""

from magicmm_training.cli import main

raise SystemExit(main())
