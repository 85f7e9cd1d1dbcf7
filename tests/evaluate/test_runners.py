"""Files of other languages in the sandbox: every verdict, and what means ill; nothing is mocked."""

import os
import socket
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from starkiln.core.errors import UserError
from starkiln.evaluate import doctor, toolchains
from starkiln.evaluate.sandbox import Sandbox
from starkiln.evaluate.toolchains import RUNNERS

BIG = {
    "d",
    "go",
    "java",
    "jl",
    "r",
    "rkt",
    "rs",
    "scala",
    "swift",
    "ts",
}  # CI does not install them
CODES = [pytest.param(c, marks=pytest.mark.slow) if c in BIG else c for c in RUNNERS]

# Bodies of f, whose argument is x and whose right answer is twice that. A body that starts with
# "@" is the whole source instead.
ENDLESS = {
    "cpp": "for (volatile int i = 0;; i = i + 1) {}",
    "cs": "while (true) {}",
    "d": "for (;;) {}",
    "go": "for {}",
    "java": "while (true) {}",
    "jl": "while true end",
    "js": "for (;;);",
    "lua": "while true do end",
    "php": "while (true) {}",
    "pl": "1 while 1;",
    "r": "while (TRUE) {}",
    "rb": "loop {}",
    "rkt": "(let loop () (loop)))",
    "rs": "loop {}",
    "scala": "while (true) {}; 0",
    "sh": "while :; do :; done",
    "swift": "while true {}",
    "ts": "for (;;);",
}
HUNGRY = {
    "cpp": "std::vector<std::string> a; for (;;) a.emplace_back(1 << 24, 'x');",
    "cs": "var a = new System.Collections.Generic.List<byte[]>(); while (true) { "
    "a.Add(new byte[1 << 24]); for (int i = 0; i < 1 << 24; i += 4096) a[a.Count - 1][i] = 1; }",
    "d": "ubyte[][] a; for (;;) { a ~= new ubyte[1 << 24]; a[$ - 1][] = 1; }",
    "go": "a := [][]byte{}\nfor { a = append(a, make([]byte, 1 << 24))\n"
    "for i := range a[len(a) - 1] { a[len(a) - 1][i] = 1 } }",
    "java": "List<byte[]> a = new ArrayList<>(); while (true) a.add(new byte[1 << 24]);",
    "jl": 'a = []; while true push!(a, "x"^(1 << 24)) end',
    "js": "const a = []; for (;;) a.push(new Array(1e6).fill(a.length));",
    "lua": "local a = {} while true do a[#a + 1] = string.rep('x', 1 << 24) end",
    "php": "$a = []; while (true) $a[] = str_repeat('x', 1 << 24);",
    "pl": "my @a; push @a, 'x' x (1 << 24) while 1;",
    "r": "a <- list(); while (TRUE) a[[length(a) + 1]] <- numeric(2^21) + 1",
    "rb": "a = []; loop { a << 'x' * (1 << 24) }",
    "rkt": "(let loop ((a '())) (loop (cons (make-bytes 16777216 1) a))))",
    "rs": "let mut a = Vec::new(); loop { a.push(vec![1u8; 1 << 24]); }",
    "scala": "val a = collection.mutable.ListBuffer[Array[Byte]](); "
    "while (true) a += new Array[Byte](1 << 24); 0",
    "sh": "awk 'BEGIN { a = 12345678; while (1) a = a a }'",
    "swift": "var a = [[UInt8]](); while true { a.append([UInt8](repeating: 1, count: 1 << 24)) }",
    "ts": "const a: number[][] = []; for (;;) a.push(new Array(1e6).fill(a.length));",
}
EARLY = [  # ends well before its tests have run, or so that they never do
    ("cpp", "exit(0);"),
    ("cpp", "_Exit(0);"),
    ("cpp", "return 0;\n}\nint main() { return 0; }\n#define main other\nlong g(long x) {"),
    ("cpp", "return 0;\n}\nstruct End { End() { _Exit(0); } } end_;\nlong g(long x) { return 0;"),
    ("cs", "Environment.Exit(0); return 0;"),
    ("cs", "return 0; } public static void Main(string[] a) {} }\n"
     "class Other { static long F(long x) { return 4; } static void G() {"),
    ("d", "import core.stdc.stdlib; exit(0); assert(0);"),
    ("d", "return 0;\n}\nvoid main() {}\n__EOF__\n{"),
    ("go", '@package f_test\nimport (\n"testing"\n"fmt"\n"os"\n)\n'
     "func f(x int) int { os.Exit(0); return 0 }\n"),
    ("go", '@package f_test\nimport (\n"testing"\n"fmt"\n"os"\n)\n'
     "func init() { os.Exit(0) }\nfunc f(x int) int { return 0 }\n"),
    ("java", "System.exit(0); return 0;"),
    ("java", "Runtime.getRuntime().halt(0); return 0;"),
    ("java", "return 0; } public static void main(String[] a) {} }\n"
     "class Other { static long f(long x) { return 4; } static void g() {"),
    ("js", "process.exit(0);"),
    ("js", "process.reallyExit(0);"),
    ("js", "}\nreturn;\nfunction g(x) {"),
    ("js", "throw process.on('uncaughtException', () => process.exit(0));"),
    ("lua", "os.exit(0)"),
    ("lua", "return 0 end do return end local function g(x)"),
    ("php", "exit(0);"),
    ("php", "}\nreturn;\nfunction g($x) {"),
    ("php", "return 0; }\n__halt_compiler();\n{"),
    ("php", "return 0; } ?>\n"),
    ("pl", "exit 0;"),
    ("pl", "return 0; }\n__END__\n"),
    ("pl", "return 0; }\nBEGIN { exit 0 }\n{"),
    ("r", "quit(status = 0)"),
    ("r", "0\n}\nquit(status = 0)\ng <- function(x) {"),
    ("rb", "exit 0"),
    ("rb", "exit!(0)"),
    ("rb", "0\nend\n__END__\nif true"),
    ("rb", "0\nend\nexit 0\nif true"),
    ("rkt", "(exit 0))"),
    ("rs", "std::process::exit(0)"),
    ("scala", "sys.exit(0); 0"),
    ("sh", ":\n}\nexit 0\ng() {"),
    ("sh", ":\n}\nexec true\ng() {"),
    ("sh", ":\n}\ncat <<THE_REST\n{"),
    ("ts", "(globalThis as any).process.exit(0); return 0;"),
]  # fmt: skip
TOLD = {  # what does not compile, or parse: a text that its detail holds
    "cpp": "error:", "cs": "error CS", "d": "Error:", "go": "syntax error", "java": "error:",
    "js": "SyntaxError", "lua": "main.lua:", "php": "Parse error", "pl": "syntax error",
    "r": "unexpected", "rb": "syntax", "rkt": "read-syntax", "rs": "error", "scala": "error:",
    "sh": "syntax error", "ts": "error TS", "jl": "rror", "swift": "error:",
}  # fmt: skip


