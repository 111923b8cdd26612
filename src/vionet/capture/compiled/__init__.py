"""The reader's kernels: a record out of a ring, made a frame again, written as a block."""
