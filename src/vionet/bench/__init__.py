"""Measuring: a compiled driver that offers frames at its own pace, and the peers it is tried on.

Read in this order: `layout` (what there is), `driver` (the kernels), `memory` (a guest's memory
and rings), `frame` (what is sent), `round` (frames offered for a time), `generator` (a load at a
back-end's sockets, the search for a rate), `relay` (the least that a back-end could do), `peer`
(back-ends as processes), `distance` (how far apart two cores are).
"""
