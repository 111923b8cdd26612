"""Peers as child processes: what `vionet bench` starts programs with, under the tests' names."""

from vionet.bench.guest.process import Program as Peer
from vionet.bench.guest.process import ProgramError as PeerError
from vionet.bench.guest.process import call, until

__all__ = ["Peer", "PeerError", "call", "until"]
