# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of one host that do what a test tells them (actor.py), and connections between them.

    cast = Cast(lab)
    a, b = cast.start("a"), cast.start("b")
    c = cast.connect(a, b)      # b has connected to a; local, unless the lab is plain
    b("give(%s, 1, 1000)" % c.client)
    assert a("take(%s, 1, 1000)" % c.server) == [1000, ""]
"""
import json
import os
import select
import socket
import sys
import time

from lab import run_prefix, wait_for

ACTOR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "actor.py")
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
ANSWER_S = 40.0
MESSAGE = 1 << 17


class Failed(Exception):
    """An order that ended with an error."""

    def __init__(self, answer):
        super().__init__(answer["error"])
        self.errno = answer.get("errno")


class Actor:
    def __init__(self, cast, name, pid, sock):
        self.cast, self.name, self.pid, self.sock = cast, name, pid, sock

    def begin(self, order):
        self.sock.send(order.encode())

    def result(self, timeout=ANSWER_S):
        if not select.select([self.sock], [], [], timeout)[0]:
            raise AssertionError("%s does not answer\n%s" % (self.name, self.cast.lab.picture()))
        text = self.sock.recv(MESSAGE)
        if not text:
            raise AssertionError("%s has ended" % self.name)
        answer = json.loads(text)
        if "error" in answer:
            raise Failed(answer)
        return answer["value"]

    def __call__(self, order, timeout=ANSWER_S):
        self.begin(order)
        return self.result(timeout)

    def errno(self, order):
        """The order's error; 0 if there is none."""
        try:
            self(order)
        except Failed as e:
            return e.errno
        return 0

    def signal(self, sig):
        os.kill(self.pid, sig)


class Connection:
    """One between two actors, or of one with itself; server and client are the names of its sockets in them."""

    def __init__(self, lab, at_server, at_client, n):
        self.lab, self.at_server, self.at_client = lab, at_server, at_client
        self.server, self.client = "s%d" % n, "c%d" % n
        self.port = self.client_port = self.mark = None

    def ports(self):
        self.port = self.at_server("%s.getsockname()[1]" % self.server)
        self.client_port = self.at_client("%s.getsockname()[1]" % self.client)

    def exchange(self, n=64, crossed=False):
        """Bytes there and back; crossed: on their way at the same time."""
        order = "%s.sendall(b'x' * %d)", "take_any(%s, %d)"
        client, server = ([(who, text % (sock, n)) for text in order]
                          for who, sock in ((self.at_client, self.client), (self.at_server, self.server)))
        for who, text in (client[0], server[0], client[1], server[1]) if crossed else (
                client[0], server[1], server[0], client[1]):
            assert who(text) in (None, n)

    def speak(self, at, n=3000):
        """One end sends, the other one is silent."""
        ends = [(self.at_client, self.client), (self.at_server, self.server)]
        if at is not ends[0][0]:
            ends.reverse()
        ends[0][0]("%s.sendall(b'z' * %d)" % (ends[0][1], n))
        assert ends[1][0]("take_any(%s, %d)" % (ends[1][1], n)) == n

    def flows(self):
        """The service's rows of its two ends, the server's first."""
        want = [(self.port, self.client_port), (self.client_port, self.port)]
        rows = {(f["local_port"], f["remote_port"]): f for f in self.lab.flows("FAST")}
        return [rows[w] for w in want if w in rows]

    def kernel_bytes(self):
        """What the kernel's sockets of it have received so far, both together."""
        rows = self.lab.server.sockets(["( sport = :%d and dport = :%d ) or ( sport = :%d and dport = :%d )" % (
            self.port, self.client_port, self.client_port, self.port)])
        return sum(r.get("bytes_received", 0) for r in rows)

    def warm(self, timeout=5.0):
        """Exchanges until both ends are FAST, and the kernel sees nothing of one more."""
        if self.lab.plain:
            for _ in range(3):
                self.exchange()
            return

        def fast():
            self.exchange()
            return len(self.flows()) == 2

        wait_for(fast, timeout, "both ends FAST: %s" % self.lab.flows())
        self.mark = self.kernel_bytes()
        self.exchange()
        self.assert_fast()

    def is_fast(self):
        return len(self.flows()) == 2 and self.kernel_bytes() == self.mark

    def assert_fast(self):
        """Since it was warm the kernel's sockets have seen nothing of it."""
        if not self.lab.plain:
            assert self.is_fast(), "%s; kernel: %d, then %d" % (self.flows(), self.mark, self.kernel_bytes())

    def assert_ended_fast(self):
        """The same once FINs have gone through the kernel, each of which may count as a byte."""
        if not self.lab.plain:
            now = self.kernel_bytes()  # nothing, where Linux has forgotten both ends
            assert not now or 0 <= now - self.mark <= 2, "kernel: %d, then %d" % (self.mark, now)

    def close(self):
        self.at_client(self.client + ".close()")
        self.at_server(self.server + ".close()")


class Cast:
    """The actors of a lab."""

    def __init__(self, lab):
        self.lab = lab
        self.path = os.path.join(lab.dir, "actors.sock")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(self.path)
        os.chmod(self.path, 0o777)
        self.listener.listen(64)
        self.came, self.used, self.listeners = {}, 0, {}

    def start(self, name, accelerated=True, wrap=()):
        """A new one; accelerated unless the lab is plain."""
        argv = [*wrap, *(run_prefix() if accelerated and not self.lab.plain else []), PYTHON, ACTOR, self.path, name]
        proc = self.lab.spawn(self.lab.server, argv)
        self.lab.discard_output(proc)
        actor = self.arrived(name)
        actor.proc = proc
        return actor

    def arrived(self, name, timeout=15.0):
        """The one that starts, is forked, or executes, as that name."""
        end = time.monotonic() + timeout
        while name not in self.came:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.listener], [], [], left)[0]:
                raise AssertionError("no actor %s" % name)
            sock, _ = self.listener.accept()
            who, pid = sock.recv(1000).decode().split()
            self.came[who] = Actor(self, who, int(pid), sock)
        return self.came.pop(name)

    def forked(self, parent, name):
        """A new child of it, with all that it has."""
        parent("fork(%r)" % name)
        return self.arrived(name)

    def connect(self, at_server, at_client, addr="127.0.0.1", source=None, warm=True):
        self.used += 1
        c = Connection(self.lab, at_server, at_client, self.used)
        family = "socket.AF_INET6" if ":" in addr else "socket.AF_INET"
        if (at_server, addr) not in self.listeners:
            name = "l%d" % self.used
            at_server("%s = socket.create_server((%r, 0), family=%s, backlog=1000)" % (name, addr, family))
            self.listeners[at_server, addr] = name, at_server("%s.getsockname()[1]" % name)
        name, port = self.listeners[at_server, addr]
        at_client("%s = socket.socket(%s)" % (c.client, family))
        if source:
            at_client("%s.bind((%r, 0))" % (c.client, source))
        at_client("%s.connect((%r, %d))" % (c.client, addr, port))
        at_server("%s, _ = %s.accept()" % (c.server, name))
        for who, sock in ((at_client, c.client), (at_server, c.server)):
            who("%s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)" % sock)
        c.ports()
        if warm:
            c.warm()
        return c

    def close(self):
        self.listener.close()
