# SPDX-License-Identifier: GPL-2.0-or-later
"""tapasd --local-only: a user's own service, without privilege, for connections within the host.

It is started by a user who has nothing but a directory, and must be found by that user's programs, and by nobody
else's. What is not within the host goes on in Linux.
"""
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest

from lab import ASAN_LIBRARY, BUILD, PLAIN, cpu_seconds, echo_once, stop_process, wait_for

pytestmark = [pytest.mark.skipif(PLAIN, reason="needs the service"),
              pytest.mark.skipif(bool(ASAN_LIBRARY), reason="programs are started by tapas run itself")]

PORT = 7007
USER, OTHER = 65534, 65533
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
HERE = os.path.dirname(os.path.realpath(__file__))
PROGRAMS = ("tapasd", "tapas", "libtapas-preload.so")


class User:
    """An ordinary user of the lab's server host, with a directory for XDG_RUNTIME_DIR and programs that he can read."""

    def __init__(self, lab):
        self.lab = lab
        self.bin = os.path.join(lab.dir, "bin")
        os.mkdir(self.bin, 0o755)
        for name in PROGRAMS:
            shutil.copy(os.path.join(BUILD, name), self.bin)
        shutil.copy(os.path.join(HERE, "peer.py"), self.bin)
        self.home = os.path.join(lab.dir, "home")
        os.mkdir(self.home, 0o700)
        os.chown(self.home, USER, USER)
        self.dir = os.path.join(self.home, "tapas")
        self.socket = os.path.join(self.dir, "tapasd.sock")
        self.services = []

    def program(self, name):
        return os.path.join(self.bin, name)

    def env(self, **more):
        env = {k: v for k, v in os.environ.items() if k not in ("TAPAS_SOCKET", "TAPAS_VERBOSE", "LD_PRELOAD")}
        env["XDG_RUNTIME_DIR"] = self.home
        env.update(more)
        return {k: v for k, v in env.items() if v is not None}

    @staticmethod
    def as_user(argv, uid=USER):
        return ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", *argv]

    def run(self, *argv, uid=USER, env=None, **kw):
        kw.setdefault("check", False)
        return self.lab.server.run(self.as_user(argv, uid), env=env or self.env(), **kw)

    def tapas(self, *argv, **kw):
        return self.run(self.program("tapas"), *argv, **kw)

    def json(self, what):
        return json.loads(self.tapas(what, "--json", check=True).stdout)

    def start(self, *options, uid=USER, env=None, path=None):
        """The service, once it has its socket."""
        self.log = open(os.path.join(self.lab.dir, "tapasd.log"), "a+")
        p = self.lab.server.popen(self.as_user([self.program("tapasd"), "--local-only", *options], uid),
                                  env=env or self.env(), stdout=self.log, stderr=self.log)
        self.services.append(p)

        def ready():
            assert p.poll() is None, self.said()
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                s.connect(path or self.socket)
                return True
            except OSError:
                return False
            finally:
                s.close()
        wait_for(ready, 20, "socket of the service")
        return p

    def fails_to_start(self, *options, env=None, prefix=()):
        """Exit status and the one line that it says."""
        r = self.run(*prefix, self.program("tapasd"), "--local-only", *options, env=env, timeout=20)
        assert r.returncode and len(r.stderr.splitlines()) == 1 and r.stderr.startswith("tapasd: "), r
        return r.returncode, r.stderr

    def said(self):
        self.log.seek(0)
        return self.log.read()

    def accelerated(self, *argv, ready="ready", env=None):
        return self.lab.spawn(self.lab.server, self.as_user([self.program("tapas"), "run", *argv]),
                              env=env or self.env(), ready=ready)

    def echo(self, **kw):
        return self.accelerated(PYTHON, self.program("peer.py"), "echo", PORT, **kw)

    def close(self):
        for p in self.services:
            stop_process(p)


@pytest.fixture
def user(make_lab):
    u = User(make_lab("plain"))
    try:
        yield u
    finally:
        u.close()


def mode(path):
    st = os.lstat(path)
    return st.st_uid, stat.S_IMODE(st.st_mode)


def connect_local(user, port=PORT):
    return user.lab.server.connect(("127.0.0.1", port))


def connect_known(user):
    """To an accelerated echo that the service knows; a few bytes have gone."""
    user.echo()
    s = connect_local(user)
    for _ in range(20):
        echo_once(s)
    wait_for(lambda: user.json("status")["apps"] == 1, 5, "the program to register")
    return s


