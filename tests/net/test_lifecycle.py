# SPDX-License-Identifier: GPL-2.0-or-later
"""Starts, stops, crashes, and hostile or mistaken neighbours."""
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time

import pytest

from lab import BUILD, echo_once, scale, stop_process, tcx_programs, wait_for
from peer import pattern

PORT = 7
PEER = os.path.join(os.path.dirname(__file__), "peer.py")
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable

pytestmark = pytest.mark.skipif(os.environ.get("TAPAS_PLAIN", "") not in ("", "0"), reason="needs the service")


def echo_server(lab, **kw):
    return lab.run_server([PYTHON, PEER, "echo", PORT], ready="ready", **kw)


def traces(lab):
    """What the service has put into the server host, as the administrator can see it."""
    link = json.loads(lab.server.run(["ip", "-j", "-d", "link", "show", "nic0"]).stdout)[0]
    filters = "".join(lab.server.run(["tc", "filter", "show", "dev", "nic0", d], check=False).stdout
                      for d in ("ingress", "egress"))
    qdiscs = lab.server.run(["tc", "qdisc", "show", "dev", "nic0"]).stdout
    net = json.loads(lab.server.run(["bpftool", "-j", "net", "show"]).stdout or "[{}]")
    return {
        "interfaces": sorted(i.split("@")[0] for i in lab.server.interfaces()),
        "xdp": "xdp" in link,
        "tc": bool(filters.strip()) or "clsact" in qdiscs or any(tcx_programs(lab.server, "nic0")),
        "bpf": sum(len(x) for part in net for x in part.values() if isinstance(x, list)),
        "socket": os.path.exists(lab.socket_path),
    }


NOTHING = {"interfaces": ["lo", "nic0"], "xdp": False, "tc": False, "bpf": 0}


def clean(lab):
    """All but a dead socket's name, which a killed process cannot remove."""
    return {k: v for k, v in traces(lab).items() if k != "socket"} == NOTHING


def test_stop(lab):
    """SIGTERM: a live connection goes on in Linux, and nothing is left."""
    echo_server(lab)
    s = lab.connect(PORT)
    lab.adopt(s)
    during = traces(lab)
    assert during["xdp"] and (during["tc"] or lab.mode == "exclusive") and "tapas0" in during["interfaces"]
    assert lab.stop_service() == 0
    assert traces(lab) == dict(NOTHING, socket=False)
    s.settimeout(3)
    for _ in range(20):
        echo_once(s)
    s.close()


def test_kill_leaves_nothing(lab):
    """SIGKILL: no program, link, TAP or rule stays; other traffic goes on; the next start works at once."""
    echo_server(lab)
    s = lab.connect(PORT)
    lab.adopt(s)
    if lab.mode == "shared":
        lab.run_server([PYTHON, PEER, "echo", 77], ready="ready", accelerated=False)
        other = lab.connect(77)
        echo_once(other)
    lab.stop_service(signal.SIGKILL)
    wait_for(lambda: clean(lab), 2, "nothing left: %s" % traces(lab))
    if lab.mode == "shared":
        lab.ping()
        echo_once(other)
        fresh = lab.connect(77)
        echo_once(fresh)
    lab.start_service()
    echo_server2 = lab.run_server([PYTHON, PEER, "echo", 78], ready="ready")
    t = lab.connect(78)
    lab.adopt(t)
    echo_once(t)
    assert echo_server2.poll() is None
    t.close()
    s.close()


def test_many_starts(make_lab):
    lab = make_lab("shared")
    for i in range(scale(20, 5)):
        sig = signal.SIGKILL if i % 2 else signal.SIGTERM
        lab.stop_service(sig)
        lab.start_service()
    lab.stop_service()
    assert clean(lab)


def start_source(lab, total):
    p = lab.run_server([PYTHON, PEER, "source", PORT, total], ready="ready")
    s = lab.client.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    s.settimeout(5)
    s.connect((lab.addr, PORT))
    s.sendall(b"a")
    assert s.recv(1) == b"!"
    s.sendall(b"b")
    return p, s


