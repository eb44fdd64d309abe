# SPDX-License-Identifier: GPL-2.0-or-later
"""Local connections whose ends, or whose service, die, stand still, fork, execute or pass them on, and the
administrator's hand in them: at any moment, without a byte lost or changed that Linux would have delivered."""
import errno
import itertools
import os
import random
import signal
import struct
import threading
import time

import pytest

import test_firewall
from actors import Cast
from lab import scale, tool, wait_for
from test_adopt import finish
from test_local import PORT, cast, closed, pair, sizes  # noqa: F401
from test_return import PEER, PYTHON, results


def written(path):
    """What a process has told that it has written, if it came so far."""
    if not os.path.exists(path):
        return 0
    with open(path, "rb") as f:
        return struct.unpack("=Q", f.read(8).ljust(8, b"\0"))[0]


# ---- processes that die or stand still ----

@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_writer_killed(cast, sig):
    """The other end gets all that was written, then the end."""
    a, b = cast.start("a"), cast.start("b")
    rnd = random.Random(1)
    for i in range(scale(100, 12)):
        k, path = cast.forked(b, "k%d" % i), os.path.join(cast.lab.dir, "told%d" % i)
        c = cast.connect(a, k)
        k.begin("source(%s, %d, %r, %d)" % (c.client, i, path, rnd.choice((10, 1000, 16384))))
        a.begin("take(%s, %d, ALL)" % (c.server, i))
        time.sleep(rnd.random() * 0.05)
        k.signal(sig)
        got, end = a.result()
        assert end == "end" and written(path) <= got <= written(path) + 16384, (i, got, end, written(path))
        a("%s.close()" % c.server)
    closed(cast.lab)


def test_killed_while_nobody_reads(cast):
    """The same when the reader comes after the writer's death."""
    a, b = cast.start("a"), cast.start("b")
    for i in range(scale(40, 6)):
        k = cast.forked(b, "k%d" % i)
        c = cast.connect(a, k)
        n = k("fill(%s, %d, 0.1)" % (c.client, i))
        k.signal(signal.SIGKILL)
        time.sleep(0.01 * (i % 4))
        assert a("take(%s, %d, ALL)" % (c.server, i)) == [n, "end"]
        a("%s.close()" % c.server)
    closed(cast.lab)


def test_killed_in_a_dialogue(cast):
    """With bytes both ways the survivor sees a right beginning, and then the end or a reset."""
    a, b = cast.start("a"), cast.start("b")
    rnd = random.Random(2)
    for i in range(scale(100, 12)):
        k = cast.forked(b, "k%d" % i)
        c = cast.connect(*((a, k) if i & 1 else (k, a)))
        here, there = (c.server, c.client) if i & 1 else (c.client, c.server)
        k("background('give', give, %s, 1, ALL)" % there)
        k.begin("take(%s, 2, ALL, 5000)" % there)
        a("background('give', give, %s, 2, ALL)" % here)
        a.begin("take(%s, 1, ALL)" % here)
        time.sleep(rnd.random() * 0.05)
        k.signal(signal.SIGKILL)
        got, end = a.result()
        assert end in ("end", "ECONNRESET"), (i, got, end)
        assert a("joined('give')") in ("ECONNRESET", "EPIPE")
        a("%s.close()" % here)
    closed(cast.lab)


def test_reader_killed(cast):
    """The writer, which waits for room, learns of it."""
    a, b = cast.start("a"), cast.start("b")
    for i in range(scale(60, 8)):
        k = cast.forked(a, "k%d" % i)
        c = cast.connect(k, b)
        b.begin("give(%s, 1, ALL)" % c.client)
        if i & 1:
            k.begin("take(%s, 1, ALL)" % c.server)
        time.sleep(0.01 * (i % 5))
        k.signal(signal.SIGKILL)
        with pytest.raises(Exception) as e:
            b.result()
        assert e.value.errno in (errno.ECONNRESET, errno.EPIPE), e.value
        b("%s.close()" % c.client)
    closed(cast.lab)


def test_reader_stopped(pair, cast):
    """It is told to wait, others are not, and nothing is lost."""
    c, a, b = pair
    d = cast.connect(cast.start("d"), b)
    a.signal(signal.SIGSTOP)
    n = b("fill(%s, 1)" % c.client)
    assert 1 << 16 <= n < 64 << 20, n
    d.at_server("background('echo', echo, %s)" % d.server)
    work = sizes(8, 40, 17)
    assert b("dialogue(%s, 3, %r)" % (d.client, work)) == [sum(work), ""]
    assert b("fill(%s, 1, 0.1, %d)" % (c.client, n)) == 0
    a.signal(signal.SIGCONT)
    assert a("take(%s, 1, %d)" % (c.server, n)) == [n, ""]
    c.assert_fast()
    c.exchange()


