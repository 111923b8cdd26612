"""Whether KVM works here, found out by trying it.

How it works: that /dev/kvm can be opened says little: inside of a virtual machine it may refuse
later, or hang.  First a child process (this file, by its path, with nothing imported that starts
slowly) makes a machine of one page and one processor, runs a HLT in it, and says how far it came.
Then QEMU starts a machine that stays paused, with the processor that its guests will have, and is
told to quit: where one KVM runs on top of another, that is where it fails.  Either child has
`TIME_MAX_S`, then it is killed; one that even SIGKILL does not end at once is left behind.  The
answer is kept for the life of this process.

Invariants: nobody here waits longer than twice `TIME_MAX_S` and a moment; still, ask from a thread.

Limits: a KVM that hangs only in the middle of a guest's boot is not found out; `accel = "tcg"`.
"""

import ctypes
import fcntl
import mmap
import os
import platform
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

DEVICE: Final = "/dev/kvm"
TIME_MAX_S: Final = 2.0
REAP_MAX_S: Final = 0.2
API_VERSION: Final = 12  # since 2007
# linux/kvm.h
KVM_GET_API_VERSION: Final = 0xAE00
KVM_CREATE_VM: Final = 0xAE01
KVM_GET_VCPU_MMAP_SIZE: Final = 0xAE04
KVM_CREATE_VCPU: Final = 0xAE41
KVM_SET_USER_MEMORY_REGION: Final = 0x4020AE46
KVM_RUN: Final = 0xAE80
KVM_SET_REGS: Final = 0x4090AE82
KVM_GET_SREGS: Final = 0x8138AE83
KVM_SET_SREGS: Final = 0x4138AE84
KVM_EXIT_HLT: Final = 5
# struct kvm_run: request_interrupt_window, immediate_exit, padding, exit_reason
EXIT_REASON_OFF: Final = 8
PAGE_LEN: Final = 4096
SREGS_LEN: Final = 0x138
HLT: Final = b"\xf4"
MACHINES: Final = {"x86_64": "q35", "aarch64": "virt,gic-version=max"}
QUIT: Final = '{"execute": "qmp_capabilities"}\n{"execute": "quit"}\n'
_abandoned: list[subprocess.Popen[str]] = []


def architecture() -> str:
    """This machine's, as `Vm.arch` writes it."""
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())


@cache
def refusal(program: Path, arch: str) -> str:
    """Why QEMU cannot use KVM for guests of `arch`; empty if it can.  May block, once."""
    if arch != architecture():
        return f"this machine is {architecture()}, its guests are {arch}"
    if (said := _run([sys.executable, "-I", "-S", __file__, DEVICE], "")) != "works":
        return said
    argv = [str(program), "-nodefaults", "-no-user-config", "-display", "none", "-S"]
    argv += ["-machine", MACHINES.get(arch, "none"), "-accel", "kvm", "-cpu", "host"]
    said = _run([*argv, "-qmp", "stdio"], QUIT)
    return "" if said.startswith('{"QMP"') else said


def _run(argv: list[str], given: str) -> str:
    """What `argv` said, or why that took too long, or what it complained of."""
    pipe = subprocess.PIPE
    child = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    try:
        said, complaint = child.communicate(given, timeout=TIME_MAX_S)
    except subprocess.TimeoutExpired:
        child.kill()
        try:
            child.communicate(timeout=REAP_MAX_S)
        except subprocess.TimeoutExpired:
            _abandoned.append(child)
        return f"{DEVICE} did not answer within {TIME_MAX_S:g} s"
    if not child.returncode:
        return said.strip()
    lines = complaint.strip().splitlines()
    return lines[0] if lines else f"{Path(argv[0]).name} ended with {child.returncode}"


def _halts(vm: int, vcpu: int, run_len: int) -> bool:
    """Run HLT in real mode, at the first byte of the only page."""
    memory = mmap.mmap(-1, PAGE_LEN)
    memory[: len(HLT)] = HLT
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    # slot, flags, guest_phys_addr, memory_size, userspace_addr
    region = struct.pack("=IIQQQ", 0, 0, 0, PAGE_LEN, address)
    fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, region)
    sregs = bytearray(SREGS_LEN)
    fcntl.ioctl(vcpu, KVM_GET_SREGS, sregs)
    sregs[:8] = bytes(8)  # cs.base
    sregs[12:14] = bytes(2)  # cs.selector
    fcntl.ioctl(vcpu, KVM_SET_SREGS, bytes(sregs))
    # 16 general registers, rip 0, rflags with only the bit that is always set
    fcntl.ioctl(vcpu, KVM_SET_REGS, struct.pack("=18Q", *(0,) * 17, 2))
    run = mmap.mmap(vcpu, run_len)
    fcntl.ioctl(vcpu, KVM_RUN, 0)
    return int.from_bytes(run[EXIT_REASON_OFF : EXIT_REASON_OFF + 4], sys.byteorder) == KVM_EXIT_HLT


def _probe(device: str) -> str:
    """`works`, or what did not.  The descriptors end with the process."""
    step = "open"
    try:
        kvm = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        step = "KVM_GET_API_VERSION"
        if fcntl.ioctl(kvm, KVM_GET_API_VERSION, 0) != API_VERSION:
            return f"{device}: it speaks another version"
        step = "KVM_CREATE_VM"
        vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
        step = "KVM_CREATE_VCPU"
        vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
        run_len = fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0)
        step = "KVM_RUN"
        # Elsewhere a processor of ours would have to be set up differently; it can be made.
        if architecture() == "x86_64" and not _halts(vm, vcpu, run_len):
            return f"{device}: a guest does not run one instruction"
    except OSError as error:
        return f"{device}: {step}: {error.strerror}"
    return "works"


if __name__ == "__main__":
    print(_probe(sys.argv[1]), end="")