def test_what_a_user_gets(user):
    before = user.lab.server.interfaces()
    p = user.start()
    assert mode(user.dir) == (USER, 0o700) and mode(user.socket) == (USER, 0o600)
    assert user.lab.server.interfaces() == before
    status = user.json("status")
    assert status["mode"] == "local" and status["interface"] == "" and status["attached"] is False
    assert status["pid"] == p.pid and len(status["threads"]) == 1
    with open("/proc/%d/status" % p.pid) as f:
        caps = dict(x.split(":\t") for x in f.read().splitlines())
    assert int(caps["CapEff"], 16) == int(caps["CapPrm"], 16) == 0 and caps["NoNewPrivs"] == "1"
    assert "firewall" in user.said()  # what such a service cannot know it says
    for what in ("status", "flows", "listeners", "stats"):
        r = user.tapas(what)
        assert r.returncode == 0 and not r.stderr, r
    assert "within this host" in user.tapas("status").stdout
    assert any(c["name"] == "adopted" for c in user.json("stats")["counters"])
    assert user.tapas("release", "--all").returncode == 0
    assert user.tapas("top", "-n", "1").returncode == 0


def test_run_tells_what_it_has_found(user):
    r = user.tapas("run", "sh", "-c", "echo $TAPAS_SOCKET")
    assert r.returncode == 0 and r.stdout == "\n" and len(r.stderr.splitlines()) == 1 and "plain Linux" in r.stderr
    user.start()
    r = user.tapas("run", "sh", "-c", "echo $TAPAS_SOCKET")
    assert (r.returncode, r.stdout, r.stderr) == (0, user.socket + "\n", "")
    # what is said is taken, and nothing else
    r = user.tapas("run", "sh", "-c", "echo $TAPAS_SOCKET", env=user.env(TAPAS_SOCKET="/nonexistent/s"))
    assert r.stdout == "/nonexistent/s\n" and len(r.stderr.splitlines()) == 1, r


def test_a_connection_from_elsewhere_stays_with_linux(user):
    lab = user.lab
    user.start()
    user.echo()
    s = lab.connect(PORT)

    def refused():
        echo_once(s)
        return [f for f in user.json("flows")["flows"] if f["remote_port"] == s.getsockname()[1]]
    flow = wait_for(refused, 5, "the connection to be known")[0]
    assert (flow["state"], flow["reason"]) == ("LINUX", "not-our-interface")
    for _ in range(50):
        echo_once(s)
    assert user.json("status")["apps"] == 1
    s.close()


def test_both_ends_here(user):
    """They are carried by the service, and the bytes are right."""
    user.start()
    user.echo()
    code = ("import socket, time\n"
            "s = socket.create_connection(('127.0.0.1', %d))\n"
            "for i in range(200):\n"
            "    d = bytes([i]) * (1 + i * 37)\n"
            "    s.sendall(d)\n"
            "    got = b''\n"
            "    while len(got) < len(d):\n"
            "        got += s.recv(len(d) - len(got))\n"
            "    assert got == d, i\n"
            "print('good', flush=True)\n"
            "time.sleep(60)\n" % PORT)
    user.accelerated(PYTHON, "-c", code, ready="good")
    assert user.json("status")["apps"] == 2
    flows = user.json("flows")["flows"]
    assert [f["state"] for f in flows if PORT in (f["local_port"], f["remote_port"])] == ["FAST", "FAST"], flows
    counters = {c["name"]: c["value"] for c in user.json("stats")["counters"]}
    assert counters["local_pairs"] == 1 and counters["local_bytes"] > 1000000, counters


def test_an_image_without_the_library_does_not_wait_for_ever(user):
    """Without privilege unread bytes of an end that has closed cannot go back to Linux. Who has them
    reads them, and a child of the other end's goes on."""
    user.start()
    code = ("import errno, os, socket\n"
            "with socket.create_server(('127.0.0.1', 0)) as l:\n"
            "    a = socket.create_connection(l.getsockname())\n"
            "    b, _ = l.accept()\n"
            "for i in range(200):\n"
            "    for x, y in ((a, b), (b, a)):\n"
            "        x.send(b'x' * 100)\n"
            "        assert len(y.recv(100)) == 100\n"
            "a.send(b'y' * 50000)\n"
            "b.shutdown(1)\n"
            "assert a.recv(1) == b''\n"
            "a.shutdown(2)\n"
            "if not os.fork():\n"
            "    a.set_inheritable(True)\n"
            "    os.environ.pop('LD_PRELOAD', None)\n"
            "    os.execv('/bin/true', ['true'])\n"
            "os.wait()\n"
            "got = 0\n"
            "try:\n"
            "    while data := b.recv(65536):\n"
            "        got += len(data)\n"
            "    end = 'end'\n"
            "except OSError as e:\n"
            "    end = errno.errorcode[e.errno]\n"
            "print(got, end)\n")
    r = user.tapas("run", PYTHON, "-c", code, timeout=30)
    assert r.stdout == "50000 end\n", r
    counters = {c["name"]: c["value"] for c in user.json("stats")["counters"]}
    assert counters["local_bytes"] > 50000, counters