def written(p):
    """What the source program says it has written so far."""
    os.set_blocking(p.stdout.fileno(), False)
    text = b""
    while True:
        try:
            more = os.read(p.stdout.fileno(), 65536)
        except BlockingIOError:
            break
        if not more:
            break
        text += more
    numbers = [int(x.split()[1]) for x in text.decode().splitlines() if x.startswith("W ") and x.split()[1:]]
    return max(numbers, default=0)


def read_all(s):
    got, end = bytearray(), "end of file"
    while True:
        try:
            data = s.recv(65536)
        except ConnectionResetError:
            end = "reset"
            break
        if not data:
            break
        got += data
    return bytes(got), end


def test_application_killed(lab):
    """SIGKILL of the application in mid transfer: the peer gets what was written, then the end; nothing stays."""
    p, s = start_source(lab, 64 << 20)
    port = s.getsockname()[1]
    got = bytearray(s.recv(1 << 16))

    def adopted():
        got.extend(s.recv(1 << 16))  # the sender must not stand still
        return [f for f in lab.flows("FAST") if f["remote_port"] == port]

    wait_for(adopted, 3, "adoption")
    time.sleep(0.2)
    os.kill(p.pid, signal.SIGKILL)
    p.wait(5)
    least = written(p)
    rest, end = read_all(s)
    got += rest
    assert len(got) >= least > 0, (len(got), least, end)
    assert bytes(got) == pattern(0, len(got))
    s.close()
    wait_for(lambda: lab.status()["fast"] + lab.status()["closing"] == 0, 5, "no flow left: %s" % lab.flows())
    wait_for(lambda: lab.tapas("status", "--json")["apps"] == 0, 2, "application forgotten")


def test_application_killed_and_its_fin_late(lab):
    """Its end is known by its process before the kernel's FIN comes, as the TAP has lost the first: Linux's answers, which
    count the FIN, are answers all the same, and what was written goes on to the peer however slowly that reads."""
    p, s = start_source(lab, 64 << 20)
    port = s.getsockname()[1]
    got = bytearray(s.recv(1 << 16))

    def adopted():
        got.extend(s.recv(1 << 16))
        return [f for f in lab.flows("FAST") if f["remote_port"] == port]

    wait_for(adopted, 3, "adoption")
    time.sleep(0.2)
    lab.server.run(["ip", "link", "set", "tapas0", "down"])
    os.kill(p.pid, signal.SIGKILL)
    p.wait(5)
    time.sleep(0.1)
    lab.server.run(["ip", "link", "set", "tapas0", "up"])
    least = written(p)
    asked = lab.counters()["heartbeat_sent"]
    wait_for(lambda: lab.counters()["heartbeat_sent"] >= asked + 3, 10, "heartbeats after its end")
    assert lab.status()["muted"] == 0, lab.flows()
    rest, end = read_all(s)
    got += rest
    assert len(got) >= least > 0, (len(got), least, end)
    assert bytes(got) == pattern(0, len(got))
    s.close()


def test_orderly_end(lab):
    """The application closes after its last byte: all of it arrives, then end of file, and Linux's sockets end too."""
    p, s = start_source(lab, 3 << 20)
    got = bytearray()
    while len(got) < 3 << 20:
        got += s.recv(1 << 16)
    assert bytes(got) == pattern(0, 3 << 20)
    s.sendall(b"c")
    assert s.recv(1) == b""
    s.close()
    wait_for(lambda: lab.status()["fast"] + lab.status()["closing"] == 0, 5, "no flow left: %s" % lab.flows())
    assert not [x for x in lab.shadows(PORT) if x["state"] == "ESTAB"]


