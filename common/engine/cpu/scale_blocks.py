"""Sizes of scales that are bytes: a float16 for each block of a row, and an int8 for each of its groups."""

BLOCK = 256  # numbers of a row
HALF_ROWS = 2  # rows of bytes that a row of float16 takes