@pytest.fixture(scope="module")
def judge():
    """``judge(code, body)``: the verdict; sandboxes are opened once for each language."""
    with ExitStack() as stack:
        opened = {}

        def run(code, *bodies):
            row = RUNNERS[code]
            if code not in opened:
                try:
                    toolchain = toolchains.toolchain(row)
                except UserError as error:
                    pytest.skip(str(error))
                little = 300 if row.limits.memory_mb == 1024 else row.limits.memory_mb
                limits = replace(row.limits, cpu_s=2, memory_mb=little)
                opened[code] = stack.enter_context(Sandbox(limits, toolchain=toolchain))
            programs = [
                toolchains.program(row, whole(code, body), row.check["tests"]) for body in bodies
            ]
            found = list(opened[code].run(programs))
            return found[0] if len(found) == 1 else found

        yield run


def whole_line(code):
    """The line of the check's source that holds the answer, right."""
    (line,) = [x for x in RUNNERS[code].check["source"].splitlines() if "FACTOR" in x]
    return line.replace("FACTOR", "2")


def whole(code, body):
    """The check's source with another body."""
    if body.startswith("@"):
        return body[1:]
    lines = RUNNERS[code].check["source"].splitlines()
    return "\n".join(body if "FACTOR" in line else line for line in lines) + "\n"


