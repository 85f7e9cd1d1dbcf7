"""A seccomp deny list as hand-made BPF: what no candidate needs and a kernel attack would use."""

import ctypes
import errno
import platform
import struct

_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMN = {"x86_64": 0, "aarch64": 1}
_X32 = 0x40000000
_NEW_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag
_CLONE = (56, 220)

# name: (x86_64, aarch64), None where the machine has no such call
KILLED: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
REFUSED: dict[str, tuple[int | None, int | None]] = {  # libraries try these and can do without
    "add_key": (248, 217),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440),
    "request_key": (249, 218),
    "sched_setaffinity": (203, 122),  # with these four a program could starve itself
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "semget": (64, 190),
    "setpriority": (141, 140),
    "shmget": (29, 194),
    "socket": (41, 198),
}
_PRLIMIT = (302, 261)  # of itself alone: the judge has the same user
_CLONE3 = 435  # its flags lie behind a pointer; ENOSYS makes the C library use clone


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _on(number: int, action: int) -> bytes:
    return _step(_EQUAL, number, 0, 1) + _step(_RETURN, action)


def program(machine: str) -> bytes:
    """The BPF program for ``machine`` (x86_64 or aarch64), 8 bytes an instruction."""
    column = _COLUMN[machine]
    code = _step(_LOAD, _ARCH) + _step(_EQUAL, _AUDIT[machine], 1, 0) + _step(_RETURN, _KILL)
    code += _step(_LOAD, _NUMBER)
    if machine == "x86_64":
        code += _step(_AT_LEAST, _X32, 0, 1) + _step(_RETURN, _KILL)
    refuse = _ERRNO | errno.EPERM
    for table, action in ((KILLED, _KILL), (REFUSED, refuse)):
        for numbers in table.values():
            number = numbers[column]
            code += _on(number, action) if number is not None else b""
    code += _step(_EQUAL, _PRLIMIT[column], 0, 4) + _step(_LOAD, _ARGUMENT)
    code += _step(_EQUAL, 0, 1, 0) + _step(_RETURN, refuse) + _step(_RETURN, _ALLOW)
    code += _on(_CLONE3, _ERRNO | errno.ENOSYS)
    code += _step(_EQUAL, _CLONE[column], 0, 3) + _step(_LOAD, _ARGUMENT)
    code += _step(_ANY_BIT, _NEW_NAMESPACES, 0, 1) + _step(_RETURN, _KILL)
    return code + _step(_RETURN, _ALLOW)


class Filter:
    """The filter of this machine, built once in the fork server."""

    def __init__(self) -> None:
        code = program(platform.machine())
        self._code = ctypes.create_string_buffer(code, len(code))
        pointer = ctypes.addressof(self._code)
        self._header = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, pointer))

    def enforce(self, libc: ctypes.CDLL) -> None:
        """Filter this process and all its children from now on."""
        no_new_privileges, set_seccomp, mode_filter = 38, 22, 2
        zero = ctypes.c_ulong(0)
        header = ctypes.c_ulong(ctypes.addressof(self._header))
        if libc.prctl(no_new_privileges, ctypes.c_ulong(1), zero, zero, zero) or libc.prctl(
            set_seccomp, ctypes.c_ulong(mode_filter), header, zero, zero
        ):
            raise OSError(ctypes.get_errno(), "the kernel refused the seccomp filter")
