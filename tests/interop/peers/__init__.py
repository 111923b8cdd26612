"""Real peers: kernels, QEMU, DPDK and namespaces that the tests talk to; no mocks of any of them.

Every peer that can carry traffic is a `Shell`: it runs command lines, in the foreground with `run`
or beside them with `start`.  Everything has a hard timeout, and everything started is ended by its
process id.
"""
