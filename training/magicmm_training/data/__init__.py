"""Data on disk: map-style readers by format (`registry`), candidates of a data set, and checks before a run."""
