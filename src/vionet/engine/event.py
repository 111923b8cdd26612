"""What an epoll event of the worker's says: the layout of `struct epoll_event` and its data.

Data is the port above bit 8; below it the ring whose kick it is, or one of the constants here.
"""

import platform
from typing import Final

# struct epoll_event is packed on x86-64 only.
EVENT_LEN: Final = 12 if platform.machine() == "x86_64" else 16
EVENT_DATA_OFF: Final = 4 if platform.machine() == "x86_64" else 8
EVENT_TAP: Final = 0xFE  # a tap, an interface, a stream
EVENT_WAKE: Final = 0xFF