@pytest.mark.parametrize("who", ["reader", "writer"])
def test_stopped_then_released(pair, who):
    """A connection full of bytes goes back to Linux while one of its programs stands still."""
    c, a, b = pair
    n = b("fill(%s, 1)" % c.client)
    stopped = a if who == "reader" else b
    stopped.signal(signal.SIGSTOP)
    if not c.lab.plain:
        assert c.lab.tapas("release", "--all", "--json")["released"] >= 1
        time.sleep(0.3)
    stopped.signal(signal.SIGCONT)
    assert a("take(%s, 1, %d)" % (c.server, n)) == [n, ""]
    for _ in range(10):
        c.exchange()
    b("%s.shutdown(1)" % c.client)
    assert a("take(%s, 1, ALL)" % c.server) == [0, "end"]


# ---- the service ----

def streams(lab, total, size):
    """Conversations among two programs, all of them begun: (server, client)."""
    server = lab.run_server([tool("talk"), "server", PORT], ready="ready")
    client = lab.run_server([tool("talk"), "client", "127.0.0.1", PORT, total, total, size, 77, 90])
    if lab.plain:
        time.sleep(0.3)
    else:
        wait_for(lambda: lab.status()["fast"] >= total, 15, "%d FAST ends: %s" % (total, lab.status()))
    return server, client


def stop(lab, sig=signal.SIGTERM):
    if not lab.plain:
        rc = lab.stop_service(sig)
        assert rc == (0 if sig == signal.SIGTERM else -sig), lab.log()[-3000:]


def test_service_stops(make_lab):
    """SIGTERM in the middle of streams: all go on in Linux."""
    lab = make_lab("shared")
    server, client = streams(lab, 40, scale(8 << 20, 3 << 20))
    stop(lab)
    here, there = results(client, 120), finish(server)
    assert here["ok"] == there["ok"] == 40 and here["bad"] == there["bad"] == 0, (here, there)


@pytest.mark.parametrize("stopped", ["", "reader", "writer"])
def test_service_stops_at_rest(pair, stopped):
    """What lies in the buffers, both ways, is read after its end, also by a program that stood still at that time."""
    c, a, b = pair
    n = b("fill(%s, 1)" % c.client)
    assert a("give(%s, 2, 30000)" % c.server) == 30000
    who = {"": None, "reader": a, "writer": b}[stopped]
    if who:
        who.signal(signal.SIGSTOP)
    stop(c.lab)
    if who:
        who.signal(signal.SIGCONT)
    assert a("take(%s, 1, %d)" % (c.server, n)) == [n, ""]
    assert b("take(%s, 2, 30000)" % c.client) == [30000, ""]
    for _ in range(10):
        c.exchange()
    b("give(%s, 1, 1000); %s.shutdown(1)" % (c.client, c.client))
    assert a("take(%s, 1, ALL)" % c.server) == [1000, "end"]


def test_service_killed(make_lab):
    """SIGKILL in the middle of streams: they go on in Linux; those where a FIN is ahead of bytes that were not moved, and
    those in the middle of changing over, end in a reset, but no end comes too early, and no byte is wrong."""
    lab = make_lab("shared")
    server, client = streams(lab, 40, scale(8 << 20, 3 << 20))
    time.sleep(0.2)
    stop(lab, signal.SIGKILL)
    here, there = results(client, 120), finish(server)
    if lab.plain:
        assert here["ok"] == there["ok"] == 40, (here, there)
        return
    assert min(here["ok"], there["ok"]) >= 20, (here, there)
    for r in (here, there):
        assert "wrong" not in r["error"] and "early" not in r["error"] and "not finished" not in r["error"], (here, there)


def test_service_killed_at_rest(pair):
    """Nothing in the buffers: both programs find that the connection goes on, or each of them that it is at its end."""
    c, a, b = pair
    stop(c.lab, signal.SIGKILL)
    a("background('echo', echo, %s)" % c.server)
    assert b("dialogue(%s, 3, [1, 1000, 100000])" % c.client) == [101001, ""]
    b("%s.shutdown(1)" % c.client)
    assert a("joined('echo')") == 101001


