# SPDX-License-Identifier: GPL-2.0-or-later
"""`tapas run` with programs into which the library cannot be loaded: one line that says why, and the program runs.

No service is needed: without an obstacle the one line says that there is none.
"""
import os
import shutil
import stat
import subprocess

import pytest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BUILD = os.environ.get("TAPAS_BUILD", os.path.join(ROOT, "build"))
TAPAS = os.path.join(BUILD, "tapas")

pytestmark = pytest.mark.skipif(not os.path.exists(TAPAS), reason="tapas is not built")

HELLO = '#include <stdio.h>\n#include <stdlib.h>\nint main(void) { return puts(getenv("LD_PRELOAD") ? "in" : "out") < 0; }\n'
GO_NOTE = '__asm__(".section .note.go.buildid,\\"a\\",@note\\n.long 4, 4, 4\\n.asciz \\"Go\\\\0\\"\\n.long 7\\n.previous");\n'


@pytest.fixture
def build(tmp_path):
    def make(name, *flags, source=HELLO):
        src, exe = tmp_path / (name + ".c"), tmp_path / name
        src.write_text(source)
        subprocess.run(["cc", "-o", str(exe), str(src), *flags], check=True)
        return str(exe)
    return make


def run(*argv, env=None):
    e = dict(os.environ, TAPAS_SOCKET="/nonexistent/socket", **(env or {}))
    e.pop("LD_PRELOAD", None)
    r = subprocess.run([TAPAS, "run", *map(str, argv)], env=e, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       text=True, timeout=20)
    assert r.returncode == 0, r
    lines = r.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("tapas: ") and "plain Linux" in lines[0], lines
    return r.stdout, lines[0]


def test_ordinary(build):
    out, line = run(build("p"))
    assert out == "in\n" and "no service" in line


@pytest.mark.parametrize("flags", [["-static"], ["-static-pie"]])
def test_static(build, flags):
    out, line = run(build("p", *flags))
    assert out == "out\n" and "statically linked;" in line


@pytest.mark.parametrize("flags", [["-static"], []])
def test_go(build, flags):
    exe = build("p", "-Wl,--build-id", *flags, source=HELLO + GO_NOTE)
    out, line = run(exe)
    assert out == "out\n" and "Go program" in line and ("statically" in line) == bool(flags)


def test_other_loader(build, tmp_path):
    interp = subprocess.run(["readelf", "-p", ".interp", TAPAS], stdout=subprocess.PIPE, text=True).stdout.split()[-1]
    loader = tmp_path / "ld-other.so.1"
    shutil.copy(os.path.realpath(interp), loader)
    loader.chmod(0o755)
    out, line = run(build("p", "-Wl,--dynamic-linker=%s" % loader))
    assert out == "out\n" and "another C library" in line


def test_set_user_id(build, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root to give a file away")
    tmp_path.chmod(0o755)
    exe = build("p")
    os.chown(exe, 65534, 65534)
    os.chmod(exe, 0o755 | stat.S_ISUID)
    _, line = run(exe)
    assert "set-user-id" in line
    os.chown(exe, 0, 65534)
    os.chmod(exe, 0o755 | stat.S_ISGID)
    _, line = run(exe)
    assert "set-group-id" in line
    os.chmod(exe, 0o755)
    out, line = run(exe)
    assert out == "in\n" and "no service" in line


def script(path, first, rest=""):
    path.write_text(first + "\n" + rest)
    path.chmod(0o755)
    return path


def test_scripts(build, tmp_path):
    """The interpreter counts, through env(1) and a second script, and not the script's own privilege bits."""
    static, dynamic = build("s", "-static"), build("d")
    path = {"PATH": "%s:%s" % (tmp_path, os.environ["PATH"])}
    for first, want in (("#!%s" % static, "out\n"), ("#! %s -x" % static, "out\n"), ("#!/usr/bin/env s", "out\n"),
                        ("#!/usr/bin/env -S A=b s -x", "out\n"), ("#!%s" % dynamic, "in\n"), ("#!/usr/bin/env d", "in\n")):
        out, line = run(script(tmp_path / "x", first), env=path)
        assert out == want, first
        assert ("cannot be accelerated" in line) == (want == "out\n"), line
        if want == "out\n":
            assert "/s runs it, and it is statically linked" in line
    inner = script(tmp_path / "inner", "#!%s" % static)
    out, line = run(script(tmp_path / "outer", "#!%s" % inner))
    assert out == "out\n" and "statically linked" in line
    out, line = run(script(tmp_path / "sh", "#!/bin/sh", "echo $LD_PRELOAD | grep -c tapas\n"))
    assert out == "1\n" and "no service" in line
    os.chmod(script(tmp_path / "u", "#!/bin/sh", "echo $LD_PRELOAD | grep -c tapas\n"), 0o4755)
    out, line = run(tmp_path / "u")
    assert out == "1\n" and "no service" in line


def test_odd_files(tmp_path):
    """Broken files: what the kernel says is what the user gets, and nothing before it goes wrong."""
    with open("/bin/true", "rb") as f:
        elf = f.read()
    for name, data in (("cut", elf[:40]), ("phdrs", elf[:32] + b"\xff" * 8 + elf[40:]), ("many", elf[:56] + b"\xff\xff" +
                       elf[58:]), ("bang", b"#!"), ("long", b"#!" + b"/" * 5000)):
        path = tmp_path / name
        path.write_bytes(data)
        path.chmod(0o755)
        # in a directory of its own: what the kernel refuses is given to the shell, as by any execvp()
        r = subprocess.run([TAPAS, "run", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20,
                           cwd=str(tmp_path), env=dict(os.environ, TAPAS_SOCKET="/nonexistent/socket"))
        assert r.returncode in (-11, -9, 0, 1, 2, 126, 127), (name, r)
        assert b"tapas: " in r.stderr