def test_a_service_that_starts_later_is_found(user):
    """By the library itself: `tapas run` had nothing to tell it."""
    user.echo(ready="ready")
    s = connect_local(user)
    echo_once(s)
    user.start()

    def known():
        echo_once(s)
        return user.json("status")["apps"] == 1
    wait_for(known, 20, "the program to find the service", step=0.1)
    s.close()


def test_other_users(user):
    """They do not reach it; and if somebody opens its doors to them, they are not served."""
    user.start()
    tapas = user.program("tapas")

    def other(**env):
        r = user.run(tapas, "status", uid=OTHER, env=user.env(**env))
        assert r.returncode == 1 and len(r.stderr.splitlines()) == 1, r
        return r.stderr

    assert "ermission" in other(TAPAS_SOCKET=user.socket)
    other()
    for path, bits in ((user.home, 0o755), (user.dir, 0o755), (user.socket, 0o777)):
        os.chmod(path, bits)
    assert "user who has started it" in other(TAPAS_SOCKET=user.socket)
    assert user.socket in other() and "yours alone" in other()  # what another user has made is not trusted
    r = user.run(tapas, "run", "sh", "-c", "echo $TAPAS_SOCKET", uid=OTHER)
    assert r.stdout == "\n" and "plain Linux" in r.stderr, r
    r = user.run(tapas, "status", uid=0, env=user.env(TAPAS_SOCKET=user.socket))
    assert r.returncode == 0, r  # root has every right, if told to
    r = user.run(tapas, "status", uid=0)
    assert r.returncode == 1 and "yours alone" in r.stderr, r  # but is not led astray by a variable
    assert user.tapas("status").returncode == 0


def hostile_symlink(user):
    os.mkdir(user.lab.dir + "/trap", 0o777)
    os.chmod(user.lab.dir + "/trap", 0o777)
    os.symlink(user.lab.dir + "/trap", user.dir)


def hostile_owner(user):
    os.mkdir(user.dir, 0o777)
    os.chmod(user.dir, 0o777)
    os.chown(user.dir, OTHER, OTHER)


def hostile_home(user):
    os.chown(user.home, OTHER, OTHER)
    os.chmod(user.home, 0o777)


def hostile_home_link(user):
    os.rename(user.home, user.lab.dir + "/real")
    os.symlink(user.lab.dir + "/real", user.home)


def hostile_writers(user):
    os.mkdir(user.dir, 0o700)
    os.chown(user.dir, USER, USER)
    os.chmod(user.dir, 0o770)


def hostile_file(user):
    with open(user.dir, "w") as f:
        f.write("precious")
    os.chown(user.dir, USER, USER)


@pytest.mark.parametrize("what", [hostile_symlink, hostile_owner, hostile_home, hostile_home_link, hostile_writers,
                                  hostile_file], ids=lambda f: f.__name__)
def test_hostile_directories(user, what):
    what(user)

    def names():
        found = subprocess.run(["find", user.lab.dir, "-path", user.bin, "-prune", "-o", "-printf", "%p %m %u %s\\n"],
                               stdout=subprocess.PIPE, check=True).stdout
        return sorted(x for x in found.decode().splitlines() if "tapasd.log" not in x)
    before = names()
    status, line = user.fails_to_start()
    assert status == 1 and "XDG_RUNTIME_DIR" in line and "-s SOCKET" in line
    assert names() == before


def test_no_directory(user):
    for env in (user.env(XDG_RUNTIME_DIR=None), user.env(XDG_RUNTIME_DIR=""), user.env(XDG_RUNTIME_DIR="run")):
        status, line = user.fails_to_start(env=env)
        assert status == 1 and "set XDG_RUNTIME_DIR" in line and "-s SOCKET" in line
    status, line = user.fails_to_start(env=user.env(XDG_RUNTIME_DIR="/" + "x" * 200))
    assert status == 1 and "too long" in line
    status, line = user.fails_to_start(env=user.env(XDG_RUNTIME_DIR=user.lab.dir + "/none"))
    assert status == 1 and "XDG_RUNTIME_DIR" in line


