"""A program finds in its memory nothing of those before it, nor of what was said of them."""

from starkiln.evaluate.sandbox import Limits, Program, Sandbox

SEARCH = '''
import ctypes
import os

own = b" ".join([b"%s%s" % (b"MINE", b"mark")] * 999)
libc = ctypes.CDLL(None)
libc.sbrk.restype = ctypes.c_void_p


def f(parts):
    """How often the text that is joined of two parts is in the heap."""
    reading, writing = os.pipe()
    end = libc.sbrk(0)
    found, heap = 0, b""
    for place in range((end - (96 << 20)) & ~4095, end, 4096):
        if libc.write(writing, ctypes.c_void_p(place), 4096) > 0:
            heap += os.read(reading, 4096)
    return heap.count("".join(parts).encode())
'''
SOURCE = "def f(parts):\n    return 1\n" + "# THEIRSsecret of a source\n" * 400
TESTS = "assert f([]) == 0, 'THEIRSsecret of a test: ' + 20 * 'THEIRSsecret '"


def test_what_was_judged_before_is_not_in_memory():
    before = [Program(SOURCE, TESTS, "f", context="# THEIRSsecret\n" * 400)] * 9
    search = [
        Program(SEARCH, f"assert f(['{first}', '{second}']) {wanted}", "f")
        for first, second, wanted in (("MINE", "mark", "> 0"), ("THEIRS", "secret", "== 0"))
    ]
    with Sandbox(Limits(cpu_s=5)) as sandbox:
        *wrong, own, theirs = sandbox.run([*before, *search])
    assert {verdict.outcome for verdict in wrong} == {"wrong"}
    assert all("THEIRSsecret" in verdict.detail for verdict in wrong)
    assert own.passed, own
    assert theirs.passed, theirs
