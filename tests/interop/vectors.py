"""Which memory a process gives to readv and writev: every vector's address, as strace cannot show.

How it works: `python vectors.py PID` attaches to every thread of PID as strace does (ptrace), stops
at each readv and writev, copies the vectors from the process's memory and prints one line when the
call returns: `readv RESULT ADDRESS:LENGTH ...`.  It prints `attached` when it has begun.  When it
ends the kernel lets the threads go on.

Threads of PID that start later are not seen.
"""

import ctypes
import os
import platform
import struct
import sys
from pathlib import Path

PTRACE_SYSCALL = 24
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
PTRACE_GET_SYSCALL_INFO = 0x420E
PTRACE_O_TRACESYSGOOD = 1
WALL = 0x40000000
SYSCALL_STOP = 5 | 0x80  # SIGTRAP, marked as PTRACE_O_TRACESYSGOOD has it
STOP = 128  # PTRACE_EVENT_STOP: the answer to PTRACE_INTERRUPT, or a group stop
CALLS = {"x86_64": {19: "readv", 20: "writev"}, "aarch64": {65: "readv", 66: "writev"}}
INFO_LEN = 88
ENTRY, EXIT = 1, 2

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, thread: int, address: int = 0, data: int = 0) -> int:
    """The system call; an error raises."""
    result: int = libc.ptrace(request, thread, address, data)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def syscall_info(thread: int) -> bytes:
    """struct ptrace_syscall_info of a thread in a system call stop."""
    buffer = ctypes.create_string_buffer(INFO_LEN)
    ptrace(PTRACE_GET_SYSCALL_INFO, thread, INFO_LEN, ctypes.addressof(buffer))
    return buffer.raw


def vectors(memory: int, address: int, count: int) -> str:
    """The vectors in the traced process's memory at `address`."""
    raw = os.pread(memory, 16 * min(count, 1024), address)
    return " ".join(f"{base:#x}:{size}" for base, size in struct.iter_unpack("QQ", raw))


def main(process: int) -> None:
    """Trace until killed or until the process ends."""
    calls = CALLS[platform.machine()]
    memory = os.open(f"/proc/{process}/mem", os.O_RDONLY)
    threads = [int(entry.name) for entry in Path(f"/proc/{process}/task").iterdir()]
    for thread in threads:
        ptrace(PTRACE_SEIZE, thread, 0, PTRACE_O_TRACESYSGOOD)
        ptrace(PTRACE_INTERRUPT, thread)
    under_way: dict[int, str] = {}
    print("attached", flush=True)
    while True:
        thread, status = os.waitpid(-1, WALL)
        if not os.WIFSTOPPED(status):
            return
        deliver = 0
        if os.WSTOPSIG(status) == SYSCALL_STOP:
            info = syscall_info(thread)
            if info[0] == ENTRY:
                number, _descriptor, address, count = struct.unpack_from("QQQQ", info, 24)
                if number in calls:
                    under_way[thread] = f"{calls[number]} %d {vectors(memory, address, count)}"
            elif info[0] == EXIT and thread in under_way:
                print(under_way.pop(thread) % struct.unpack_from("q", info, 24), flush=True)
        elif status >> 16 != STOP:
            deliver = os.WSTOPSIG(status)
        ptrace(PTRACE_SYSCALL, thread, 0, deliver)


if __name__ == "__main__":
    main(int(sys.argv[1]))
