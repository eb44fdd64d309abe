# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: reports, capture, exit statuses, and what `tapas run` says when it cannot help."""
import json
import os
import struct
import subprocess
import sys

import pytest

from lab import BUILD, echo_once

PORT = 7
PEER = os.path.join(os.path.dirname(__file__), "peer.py")
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable


def tapas(lab, *argv, **kw):
    return lab.server.run([os.path.join(BUILD, "tapas"), *argv], env=lab.env(), check=False, **kw)


def pcapng_blocks(data):
    """(type, body) of each block; every length is checked."""
    blocks, at = [], 0
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        assert size >= 12 and size % 4 == 0 and at + size <= len(data)
        assert struct.unpack_from("<I", data, at + size - 4)[0] == size
        blocks.append((kind, data[at + 8:at + size - 4]))
        at += size
    return blocks


@pytest.fixture
def echo(make_lab):
    lab = make_lab("shared")
    if lab.plain:
        pytest.skip("needs the service")
    lab.run_server([PYTHON, PEER, "echo", PORT], ready="ready")
    s = lab.connect(PORT)
    lab.adopt(s)
    return lab, s


def test_reports(echo):
    lab, s = echo
    echo_once(s)
    for what, needle in (("status", "interface"), ("flows", "FAST"), ("listeners", "LISTENS ON"), ("stats", "adopted")):
        r = tapas(lab, what)
        assert r.returncode == 0 and needle in r.stdout, r
        j = tapas(lab, what, "--json")
        assert j.returncode == 0 and isinstance(json.loads(j.stdout), dict)
    flow = lab.flows(state="FAST")[0]
    assert (flow["local_addr"], flow["local_port"], flow["remote_port"]) == (lab.addr, PORT, s.getsockname()[1])
    assert flow["command"].startswith("python") and flow["verdict"] == "accept" and flow["rx_bytes"] > 0
    top = tapas(lab, "top", "-n", "2", "-d", "0.2")
    assert top.returncode == 0 and top.stdout.count("VERDICT") == 2


def test_exit_statuses(echo):
    lab, _ = echo
    assert tapas(lab).returncode == 2
    assert tapas(lab, "bogus").returncode == 2
    assert tapas(lab, "status", "--bogus").returncode == 2
    assert tapas(lab, "capture", "not a filter at all", "-w", "x").returncode == 2
    assert tapas(lab, "--help").returncode == 0
    assert tapas(lab, "run", "/nonexistent/program").returncode == 127


def test_capture(echo):
    """Frames both ways, nothing lost, whole blocks; the filter of tcpdump's language."""
    lab, s = echo
    path = os.path.join(lab.dir, "c.pcapng")
    argv = [os.path.join(BUILD, "tapas"), "capture", "-w", path, "-c", "20", "tcp", "and", "port", str(PORT)]
    p = lab.server.popen(argv, env=lab.env(), stderr=subprocess.PIPE, text=True)
    none = lab.server.popen([os.path.join(BUILD, "tapas"), "capture", "-w", path + ".none", "-c", "1", "udp"],
                            env=lab.env())
    try:
        for _ in range(200):
            if p.poll() is not None:
                break
            echo_once(s, b"captured" * 4)
        assert p.wait(5) == 0, p.stderr.read()
        assert none.poll() is None  # TCP is not what it asked for
    finally:
        for q in (p, none):
            q.kill()
            q.wait()
    with open(path, "rb") as f:
        blocks = pcapng_blocks(f.read())
    assert [k for k, _ in blocks[:2]] == [0x0A0D0D0A, 1]
    packets = [body for k, body in blocks if k == 6]
    assert len(packets) == 20
    ports = {struct.unpack_from("!HH", body, 20 + 14 + 20) for body in packets}
    peer = s.getsockname()[1]
    assert ports == {(peer, PORT), (PORT, peer)}
    assert any(b"captured" in body for body in packets)


def test_run_without_service(make_lab):
    lab = make_lab("shared", start=False)
    r = tapas(lab, "run", "/bin/echo", "hello")
    assert r.returncode == 0 and r.stdout == "hello\n"
    assert len(r.stderr.splitlines()) == 1 and "plain Linux" in r.stderr
    assert tapas(lab, "status").returncode == 1


def test_run_static_program(echo, tmp_path):
    lab, _ = echo
    src, exe = tmp_path / "s.c", tmp_path / "s"
    src.write_text('#include <unistd.h>\nint main(void) { return write(1, "static\\n", 7) != 7; }\n')
    subprocess.run(["cc", "-static", "-o", str(exe), str(src)], check=True)
    r = tapas(lab, "run", str(exe))
    assert r.returncode == 0 and r.stdout == "static\n"
    assert len(r.stderr.splitlines()) == 1 and "statically linked" in r.stderr


def test_ordinary_user_is_refused_in_one_line(echo):
    """Without the group, the socket is not for everybody; the program still runs."""
    lab, _ = echo
    os.chmod(lab.dir, 0o755)
    r = lab.server.run(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
                        os.path.join(BUILD, "tapas"), "status"], env=lab.env(), check=False)
    assert r.returncode == 1 and len(r.stderr.splitlines()) == 1, r