def test_service_starts_again(pair, cast):
    """Connections of before and after a restart of the service, in the same programs."""
    c, a, b = pair
    if cast.lab.plain:
        pytest.skip("needs the service")
    cast.lab.stop_service()
    c.exchange()
    cast.lab.start_service()
    c.exchange()
    wait_for(lambda: cast.lab.tapas("status", "--json")["apps"] >= 0, 5, "service")
    d = cast.connect(cast.start("d"), cast.start("e"))
    d.exchange()
    c.exchange()
    d.assert_fast()


# ---- the administrator ----

class Conversation(test_firewall.Conversation):
    """Both ends are programs of the lab that speak every 5 ms by themselves."""

    def __init__(self, lab):
        self.server = lab.run_server([PYTHON, PEER, "ticker", PORT, "5"], ready="ready")
        self.client = lab.run_server([PYTHON, PEER, "ticker", PORT, "5", "127.0.0.1"], ready="ready")
        self.port = int(self.client.head.split()[1])
        self.at_client, self.at_server, self.error = [], [], {}
        for proc, heard, name in ((self.client, self.at_client, "client"), (self.server, self.at_server, "server")):
            threading.Thread(target=self.listen, args=(proc, heard, name), daemon=True).start()
        self.lab = lab
        if not lab.plain:
            wait_for(lambda: len(self.flows()) == 2, 5, "both ends FAST: %s" % lab.flows())
        time.sleep(0.1)
        self.speaking(time.monotonic())

    def listen(self, proc, heard, name):
        # its first words may have come with the one that it is ready
        for line in itertools.chain(proc.head.encode().splitlines(), proc.stdout):
            f = line.decode().split()
            if f[0] == "R" and f[2:] and f[2] != "eof":
                heard.append((float(f[1]), bytes.fromhex(f[2])))
            elif f[0] in "RE" and f[2:]:
                self.error[name] = 0 if f[0] == "R" else int(f[2])
                return

    def flows(self):
        return self.lab.flows("FAST", self.port)


@pytest.mark.parametrize("port", ["dport", "sport"])
@pytest.mark.parametrize("hook", ["input", "output"])
def test_drop_rule(make_lab, hook, port):
    """A new rule that drops one direction, or the other one, bites. When it goes, the same connection goes on."""
    lab = make_lab("shared")
    c = Conversation(lab)
    lab.server.nft("table inet stop { chain c { type filter hook %s priority 0; tcp %s %d counter drop; } }" % (
        hook, port, PORT))
    t = time.monotonic()
    time.sleep(1.0)
    # acknowledgements are dropped, too: what one end has sent when the rule comes may be heard, no more
    c.silent_since(t + 0.2, ["server" if port == "dport" else "client"])
    assert not c.error
    lab.server.run(["nft", "delete", "table", "inet", "stop"])
    c.speaking(time.monotonic())
    c.in_order()


def test_reject_rule(make_lab):
    lab = make_lab("shared")
    c = Conversation(lab)
    lab.server.nft("table inet stop { chain c { type filter hook input priority 0; tcp dport %d reject with tcp reset; } }" %
                   PORT)
    wait_for(lambda: c.error.get("client"), 5, "the client learns of the reset")
    assert c.error["client"] == errno.ECONNRESET
    lab.server.run(["nft", "delete", "table", "inet", "stop"])


def test_rule_about_others(make_lab):
    """A rule that does not meet it lets it go on, in order; it may be local again."""
    lab = make_lab("shared")
    c = Conversation(lab)
    for i in range(scale(50, 10)):
        lab.server.nft("table inet other { chain c { type filter hook input priority 0; tcp dport %d drop; } }" % (PORT + 1 + i))
        c.speaking(time.monotonic())
    c.in_order()
    assert not c.error


@pytest.mark.parametrize("end", ["server", "client"])
def test_killed_by_ss(make_lab, end):
    lab = make_lab("shared")
    c = Conversation(lab)
    what = "sport = :%d and dport = :%d" % ((PORT, c.port) if end == "server" else (c.port, PORT))
    lab.server.run(["ss", "-K", *what.split()])
    wait_for(lambda: len(c.error) == 2, 5, "both ends learn of it: %s" % c.error)
    other = "client" if end == "server" else "server"
    assert c.error[other] == errno.ECONNRESET
    assert c.error[end] in (errno.ECONNABORTED, errno.ECONNRESET, errno.EPIPE)
    closed(lab)


