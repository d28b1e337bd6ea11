"""`python -m magicmm_export` is `magicmm-export`."""

from magicmm_export.cli import main

raise SystemExit(main())