def test_peer_resets(lab):
    """A RST from the real peer reaches the application, and the flow ends."""
    echo_server(lab)
    for _ in range(10):
        s = lab.connect(PORT)
        lab.adopt(s)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
    wait_for(lambda: lab.status()["fast"] == 0, 5, "no flow left: %s" % lab.flows())
    wait_for(lambda: not lab.shadows(PORT), 5, "no kernel socket left: %s" % lab.shadows(PORT))


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_fin_repeated(make_lab, mode):
    """Linux repeats the FIN of a shutdown() while the service stands still. When that is read, both FINs may be
    acknowledged and Linux's socket gone: the program still has the descriptor, and what it has not read."""
    lab = make_lab(mode, middlebox=["delay=100000"])
    rest = 60000
    for _ in range(scale(10, 3)):
        p = lab.run_server([PYTHON, PEER, "late", PORT], ready="ready", stdin=subprocess.PIPE)
        s = lab.connect(PORT)
        lab.adopt(s, exchange=echo_once)
        time.sleep(0.3)
        s.sendall(b"end")
        time.sleep(0.3)
        s.sendall(pattern(0, rest))
        s.shutdown(socket.SHUT_WR)
        wait_for(lambda: lab.flows("FAST")[0]["rx_bytes"] >= rest, 3, "all received: %s" % lab.flows())
        p.stdin.write(b"\n")
        p.stdin.flush()
        assert p.stdout.readline() == b"shut\n"
        time.sleep(0.05)
        lab.service.send_signal(signal.SIGSTOP)
        assert s.recv(1) == b""
        time.sleep(1.0)
        lab.service.send_signal(signal.SIGCONT)
        time.sleep(0.5)
        p.stdin.write(b"\n")
        p.stdin.flush()
        assert p.stdout.readline() == b"got %d True\n" % rest
        assert p.wait(5) == 0
        s.close()
    wait_for(lambda: lab.status()["fast"] == 0, 5, "closed: %s" % lab.flows())
    assert lab.counters()["flow_reset"] == 0


def test_many_applications_come_and_go(lab):
    """Accelerated processes started and killed with connections open: status returns to zero."""
    for i in range(scale(40, 6)):
        p = lab.run_server([PYTHON, PEER, "echo", 100 + i], ready="ready")
        socks = [lab.connect(100 + i) for _ in range(5)]
        for s in socks:
            lab.adopt(s)
        stop_process(p, 5, signal.SIGKILL if i % 2 else signal.SIGTERM)
        for s in socks:
            s.settimeout(5)
            try:
                assert s.recv(1) == b""
            except ConnectionResetError:
                pass
            s.close()
    wait_for(lambda: lab.status()["fast"] + lab.status()["closing"] == 0, 5, "no flow left: %s" % lab.flows())
    wait_for(lambda: lab.tapas("status", "--json")["apps"] == 0, 3, "applications forgotten")


def test_hostile_control_bytes(shared):
    """Nonsense on the control socket costs only the one who sent it."""
    lab, rnd = shared, random.Random(3)
    echo_server(lab)
    s = lab.connect(PORT)
    lab.adopt(s)
    for i in range(scale(2000, 300)):
        c = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        c.settimeout(2)
        c.connect(lab.socket_path)
        size = rnd.choice((1, 8, 199, 200, 201, 4096, 60000))
        data = bytearray(rnd.randbytes(size))
        if i % 3 == 0:  # a right beginning
            data[:8] = struct.pack("=IHH", 0x73617061, i % 14, 0)[:len(data)]
        fds = [0, 1, 2] if i % 5 == 0 else []
        try:
            if fds:
                socket.send_fds(c, [bytes(data)], fds)
            else:
                c.send(bytes(data))
            if i % 2:
                c.recv(65536)
        except (OSError, socket.timeout):
            pass
        c.close()
        if i % 50 == 0:
            echo_once(s)
    echo_once(s)
    wait_for(lambda: lab.tapas("status", "--json")["apps"] == 1, 3, "one application")
    assert lab.service.poll() is None
    fds = len(os.listdir("/proc/%d/fd" % lab.service.pid))
    assert fds < 200, "%d descriptors open" % fds
    s.close()


def tapasd(lab, text, name="bad.conf"):
    path = os.path.join(lab.dir, name)
    with open(path, "w") as f:
        f.write(text)
    r = lab.server.run([os.path.join(BUILD, "tapasd"), "-c", path], check=False, timeout=10)
    return r, path


