"""What people ask for: the PORT grammar of the command line, as frozen objects.

`feature` (offload words), `option` (one option's value), `port` (a PORT), `fabric` (a command's
ports together).  Every mistake is a `ConfigError` of one line: where, what, how to mend it.
"""

from vionet.config.fabric import FabricConfig, parse_switch, parse_wire
from vionet.config.option import ConfigError
from vionet.config.port import Kind, PortConfig, can_follow, changed_port, parse_port

__all__ = [
    "ConfigError",
    "FabricConfig",
    "Kind",
    "PortConfig",
    "can_follow",
    "changed_port",
    "parse_port",
    "parse_switch",
    "parse_wire",
]