# ---- several processes ----

def test_fork(pair, cast):
    """Parent and child take turns at the same end; the end of the stream comes when both have closed it."""
    c, a, b = pair
    k, at, back = cast.forked(a, "k"), 0, 0
    for i in range(scale(60, 12)):
        who = (a, k)[i & 1]
        assert b("give(%s, 1, 20000, at=%d)" % (c.client, at)) == 20000
        assert who("take(%s, 1, 20000, at=%d)" % (c.server, at)) == [20000, ""]
        assert who("give(%s, 2, 7000, at=%d)" % (c.server, back)) == 7000
        at, back = at + 20000, back + 7000
    assert b("take(%s, 2, %d)" % (c.client, back)) == [back, ""]
    a("%s.close()" % c.server)
    assert k("give(%s, 3, 5000)" % c.server) == 5000
    assert b("take(%s, 3, 5000)" % c.client) == [5000, ""]
    k("%s.close()" % c.server)
    assert b("take(%s, 3, ALL)" % c.client) == [0, "end"]
    b("%s.close()" % c.client)
    closed(cast.lab)


def test_fork_gives_the_ends_away(cast):
    """One process makes the connection; then the parent has one end and the child the other one."""
    a = cast.start("a")
    for i in range(scale(30, 6)):
        c = cast.connect(a, a, warm=i % 2 == 0)
        k = cast.forked(a, "k%d" % i)
        k("%s.close()" % c.client)
        a("%s.close()" % c.server)
        work = sizes(i, 20, 18)
        k("background('echo', echo, %s)" % c.server)
        assert a("dialogue(%s, 5, %r)" % (c.client, work)) == [sum(work), ""]
        a("%s.close()" % c.client)
        assert k("joined('echo')") == sum(work)
        k.signal(signal.SIGKILL)
        a("os.waitpid(%d, 0)" % k.pid)
    closed(cast.lab)


def test_child_reads_parent_writes(pair, cast):
    """At the same time, each its direction."""
    c, a, b = pair
    k, n = cast.forked(a, "k"), scale(64 << 20, 8 << 20)
    k.begin("take(%s, 1, %d)" % (c.server, n))
    a("background('give', give, %s, 2, %d)" % (c.server, n))
    b("background('give', give, %s, 1, %d)" % (c.client, n))
    assert b("take(%s, 2, %d)" % (c.client, n)) == [n, ""]
    assert k.result() == [n, ""]
    assert a("joined('give')") == n


def test_child_looks_for_what_its_parent_reads(cast):
    """One of them receives, the other one sends; what has arrived both see at once."""
    a, b = cast.start("a"), cast.start("b")
    for i in range(scale(20, 10)):
        c = cast.connect(a, b)
        k = cast.forked(a, "k%d" % i)
        assert b("give(%s, 1, 100)" % c.client) == 100 and a("take(%s, 1, 100)" % c.server) == [100, ""]
        assert k("give(%s, 2, 100)" % c.server) == 100 and b("take(%s, 2, 100)" % c.client) == [100, ""]
        assert b("give(%s, 1, 1000, at=100)" % c.client) == 1000
        assert a("wait_unread(%s, 1000)" % c.server) == 1000
        k("import select; p = select.poll(); p.register(%s, select.POLLIN)" % c.server)
        assert k("[e for _, e in p.poll(0)]") == [1], i
        assert a("take(%s, 1, 1000, at=100)" % c.server) == [1000, ""]
        k.signal(signal.SIGKILL)


@pytest.mark.parametrize("who", ["server", "client"])
def test_exec(pair, cast, who):
    """Another image goes on, and finds what was not read, and what it had sent arrives."""
    c, a, b = pair
    (x, mine), (y, other) = ((a, c.server), (b, c.client))[::1 if who == "server" else -1]
    assert y("give(%s, 1, 50000)" % other) == 50000
    assert x("take(%s, 1, 1000)" % mine) == [1000, ""]
    assert x("give(%s, 2, 30000)" % mine) == 30000
    x.begin("execute('z', %s)" % mine)
    z = cast.arrived("z")
    assert z("take(s0, 1, 49000, at=1000)") == [49000, ""]
    assert y("take(%s, 2, 30000)" % other) == [30000, ""]
    z("background('echo', echo, s0)")
    work = sizes(11, 30, 18)
    assert y("dialogue(%s, 5, %r)" % (other, work)) == [sum(work), ""]
    y("%s.shutdown(1)" % other)
    assert z("joined('echo')") == sum(work)