def test_a_socket_that_is_named(user):
    path = os.path.join(user.home, "own", "s")
    p = user.start("-s", path, env=user.env(XDG_RUNTIME_DIR=None), path=path)
    assert mode(os.path.dirname(path)) == (USER, 0o700) and mode(path) == (USER, 0o600)
    r = user.tapas("status", env=user.env(TAPAS_SOCKET=path))
    assert r.returncode == 0, r
    assert stop_process(p) == 0 and not os.path.exists(path)
    # a file of the user's is not a socket that somebody has left behind
    with open(path, "w") as f:
        f.write("precious")
    os.chown(path, USER, USER)
    status, line = user.fails_to_start("-s", path)
    assert status == 1 and path in line
    with open(path) as f:
        assert f.read() == "precious"


def test_second_instance(user):
    p = user.start()
    status, line = user.fails_to_start()
    assert status == 1 and "in use" in line and user.socket in line
    assert user.tapas("status").returncode == 0
    stop_process(p, sig=signal.SIGKILL)
    assert os.path.exists(user.socket)
    r = user.tapas("status")
    assert r.returncode == 1 and len(r.stderr.splitlines()) == 1 and "--local-only" in r.stderr, r
    user.start()
    assert user.json("status")["apps"] == 0


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stop(user, sig):
    p = user.start()
    s = connect_known(user)
    assert stop_process(p, sig=sig) == 0
    assert os.listdir(user.home) == []
    for _ in range(20):
        echo_once(s)
    s.close()


def test_its_directory_is_closed_to_others(user):
    os.mkdir(user.dir, 0o755)
    os.chown(user.dir, USER, USER)
    user.start()
    assert mode(user.dir) == (USER, 0o700)


def test_idle(user):
    """Nothing to do: no processor time, also with a program that is connected, and while neighbours come and go."""
    p = user.start()
    s = connect_known(user)
    time.sleep(1.0)
    before = cpu_seconds(p.pid)
    time.sleep(4)
    assert cpu_seconds(p.pid) - before <= 0.02
    assert all(t["asleep"] for t in user.json("status")["threads"])
    s.close()


def test_effective_configuration(user, tmp_path):
    r = user.run(user.program("tapasd"), "-L", "-n")
    assert r.returncode == 0 and not r.stderr
    lines = r.stdout.splitlines()
    assert {"local_only=yes", "interface=", "group=", "socket=" + user.socket} <= set(lines)
    assert not os.path.exists(user.dir)
    # it says the same when it is read
    path = os.path.join(user.lab.dir, "printed.conf")
    with open(path, "w") as f:
        f.write(r.stdout)
    again = user.run(user.program("tapasd"), "-n", "-c", path)
    assert again.returncode == 0 and again.stdout == r.stdout
    r = user.run(user.program("tapasd"), "-L", "-n", uid=0, env=user.env(XDG_RUNTIME_DIR=None))
    assert "socket=/run/tapas/tapasd.sock" in r.stdout.splitlines(), r
    # a file that was written for an interface
    with open(path, "w") as f:
        f.write("[service]\ninterface=nic0\nmode=exclusive\nmax_apps=7\n[exclusive]\naddress=10.99.0.1/24\n")
    r = user.run(user.program("tapasd"), "-L", "-n", "-c", path)
    assert {"interface=", "mode=shared", "max_apps=7", "socket=" + user.socket} <= set(r.stdout.splitlines()), r
    status, line = user.fails_to_start("-i", "nic0")
    assert status == 2 and "-i" in line


def test_little_locked_memory(user):
    """io_uring may count as locked memory: then it is said, with the limit to raise."""
    r = user.run("timeout", "2", "prlimit", "--memlock=0", user.program("tapasd"), "--local-only")
    assert (r.returncode == 124 and "within this host" in r.stderr) or \
        (r.returncode == 1 and len(r.stderr.splitlines()) == 1 and "ulimit -l" in r.stderr), r


def test_as_root(user):
    """It sees what rules become, keeps one capability, and is for whom the file says."""
    path = os.path.join(user.lab.dir, "root.sock")
    p = user.start("-s", path, uid=0, path=path)
    assert "firewall" not in user.said()
    assert mode(path)[1] in (0o600, 0o660)

    def caps():
        with open("/proc/%d/status" % p.pid) as f:
            return int(dict(x.split(":\t") for x in f.read().splitlines())["CapEff"], 16)
    wait_for(lambda: caps() == 1 << 19, 5, "CAP_SYS_PTRACE alone")  # the socket is there a little before
    r = user.run(user.program("tapas"), "status", uid=0, env=user.env(TAPAS_SOCKET=path))
    assert r.returncode == 0, r
    user.lab.server.nft("add table inet t")  # a notification that nobody minds
    r = user.run(user.program("tapas"), "status", env=user.env(TAPAS_SOCKET=path))
    assert r.returncode == 1 and len(r.stderr.splitlines()) == 1, r
    assert stop_process(p) == 0 and not os.path.exists(path)
