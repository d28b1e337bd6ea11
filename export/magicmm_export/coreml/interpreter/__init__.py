"""Runs the program of a saved Core ML package on any machine, to compare it with the model that it was made from.

What it shows: that graph, weights (compressed ones, too), shapes and names of the saved file are right, and that no
value leaves the range of float16 between operators. What it cannot show: the arithmetic inside of Apple's kernels
(order and width of accumulation, approximations), and which unit runs what.
"""

from magicmm_export.coreml.interpreter.function import MilFunction, Run

__all__ = ["MilFunction", "Run"]
