"""The model that reorders an embedder's first candidates (paper 3.4)."""