BAD_CONFIGS = [
    ("[service]\ninterface = nic0\nmoed = shared\n", 3, "moed"),
    ("[service]\ninterface = nic0\nmode = fast\n", 3, "mode"),
    ("[service]\ninterface = nic0\n\nmax_flows = many\n", 4, "max_flows"),
    ("[service]\ninterface = nic0\nrx_buffer = 1000\n", 3, "rx_buffer"),
    ("[servise]\ninterface = nic0\n", 2, "servise"),
    ("[service]\ninterface = nic0\n[adopt]\nexchanges = -1\n", 4, "exchanges"),
    ("[service]\ninterface = nic0\n[port 99999]\naccelerate = no\n", 4, "port 99999"),
    ("[service]\ninterface = nic0\n[shadow]\nheartbeat_ms = 10x\n", 4, "heartbeat_ms"),
]


@pytest.fixture(scope="module")
def idle_lab():
    from lab import Lab
    with Lab("shared", start=False) as lab:
        yield lab


@pytest.mark.parametrize("text,line,key", BAD_CONFIGS, ids=[b[2] for b in BAD_CONFIGS])
def test_configuration_errors(idle_lab, text, line, key):
    """Each names the file, the line and the key, and changes nothing."""
    r, path = tapasd(idle_lab, text)
    assert r.returncode not in (0, -signal.SIGSEGV, -signal.SIGABRT)
    assert "%s:%d" % (path, line) in r.stderr, r.stderr
    assert key in r.stderr, r.stderr
    assert clean(idle_lab)


def test_unknown_interface(idle_lab):
    r, _ = tapasd(idle_lab, "[service]\ninterface = nosuch0\nsocket = %s\n" % idle_lab.socket_path)
    assert r.returncode == 1 and "nosuch0" in r.stderr, r.stderr
    assert clean(idle_lab)


def test_no_configuration_file(idle_lab):
    r = idle_lab.server.run([os.path.join(BUILD, "tapasd"), "-c", "/nonexistent/tapas.conf"], check=False)
    assert r.returncode != 0 and "/nonexistent/tapas.conf" in r.stderr, r.stderr


def test_socket_in_use(shared):
    """A second service refuses the first one's socket, and harms nothing."""
    lab = shared
    lab.server.run(["ip", "link", "add", "nic1", "type", "veth", "peer", "name", "nic2"])
    for i in ("nic1", "nic2"):
        lab.server.run(["ip", "link", "set", i, "up"])
    r, _ = tapasd(lab, "[service]\ninterface = nic1\nsocket = %s\ngroup =\n[exclusive]\ntap = tapas1\n" % lab.socket_path)
    assert r.returncode == 1 and lab.socket_path in r.stderr, r.stderr
    echo_server(lab)
    s = lab.connect(PORT)
    lab.adopt(s)
    s.close()


def test_same_interface_twice(shared):
    lab = shared
    r, _ = tapasd(lab, "[service]\ninterface = nic0\nsocket = %s.2\ngroup =\n[exclusive]\ntap = tapas1\n" % lab.socket_path)
    assert r.returncode == 1 and "nic0" in r.stderr, r.stderr
    echo_server(lab)
    s = lab.connect(PORT)
    lab.adopt(s)
    s.close()


def test_table_of_flows_full(make_lab):
    """More connections than max_flows: the rest stay with Linux and are served."""
    lab = make_lab("shared", config={"service": {"max_flows": 64}})
    echo_server(lab)
    socks = [lab.connect(PORT) for _ in range(100)]

    def full():
        for s in socks:
            echo_once(s)
        return lab.status()["fast"] == 64

    wait_for(full, 10, "the table full")
    assert full() and lab.counters()["adopt_refused"] > 0
    for s in socks:
        s.close()
    wait_for(lambda: lab.status()["fast"] == 0, 5, "no flow left")


def test_run_without_service(make_lab):
    """`tapas run` without a service: one line, and the program runs on plain Linux."""
    lab = make_lab("shared", start=False)
    r = lab.server.run([os.path.join(BUILD, "tapas"), "run", "/bin/echo", "hello"], env=lab.env())
    assert r.stdout == "hello\n" and len(r.stderr.splitlines()) == 1, r
    echo_server(lab)
    s = lab.connect(PORT)
    for _ in range(5):
        echo_once(s)
    s.close()
    r = lab.server.run([os.path.join(BUILD, "tapas"), "status"], env=lab.env(), check=False)
    assert r.returncode == 1 and lab.socket_path in r.stderr
