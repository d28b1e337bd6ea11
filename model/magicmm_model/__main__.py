"""`python -m magicmm_model` is `magicmm-model`."""

from magicmm_model.cli import main

raise SystemExit(main())
