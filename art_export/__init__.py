"""Compile a frozen multimodal model once, then adapt it by swapping pictures.

Importing this package loads nothing heavy; the command line depends on that.
"""

__version__ = "0.1.0"
