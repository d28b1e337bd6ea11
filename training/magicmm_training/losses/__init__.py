"""Losses of all stages, and what makes them exact over micro batches and processes."""
