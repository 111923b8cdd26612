"""What joins ports: the state block, the worker's thread, and the pause between the two sides."""

from vionet.fabric.fabric import Fabric

__all__ = ["Fabric"]
