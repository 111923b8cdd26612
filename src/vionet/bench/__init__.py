"""Measuring: a compiled driver that offers frames at its own pace, and the peers it is tried on.

Every bench is a module named in `catalogue`, whose `command` is made by `command.bench_command`:
it measures and returns a `result.Result`.  `goals` has what figures are held against; `table`,
`plot` and `page` show them; `suite` runs all benches on one `machine`.  What a bench is made of
stands beside it:

* the load: `layout` (what there is), `driver` and `driver_packed` (the kernels), `arrival` (what
  came), `memory` (a guest's memory and rings), `frame` (what is sent), `round` (frames offered for
  a time), `generator` (a load at a back-end's sockets, the search for a rate), `clock`;
* who is measured: `peer` (a back-end as a process), `dpdk`, `ovs`, `daemon` and `ours` (vionet),
  `relay` (the least that a back-end could do), `virtio_user` (another load);
* side by side: `rivals` (rounds in turns), with `passage` for `forward` and `comparison` for
  `peers`; `copying` (memcpy over the same pieces), `distance` and `place` (of cores and threads);
* without processes: `plug` and `pair` (simulated ports, the engine on one core), `case`, `stage`
  and `turns` for `cost` and `tap`; `simulated` (workers and their guests) for `scale`;
* at rest: `pulse` (one frame, then sleep) for `wake` and `churn`;
* real kernels: the folder `guest` for `guests`.
"""
