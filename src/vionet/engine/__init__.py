"""The data plane: compiled kernels over one block of state, no Python objects.

Read in this order: `layout` (what there is), `status` (words for outcomes), `guest` (the only way
into guest memory), `split` (rings), `parse` and `judge` (what a frame claims), `plan` (what
happens to its checksum), `deliver`, `forward`, `worker`.
"""
