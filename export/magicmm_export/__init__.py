"""Turn checkpoints into bundles: lower the networks, prove them equal to their source, write the files."""
