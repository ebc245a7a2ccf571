"""The science: one file per method, and the parts that methods share. Reads and writes no files, imports no stage."""

IGNORE = 255
"""Label of a pixel that nobody labelled: left out of losses and scores, never background."""