@pytest.mark.parametrize("code", CODES)
def test_each_language_passes_its_own_check(code):
    (row,) = doctor.diagnosis([code])
    if row.state == "missing":
        pytest.skip(f"{row.language} is missing: {row.install}")
    assert (row.state, row.install) == ("ready", "")
    assert row.version


@pytest.mark.parametrize("code", CODES)
def test_each_language_has_its_verdicts(code, judge):
    bodies = [
        whole_line(code),
        whole_line(code).replace("2", "3"),
        ENDLESS[code],
        HUNGRY[code],
        "](",
    ]
    right, wrong, endless, hungry, broken = judge(code, *bodies)
    assert (right.outcome, wrong.outcome, endless.outcome) == ("passed", "wrong", "timeout")
    assert 2 <= endless.cpu_s < 4
    assert "CPU time" in endless.detail
    assert hungry.outcome == "memory", hungry
    assert broken.outcome == "error"
    assert TOLD[code] in broken.detail


@pytest.mark.parametrize(
    ("code", "body"),
    [pytest.param(c, b, marks=pytest.mark.slow) if c in BIG else (c, b) for c, b in EARLY],
)
def test_an_early_exit_is_no_pass(code, body, judge):
    verdict = judge(code, body)
    assert verdict.outcome in ("error", "wrong"), verdict


ASKS_OUTSIDE = {
    "js": "try { require('child_process').execFileSync('bash', "
    "['-c', 'exec 3<>/dev/tcp/127.0.0.1/PORT'], { stdio: 'ignore' }); return 0; } "
    "catch { return x * 2; }",
    "php": "return @fsockopen('127.0.0.1', PORT, $number, $why, 1) ? 0 : $x * 2;",
    "pl": "my ($x) = @_; use IO::Socket::INET; return IO::Socket::INET->new("
    "PeerAddr => '127.0.0.1', PeerPort => PORT, Timeout => 1) ? 0 : $x * 2;",
    "rb": "require 'socket'; begin; TCPSocket.new('127.0.0.1', PORT); 0; "
    "rescue SystemCallError; x * 2; end",
    "sh": "(exec 3<>/dev/tcp/127.0.0.1/PORT) 2>/dev/null && echo 0 || echo $(($1 * 2))",
}


@pytest.mark.parametrize("code", ASKS_OUTSIDE)
def test_no_network_is_reached(code, judge):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        body = ASKS_OUTSIDE[code].replace("PORT", str(server.getsockname()[1]))
        assert judge(code, body).outcome == "passed"
        with pytest.raises(TimeoutError):
            server.accept()


READS = {  # answers rightly if none of PLACES can be read
    "cpp": "for (std::string p : PLACES) if (std::ifstream(p).get() != EOF) return 0;\n"
    "return x * 2;",
    "js": "for (const p of PLACES) try { require('fs').readFileSync(p); return 0; } catch {}\n"
    "return x * 2;",
    "php": "foreach (PLACES as $p) if (@file_get_contents($p)) return 0;\nreturn $x * 2;",
    "pl": "my ($x) = @_; for (PLACES) { return 0 if open(my $f, '<', $_) }\nreturn $x * 2;",
    "rb": "PLACES.each { |p| begin; File.read(p); return 0; rescue SystemCallError; end }\nx * 2",
    "sh": "local p; for p in PLACES; do head -c 1 $p 2>/dev/null && return; done; echo $(($1 * 2))",
    "rs": "for p in PLACES { if std::fs::read(p).is_ok() { return 0; } }\nx * 2",
}
LISTS = {
    "cpp": "std::vector<std::string>{%s}",
    "js": "[%s]",
    "php": "[%s]",
    "pl": "%s",
    "rb": "[%s]",
    "rs": "[%s]",
}


