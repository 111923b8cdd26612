"""Measuring: a compiled driver that offers frames at its own pace, and the peers it is tried on.

Every bench is a module named in `catalogue`, whose `command` is made by `command.bench_command`:
it measures and returns a `result.Result`.  `goals` has what figures are held against; `table`,
`plot` and `page` show them; `suite` runs all benches on one `machine`.

The load, in this order: `layout` (what there is), `driver` (the kernels), `memory` (a guest's
memory and rings), `frame` (what is sent), `round` (frames offered for a time), `generator` (a load
at a back-end's sockets, the search for a rate), `relay` (the least that a back-end could do),
`peer` and `daemon` (back-ends as processes), `rivals` (several of them in turns), `distance` (how
far apart two cores are).  Without processes: `pair` (the engine alone on one core), `simulated`
(workers and their guests).
"""
