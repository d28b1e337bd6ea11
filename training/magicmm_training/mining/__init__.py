"""Hard negatives: which candidates of a data set a model confuses with the truth."""