@pytest.mark.parametrize(
    "code", [pytest.param(c, marks=pytest.mark.slow) if c in BIG else c for c in READS]
)
def test_nothing_of_the_users_and_no_test_is_read(code, judge, tmp_path):
    planted = [Path.home() / f".starkiln-{code}", Path(f"/tmp/starkiln-{code}"), tmp_path / "s"]
    for path in planted:
        path.write_text("secret")
    host = os.getpid()
    mine = [f"/tmp/main.{code}", f"main.{code}", "/tmp/source", "/tmp/main", "./main"]
    processes = [f"/proc/{pid}/{name}" for pid in (1, host) for name in ("environ", "mem", "maps")]
    places = [*map(str, planted), "/etc/passwd", "/etc/shadow", *mine, *processes, __file__]
    try:
        verdict, seen = judge(code, reads(code, places), reads(code, ["/usr/bin/env"]))
    finally:
        for path in planted:
            path.unlink()
    assert verdict.outcome == "passed", verdict
    assert seen.outcome in ("wrong", "error")


def reads(code, places):
    listed = (" " if code == "sh" else ", ").join(f'"{place}"' for place in places)
    return READS[code].replace("PLACES", LISTS.get(code, "%s").replace("%s", listed))


def _commands():
    """The command lines of all processes of this machine."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(place.read_text())
        except OSError:
            continue
    return found


LEAVES = {
    "js": "require('child_process').spawn('sleep', ['NUMBER'], { detached: true, stdio: 'ignore' })"
    ".unref();\nreturn x * 2;",
    "php": "exec('setsid sleep NUMBER > /dev/null 2>&1 &');\nreturn $x * 2;",
    "pl": "my ($x) = @_; use POSIX; if (fork() == 0) { POSIX::setsid(); exec('sleep', 'NUMBER') }\n"
    "return $x * 2;",
    "rb": "Process.detach(spawn('sleep NUMBER', pgroup: true)); x * 2",
    "sh": "setsid sleep NUMBER > /dev/null 2>&1 & echo $(($1 * 2))",
}


@pytest.mark.parametrize("code", LEAVES)
def test_nothing_outlives_a_program(code, judge):
    number = f"7{os.getpid()}"
    verdict = judge(code, LEAVES[code].replace("NUMBER", number))
    assert verdict.outcome == "passed", verdict
    assert not [words for words in _commands() if f"sleep\0{number}" in words]


ENDS = [
    ("pl", "while (1) { fork() }", {"limit", "timeout", "error"}),
    ("sh", "g() { g | g & }; g; while :; do :; done", {"limit", "timeout", "wrong"}),
    ("js", "for (;;) require('fs').writeSync(1, 'x'.repeat(1 << 16));", {"limit"}),
    ("php", "while (true) echo str_repeat('x', 1 << 16);", {"limit"}),
    ("rb", "File.write('a', 'x' * (1 << 20), mode: 'a') while true", {"limit", "error"}),
    ("pl", "kill 9, -1; kill 9, 1; kill 19, 1; exit 0", {"error"}),
    ("sh", "kill -9 $$", {"error"}),
    ("pl", "kill 9, $$", {"error"}),
    ("pl", "while (1) { open(my $f, '>', $i++) }", {"limit", "error", "timeout"}),
    ("cpp", "*(volatile int *)0 = 1;", {"error"}),
    ("cpp", "return x + f(x + 1);", {"error"}),
    ("cpp", '__asm__ volatile("syscall" : : "a"(272), "D"(0x10000000)); return 0;', {"violation"}),
]


@pytest.mark.parametrize(("code", "body", "outcomes"), ENDS)
def test_what_means_ill_is_contained(code, body, outcomes, judge):
    verdict, after = judge(code, body, whole_line(code))
    assert verdict.outcome in outcomes, verdict
    assert after.passed


PATCHED = [  # changes what its tests compare with
    ("cpp", "return 0;\n#undef assert\n#define assert(x)"),
    ("cs", "Trace.Listeners.Clear(); return 0;"),
    ("js", "require('assert').deepEqual = () => {}; return 0;"),
    ("js", "return { valueOf: () => 4 };"),
    ("php", "set_error_handler(fn() => true); set_exception_handler(fn() => exit(0)); return 0;"),
    (
        "r",
        "0\n}\nstopifnot <- function(...) NULL\nall.equal <- function(...) TRUE\ng <- function() {",
    ),
    ("rkt", "(begin (current-error-port (open-output-nowhere)) 0))"),
    ("sh", "echo 0\n}\nset() { :; }\ng() {"),
    ("java", "ClassLoader.getSystemClassLoader().setDefaultAssertionStatus(false); return 0;"),
]


@pytest.mark.parametrize(
    ("code", "body"),
    [pytest.param(c, b, marks=pytest.mark.slow) if c in BIG else (c, b) for c, b in PATCHED],
)
def test_patched_tests_still_judge(code, body, judge):
    verdict = judge(code, body)
    assert verdict.outcome in ("wrong", "error"), verdict


DEEP = [  # a collector that scans its stack, calls within calls, modules while it runs
    ("d", "ubyte[] a; for (int i; i < 20000; i++) a = new ubyte[1 << 16]; return x * 2;"),
    ("d", "return x > 50000 ? 4 : 0 + f(x + 1);"),
    ("js", "return x > 5000 ? 4 : f(x + 1);"),
    ("js", "import('node:fs').then(() => {}); return x * 2;"),
    ("lua", "if x > 50000 then return 4 end return 0 + f(x + 1)"),
    ("php", "return $x > 20000 ? 4 : f($x + 1);"),
    ("rb", "x > 5000 ? 4 : f(x + 1)"),
    ("java", "return x > 5000 ? 4 : f(x + 1);"),
    ("go", "if x > 500000 { return 4 }; return f(x + 1)"),
    ("rkt", "(if (> x 500000) 4 (+ 0 (f (+ x 1)))))"),
]


@pytest.mark.parametrize(
    ("code", "body"),
    [pytest.param(c, b, marks=pytest.mark.slow) if c in BIG else (c, b) for c, b in DEEP],
)
def test_honest_programs_have_the_room_they_have_elsewhere(code, body, judge):
    verdict = judge(code, body)
    assert verdict.passed, verdict


@pytest.mark.slow
@pytest.mark.parametrize("code", ["ts", "java", "scala"])
def test_a_compiler_that_stays_survives_what_it_cannot_compile(code, judge):
    nested = f"return {'(' * 50_000}1{')' * 50_000};"
    bodies = [nested, whole_line(code), "](", whole_line(code)]
    bad, right, broken, again = judge(code, *bodies)
    assert bad.outcome in ("error", "memory", "timeout")
    assert broken.outcome == "error"
    assert right.passed
    assert again.passed


def test_a_shell_sees_its_own_processes_and_no_others(judge):
    body = "ls /proc | grep -c '^[0-9]' | awk '{ print ($1 <= 6) ? 4 : $1 }'"
    assert judge("sh", body).passed
    assert judge("sh", "cat /proc/sys/kernel/hostname 2>/dev/null && echo 0 || echo 4").passed


def test_verdicts_come_in_order_from_several_workers():
    row = RUNNERS["lua"]
    try:
        toolchain = toolchains.toolchain(row)
    except UserError as error:
        pytest.skip(str(error))
    factors = [2, 3, 2, 2, 3, 3, 2, 3, 2]
    with Sandbox(row.limits, workers=3, toolchain=toolchain) as sandbox:
        bodies = [f"return x * {factor}" for factor in factors]
        tests = row.check["tests"]
        programs = [toolchains.program(row, whole("lua", body), tests) for body in bodies]
        verdicts = list(sandbox.run(programs))
    assert [v.passed for v in verdicts] == [factor == 2 for factor in factors]
    assert len({program.digest for program in programs}) == 2


def test_a_sleeper_is_woken_by_the_wall_clock():
    row = RUNNERS["sh"]
    toolchain = toolchains.toolchain(row)
    with Sandbox(replace(row.limits, wall_s=1), toolchain=toolchain) as sandbox:
        program = toolchains.program(row, whole("sh", "sleep 60"), row.check["tests"])
        (verdict,) = sandbox.run([program])
    assert (verdict.outcome, verdict.detail) == ("timeout", "waited too long")
    assert verdict.cpu_s < 1


def test_a_text_of_the_programs_is_never_the_proof(judge):
    """The names that stand for the proof are replaced in the tests alone."""
    body = 'io.write("STARKILN_LEFT" .. "STARKILN_RIGHT") os.exit(0)'
    assert judge("lua", body).outcome == "error"