def hand_over(cast, a, d, sock):
    """@a passes it to @d, who has it as ss[0]."""
    path = os.path.join(cast.lab.dir, "pass.sock")
    d("u = unix_listener(%r)" % path)
    d.begin("(ss := get_from(u)) and None")
    a("pass_to(%r, %s)" % (path, sock))
    d.result()


@pytest.mark.parametrize("library", [True, False], ids=["with the library", "without"])
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "closed"])
def test_passed(pair, cast, library, keep):
    """A descriptor goes to another program, which may be without the library, with what was not read."""
    c, a, b = pair
    d = cast.start("d", accelerated=library)
    assert b("give(%s, 1, 50000)" % c.client) == 50000
    assert a("wait_unread(%s, 50000)" % c.server) == 50000
    hand_over(cast, a, d, c.server)
    if not keep:
        a("%s.close()" % c.server)
    assert d("take(ss[0], 1, 50000)") == [50000, ""]
    d("background('echo', echo, ss[0])")
    work = sizes(12, 30, 18)
    assert b("dialogue(%s, 5, %r)" % (c.client, work)) == [sum(work), ""]
    b("%s.shutdown(1)" % c.client)
    assert d("joined('echo')") == sum(work)


ENDS = {
    "closed": lambda c: c.at_client("%s.close()" % c.client),
    "half closed": lambda c: c.at_client("%s.shutdown(1)" % c.client),
    "both half closed": lambda c: (c.at_server("%s.shutdown(1)" % c.server),
                                   c.at_client("%s.recv(1); %s.shutdown(1)" % (c.client, c.client))),
    "both closed": lambda c: (c.at_server("%s.shutdown(1)" % c.server),
                              c.at_client("%s.recv(1); %s.close()" % (c.client, c.client))),
    "shut down by its reader": lambda c: c.at_server("%s.shutdown(2)" % c.server),
}


@pytest.mark.parametrize("library", [True, False], ids=["with the library", "without"])
@pytest.mark.parametrize("how", list(ENDS))
def test_passed_after_the_other_end_has_closed(pair, cast, how, library):
    """What is left to read goes along."""
    c, a, b = pair
    d = cast.start("d", accelerated=library)
    assert b("give(%s, 1, 50000)" % c.client) == 50000
    ENDS[how](c)
    assert a("wait_unread(%s, 50000)" % c.server) == 50000
    hand_over(cast, a, d, c.server)
    a("%s.close()" % c.server)
    assert d("take(ss[0], 1, ALL)") == [50000, "end"]
    if how == "half closed":
        assert d("give(ss[0], 2, 30000)") == 30000
        d("ss[0].shutdown(1)")
        assert b("take(%s, 2, ALL)" % c.client) == [30000, "end"]
    elif how != "closed":
        assert d.errno("ss[0].send(b'x')") == errno.EPIPE


@pytest.mark.parametrize("how", [1, 2], ids=["half closed", "shut down"])
def test_image_without_the_library_after_shutdown(pair, cast, how):
    """It need not wait until the other end has read what was sent before."""
    c, a, b = pair
    assert b("give(%s, 1, 50000)" % c.client) == 50000
    assert a("wait_unread(%s, 50000)" % c.server) == 50000
    a("%s.shutdown(1)" % c.server)
    assert b("%s.recv(1)" % c.client) == ""
    b("%s.shutdown(%d)" % (c.client, how))
    k = cast.forked(b, "k")
    k.begin("os.environ.pop('LD_PRELOAD', None); execute('z', %s)" % c.client)
    z = cast.arrived("z")
    assert z.errno("s0.send(b'x')") == errno.EPIPE
    assert z("s0.recv(1)") == ""
    assert a("take(%s, 1, ALL)" % c.server) == [50000, "end"]


def test_closed_by_an_image_that_never_used_it(pair, cast):
    """The other end hears of it, also if it only looks now and then and never waits."""
    c, a, b = pair
    a.begin("execute('z', %s)" % c.server)
    cast.arrived("z")("s0.close()")
    b("import select; p = select.poll(); p.register(%s, select.POLLIN)" % c.client)
    wait_for(lambda: b("p.poll(0)"), 10, "the end of the stream", step=0.001)
    assert b("take(%s, 1, ALL)" % c.client) == [0, "end"]
