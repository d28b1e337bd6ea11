"""Exact rewrites of a checkpoint's weights, and the schemes by which they are rounded to 8 and 4 bits."""
