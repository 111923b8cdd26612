"""Filters in the language of tcpdump: libpcap compiles them, the engine runs what comes of it.

How it works: libpcap is a library of the system's, called by ctypes; nothing is opened, because
only the compiler is wanted.  What it makes is classic BPF, eight bytes an instruction, which vionet
looks through before it runs it.
"""

import ctypes
import ctypes.util
from typing import Final

_ETHERNET: Final = 1  # DLT_EN10MB
_SNAP_LEN: Final = 262144
_NO_NETMASK: Final = 0xFFFFFFFF


class ExpressionError(ValueError):
    """Why there is no filter: one line, and how to mend it."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("code", ctypes.c_void_p))


def compiled(expression: str, library: str | None = None) -> bytes:
    """The instructions (`struct sock_filter`) of an expression; none where it is empty."""
    if not expression.strip():
        return b""
    try:
        text = expression.encode()
    except UnicodeEncodeError:
        raise ExpressionError("--filter: not UTF-8; write names in ASCII") from None
    pcap = _libpcap(library)
    handle = pcap.pcap_open_dead(_ETHERNET, _SNAP_LEN)
    if not handle:
        raise ExpressionError("libpcap has no memory for a filter; do without --filter")
    program = _Program()
    try:
        if b"\0" in text:
            raise ExpressionError("--filter: a zero byte; leave it out")
        if pcap.pcap_compile(handle, ctypes.byref(program), text, 1, _NO_NETMASK):
            problem = pcap.pcap_geterr(handle).decode(errors="replace")
            raise ExpressionError(f"--filter {expression!r}: {problem}; see man pcap-filter")
        code = ctypes.string_at(program.code, 8 * program.length)
        pcap.pcap_freecode(ctypes.byref(program))
        return code
    finally:
        pcap.pcap_close(handle)


def _libpcap(library: str | None) -> ctypes.CDLL:
    try:
        pcap = ctypes.CDLL(library or ctypes.util.find_library("pcap") or "libpcap.so.0.8")
    except OSError:
        mend = "apt install libpcap0.8 (elsewhere: libpcap)"
        raise ExpressionError(f"--filter needs libpcap, which is not here: {mend}") from None
    pcap.pcap_open_dead.restype = ctypes.c_void_p
    pcap.pcap_compile.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32,
    ]  # fmt: skip
    pcap.pcap_geterr.argtypes = pcap.pcap_close.argtypes = [ctypes.c_void_p]
    pcap.pcap_geterr.restype = ctypes.c_char_p
    return pcap
