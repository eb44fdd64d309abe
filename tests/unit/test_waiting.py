# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting under the interposition library: epoll, poll, select, signals, cancellation. Each
program (waiting/) says what it saw; it must be the same on plain Linux and under the library,
where its connections must have been adopted."""
import glob
import os
import subprocess
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from test_preload import CFLAGS, ROOT, fake, fake_binary, pytestmark  # noqa: F401 pylint: disable=unused-import
from test_preload import run as run_python

SOURCES = sorted(glob.glob(os.path.join(ROOT, "tests/unit/waiting/*.c")))


@pytest.fixture(scope="session")
def program():
    with tempfile.TemporaryDirectory() as d:
        out = os.path.join(d, "waiting")
        subprocess.run(["gcc", *CFLAGS, "-Wno-nonnull", "-Wno-stringop-overflow", "-pthread", *SOURCES, "-o", out],
                       check=True)
        yield out


def run(program, case, env=None):
    r = subprocess.run([program, case], env=env, text=True, timeout=60, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert r.returncode == 0, (r.returncode, r.stderr, r.stdout)
    return r.stdout


def cases():
    found = []
    for source in SOURCES:
        with open(source, encoding="utf-8") as f:
            found += [line[5:].split(")")[0] for line in f if line.startswith("CASE(")]
    return found


# A child takes over what it inherited, which the pretended service cannot: tests/posix has that (fork/inherited-epoll).
@pytest.mark.parametrize("case", [c for c in cases() if c != "inherited"])
def test_as_linux(case, program, fake):  # noqa: F811
    want = run(program, case)
    f = fake(0)
    got = run(program, case, f.env())
    counts = f.stop()
    assert got == want
    assert want.endswith("\n"), want
    assert counts["adopted"] >= 2, counts


@pytest.mark.parametrize("case", ["levels", "nested", "oneshot", "mixed", "select_all"])
@pytest.mark.parametrize("every,delay", [(2, 0), (1, 3), (3, 10)])
def test_refusals(case, every, delay, program, fake):  # noqa: F811
    """Refused again and again, answers late: nothing differs."""
    want = run(program, case)
    f = fake(0, every, delay)
    assert run(program, case, f.env()) == want
    counts = f.stop()
    assert counts["refused"] >= 1 or every > 2, counts


def test_service_gone(fake):  # noqa: F811
    """An instance that held adopted sockets goes on after the service's death, and sleeps when idle."""
    f = fake(0)
    script = r"""
c, s = pair(); e = select.epoll(); e.register(s, select.EPOLLIN); r, w = os.pipe(); e.register(r, select.EPOLLIN)
os.kill(%d, 9); settle()
print(e.poll(5)[0][0] == s.fileno()); s.close(); c.close()
threading.Timer(1.0, lambda: os.write(w, b"x")).start()
t = time.process_time(); print(e.poll(10) == [(r, select.EPOLLIN)], time.process_time() - t < 0.2); os.read(r, 1)
a, b = pair(); e.register(b, select.EPOLLIN); a.sendall(b"y"); print(e.poll(5) == [(b.fileno(), select.EPOLLIN)])
""" % f.proc.pid
    assert run_python(script, f.env()) == "True\nTrue True\nTrue\n"
