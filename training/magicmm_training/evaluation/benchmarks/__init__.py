"""Readers of public benchmarks in their public layouts, one a file."""
