# SPDX-License-Identifier: GPL-2.0-or-later
"""Local connections: both ends on this host, and in programs with the library. Where the ends may be, what they may
do to the stream and to each other, and who else may have a hand in it. Without the service the same must be said by
Linux's loopback (TAPAS_PLAIN=1)."""
import errno
import random
import select
import signal
import time

import pytest

from actors import Cast
from lab import scale, tool, wait_for
from test_adopt import finish
from test_return import Releasing, ReleasingSome, results

SECOND = "10.77.%d.9"  # another address of the service's host
ADDRESSES = ["127.0.0.1", "::1", "an interface's"]
PLACES = ["two processes", "two threads", "one thread"]
PORT = 9000


@pytest.fixture
def cast(make_lab):
    c = Cast(make_lab("shared"))
    yield c
    c.close()


@pytest.fixture
def pair(cast):
    """A local connection that is FAST, between two actors: (connection, at the server, at the client)."""
    a, b = cast.start("a"), cast.start("b")
    return cast.connect(a, b), a, b


def sizes(seed, n, most):
    """Random sizes, small ones as often as large ones."""
    rnd = random.Random(seed)
    return [rnd.randint(1, 1 << rnd.randint(1, most)) for _ in range(n)]


def closed(lab):
    """No flow of it is left."""
    if not lab.plain:
        wait_for(lambda: lab.status()["fast"] + lab.status()["closing"] == 0, 5, "no flow left: %s" % lab.flows())
        assert lab.counters()["app_bad_record"] == 0, lab.counters()


# ---- adoption ----

MANNERS = {
    "the client asks": lambda c: c.exchange(),
    "both speak": lambda c: c.exchange(crossed=True),
    "the client sends": lambda c: c.speak(c.at_client),
    "the server sends": lambda c: c.speak(c.at_server),
}


@pytest.mark.parametrize("place", PLACES[::2])
@pytest.mark.parametrize("manner", list(MANNERS))
def test_adopted(cast, manner, place):
    """It is local after some exchanges, whatever the manner in which the ends talk."""
    a = cast.start("a")
    b = a if place == "one thread" else cast.start("b")
    for _ in range(scale(30, 5)):
        c = cast.connect(a, b, warm=False)
        n = 0
        while n < 60 and not (n and (cast.lab.plain or len(c.flows()) == 2)):
            MANNERS[manner](c)
            n += 1
        assert n < 60, cast.lab.log()[-3000:]
        c.warm()
        c.close()


def test_no_room_for_more_memory(cast):
    """Who cannot map what the two would share has the connection by Linux."""
    a, b, d = (cast.start(name) for name in "abd")
    cast.connect(d, b)  # b is known to the service
    b("import resource; vm = int(open('/proc/self/statm').read().split()[0]) * 4096")
    b("resource.setrlimit(resource.RLIMIT_AS, (vm + (64 << 20),) * 2)")
    c = cast.connect(a, b, warm=False)
    for k in range(60):
        c.exchange(1000 + k)
    a("background('echo', echo, %s)" % c.server)
    work = sizes(31, 30, 18)
    assert b("dialogue(%s, 5, %r)" % (c.client, work)) == [sum(work), ""]
    b("%s.shutdown(1)" % c.client)
    assert a("joined('echo')") == sum(work)
    if cast.lab.config["service"]["local"] == "direct" and not cast.lab.plain:
        assert not c.flows() and cast.lab.counters()["returned"] > 0, cast.lab.flows()


@pytest.mark.parametrize("size", [16, 5000])
def test_adopted_at_work(cast, size):
    """The same where each end waits for the other one in a call that blocks."""
    a, b, local, total = cast.start("a"), cast.start("b"), 0, scale(30, 6)
    for i in range(total):
        c = cast.connect(a, b, warm=False)
        a("background('e%d', echo, %s)" % (i, c.server))
        assert b("dialogue(%s, 1, [%d] * 300)" % (c.client, size)) == [300 * size, ""]
        local += len(c.flows()) == 2 if not cast.lab.plain else 1
        b("%s.close()" % c.client)
        assert a("joined('e%d')" % i) == 300 * size
    assert local >= total // 2, "%d of %d\n%s" % (local, total, cast.lab.log()[-3000:])  # the ends must ask at the same time


# ---- places ----

@pytest.mark.parametrize("addr", ADDRESSES)
@pytest.mark.parametrize("place", PLACES)
def test_echo(cast, place, addr):
    """Random sizes there and back, by two processes, two threads of one, or one that has both ends."""
    source = None
    if addr == ADDRESSES[2]:
        source = SECOND % cast.lab.n
        cast.lab.server.run(["ip", "addr", "add", source + "/24", "dev", "nic0"])
        addr = cast.lab.addr
    a = cast.start("a")
    b = cast.start("b") if place == "two processes" else a
    c = cast.connect(a, b, addr, source)
    work = sizes(3, scale(300, 60), 19)
    if place == "one thread":
        assert a("alone(%s, %s, 5, %r)" % (c.client, c.server, work)) == [sum(work), ""]
        c.assert_fast()
    else:
        a("background('echo', echo, %s)" % c.server)
        assert b("dialogue(%s, 5, %r)" % (c.client, work)) == [sum(work), ""]
        c.assert_fast()
        b("%s.shutdown(1)" % c.client)
        assert a("joined('echo')") == sum(work)
        c.assert_ended_fast()
    c.close()
    closed(cast.lab)


def test_one_thread_blocking(cast):
    """A thread that has both ends, and waits at each call, never waits for itself: not at the first bytes either."""
    a = cast.start("a")
    for i in range(scale(200, 20)):
        c = cast.connect(a, a, warm=False)
        for k in range(8):
            a("%s.sendall(b'q' * %d)" % (c.client, 1 + 700 * k))
            assert a("take_any(%s, %d)" % (c.server, 1 + 700 * k)) == 1 + 700 * k
            a("%s.sendall(b'r' * %d)" % (c.server, 1 + 300 * k))
            assert a("take_any(%s, %d)" % (c.client, 1 + 300 * k)) == 1 + 300 * k
        if i % 5 == 0:
            c.warm()
        a("%s.shutdown(1)" % (c.server if i & 1 else c.client))
        assert a("%s.recv(1)" % (c.client if i & 1 else c.server)) == ""
        c.close()
    closed(cast.lab)


def test_capacity_of_one_thread(cast):
    """It may write much before it must read, though not as much as on Linux (4 MB), and gets it all."""
    a = cast.start("a")
    c = cast.connect(a, a)
    for sock, other, seed in ((c.client, c.server, 1), (c.server, c.client, 2)):
        n = a("fill(%s, %d)" % (sock, seed))
        assert 400000 <= n < 64 << 20, n
        assert a("take(%s, %d, %d)" % (other, seed, n)) == [n, ""]
    c.assert_fast()


@pytest.mark.parametrize("how, most", [("move_file", 262144), ("move_pipe", 60000)])
def test_file_to_full_kernel(cast, how, most):
    """Both ends are FAST while the kernel is still full of what was sent before: who must not wait there does not."""
    a = cast.start("a")
    for i in range(scale(30, 8)):
        c = cast.connect(a, a, warm=False)
        for s in (c.client, c.server):
            a("%s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)" % s)
            a("%s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4608)" % s)
        sent, got = a("fill(%s, 7, 0.05)" % c.client), 0
        for _ in range(3):
            a("%s.sendall(b'r' * 64)" % c.server)
            assert a("take_any(%s, 64)" % c.client) == 64
            assert a("take(%s, 7, 64, at=%d)" % (c.server, got)) == [64, ""]
            got += 64
        a("%s.setblocking(False)" % c.client)
        for n in (most, 1000):
            moved, taken = a("%s(%s, 7, %d, %d)" % (how, c.client, n, sent))
            assert moved == taken
            sent += moved
        assert a("take(%s, 7, %d, at=%d)" % (c.server, sent - got, got)) == [sent - got, ""]
        a("%s.setblocking(True)" % c.client)
        c.warm()
        c.close()


@pytest.mark.parametrize("how", ["unread", "linger"])
def test_last_words(cast, how):
    """What is sent right before a reset arrives, as there is room for it: an alert of TLS, for one."""
    a, b = cast.start("a"), cast.start("b")
    for i in range(scale(200, 30)):
        c = cast.connect(a, b)
        if how == "unread":
            a("%s.sendall(b'never read')" % c.server)
            b("wait_unread(%s, 10)" % c.client)
        else:
            b("%s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))" % c.client)
        a.begin("take(%s, 3, 5001)" % c.server)
        b("(give(%s, 3, 5000), %s.close())" % (c.client, c.client))
        assert a.result() == [5000, "ECONNRESET"], i
        a("%s.close()" % c.server)
    closed(cast.lab)


def test_connected_to_itself(cast):
    """A socket whose other end is itself."""
    a = cast.start("a")
    a("s = socket.socket(); s.bind(('127.0.0.1', 0)); s.connect(s.getsockname())")
    for i in range(40):
        assert a("give(s, %d, 5000)" % i) == 5000
        assert a("take(s, %d, 5000)" % i) == [5000, ""]
    a("s.shutdown(1)")
    assert a("s.recv(10)") == ""
    a("s.close()")
    closed(cast.lab)


def all_right(lab, total, here, there):
    """No byte, no event and no errno that Linux would not have given; @total conversations, or however many."""
    assert here["bad"] == here["odd"] == there["bad"] == there["odd"] == 0, (here, there)
    assert total in (here["ok"], 0) and here["ok"] <= there["ok"], (here, there)
    if not lab.plain:
        c = lab.counters()
        assert c["local_pairs"] >= here["ok"] // 2 and c["return_failed"] == 0, c
    closed(lab)


def conversing(lab, total, mean, wait="lt", turns=(), at_once=12):
    """Two programs that have such conversations: (server, client). total 0: until they are told to end."""
    server = lab.run_server([tool("talk"), "server", PORT, "wait=" + wait], ready="ready")
    return server, lab.run_server([tool("talk"), "client", "127.0.0.1", PORT, total, at_once, mean, 41, 90, *turns])


@pytest.mark.parametrize("turns", [[], ["turns=1"]], ids=["both at once", "in turn"])
@pytest.mark.parametrize("wait", ["recv", "lt", "et", "oneshot"])
def test_conversations(make_lab, wait, turns):
    """Many at once, waited for in every way."""
    lab, total = make_lab("shared"), scale(2000, 100)
    server, client = conversing(lab, total, 40000 if turns else 300000, wait, turns)
    here = results(client, 120)
    all_right(lab, total, here, finish(server))


@pytest.mark.parametrize("turns", [[], ["turns=1"]], ids=["both at once", "in turn"])
@pytest.mark.parametrize("wait", ["recv", "lt", "et", "oneshot"])
def test_conversations_released(make_lab, wait, turns):
    """The same while single ones go back to Linux, where they become local again, at any moment."""
    lab = make_lab("shared")
    server, client = conversing(lab, 0, 400000 if turns else 2 << 20, wait, turns)
    with ReleasingSome(lab, 0.01) as r:
        r.times(scale(1000, 30), scale(300, 40))
    client.send_signal(signal.SIGTERM)
    here = results(client, 90)
    all_right(lab, 0, here, finish(server))


def test_large_streams_released(make_lab):
    """All of them go back again and again, full buffers and all."""
    lab = make_lab("shared")
    server, client = conversing(lab, 0, 16 << 20, at_once=6)
    with Releasing(lab, 0.05):
        time.sleep(1)
        wait_for(lambda: lab.plain or lab.counters()["returned"] >= scale(500, 50), 60, "returns")
    client.send_signal(signal.SIGTERM)
    here = results(client, 90)
    all_right(lab, 0, here, finish(server))


def test_many_at_once(cast):
    """Five hundred of one pair of programs, all of them local and alive."""
    n, size = 500, 3000
    a, b = cast.start("a"), cast.start("b")
    port = a("(l := socket.create_server(('127.0.0.1', 0), backlog=1000)).getsockname()[1]")
    b("cs = [socket.create_connection(('127.0.0.1', %d)) for _ in range(%d)]" % (port, n))
    a("ss = [l.accept()[0] for _ in range(%d)]" % n)
    at = 0

    def exchanged():
        nonlocal at
        for x, xs, y, ys in ((b, "cs", a, "ss"), (a, "ss", b, "cs")):
            x("[give(s, i, %d, at=%d) for i, s in enumerate(%s)] and None" % (size, at, xs))
            got = y("[x for x in (take(s, i, %d, at=%d) for i, s in enumerate(%s)) if x != [%d, '']]" % (
                size, at, ys, size))
            assert got == [], got[:3]
        at += size
        return at >= 3 * size if cast.lab.plain else cast.lab.status()["fast"] == 2 * n

    wait_for(exchanged, 30, "%d FAST ends" % (2 * n))
    assert exchanged()
    if not cast.lab.plain:
        assert cast.lab.counters()["local_pairs"] >= n
    b("[s.close() for s in cs] and None")
    assert a("[s.recv(1) for s in ss if s.recv(1)]") == []
    a("[s.close() for s in ss] and None")
    closed(cast.lab)


# ---- ends of the stream ----

def test_half_close(pair):
    """Either end may stop to send, and goes on to receive."""
    c, a, b = pair
    assert b("give(%s, 1, 100000); %s.shutdown(1)" % (c.client, c.client)) is None
    assert a("take(%s, 1, ALL)" % c.server) == [100000, "end"]
    b.begin("take(%s, 2, ALL)" % c.client)
    n = 5 << 20
    assert a("give(%s, 2, %d)" % (c.server, n)) == n
    c.assert_ended_fast()
    a("%s.shutdown(1)" % c.server)
    assert b.result() == [n, "end"]
    assert b.errno("give(%s, 1, 1)" % c.client) == errno.EPIPE
    c.close()
    closed(c.lab)


def test_close_with_unread_data(pair):
    """The other end can read what it has been sent, and then learns of the reset."""
    c, a, b = pair
    assert a("give(%s, 1, 1000)" % c.server) == b("give(%s, 2, 2000)" % c.client) - 1000 == 1000
    assert a("wait_unread(%s, 2000)" % c.server) == 2000
    assert b("wait_unread(%s, 1000)" % c.client) == 1000
    b("%s.close()" % c.client)
    assert a("take(%s, 2, ALL)" % c.server) == [2000, "ECONNRESET"]
    assert a.errno("give(%s, 1, 1)" % c.server) == errno.EPIPE
    a("%s.close()" % c.server)
    closed(c.lab)


@pytest.mark.parametrize("at", ["rest", "work"])
def test_reset_by_linger(pair, at):
    c, a, b = pair
    if at == "work":
        a.begin("take(%s, 1, ALL)" % c.server)
        b("give(%s, 1, 10 << 20)" % c.client)
    b("%s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); %s.close()" % (c.client, c.client))
    got, end = a.result() if at == "work" else a("take(%s, 1, ALL)" % c.server)
    assert end == "ECONNRESET" and got <= 10 << 20
    a("%s.close()" % c.server)
    closed(c.lab)


@pytest.mark.parametrize("who", ["half closed", "other end half closed"])
def test_reset_after_half_close(pair, who):
    """Who is left hears of the reset, and not of an end in order."""
    c, a, b = pair
    b("%s.shutdown(1)" % c.client)
    assert a("%s.recv(1)" % c.server) == ""
    (x, gone), (y, left) = ((b, c.client), (a, c.server))[::1 if who == "half closed" else -1]
    x("%s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); %s.close()" % (gone, gone))
    y("import select; p = select.poll(); p.register(%s, select.POLLIN)" % left)
    wait_for(lambda: y("[e for _, e in p.poll(0)]") == [select.POLLIN | select.POLLERR | select.POLLHUP], 5, "an error")
    error = errno.EPIPE if who == "half closed" else errno.ECONNRESET  # as Linux has it
    assert y("%s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)" % left) == error
    y("%s.close()" % left)
    closed(c.lab)


def test_write_to_a_closed_end(pair):
    c, a, b = pair
    assert b("give(%s, 1, 70000)" % c.client) == 70000
    b("%s.close()" % c.client)
    assert a("take(%s, 1, ALL)" % c.server) == [70000, "end"]
    assert a("give(%s, 2, 10)" % c.server) == 10
    wait_for(lambda: a.errno("give(%s, 2, 10)" % c.server) == errno.EPIPE, 5, "EPIPE")
    a("%s.close()" % c.server)
    closed(c.lab)


@pytest.mark.parametrize("how", [(2,), (0, 1), (1, 0)], ids=["at once", "for reading first", "for writing first"])
def test_write_to_an_end_that_is_shut_down(pair, how):
    """It has refused to read and to write: bytes for it end the connection at both ends."""
    c, a, b = pair
    assert b("give(%s, 1, 70000)" % c.client) == 70000
    for h in how:
        b("%s.shutdown(%d)" % (c.client, h))
    assert a("take(%s, 1, ALL)" % c.server) == [70000, "end"]
    assert b("take(%s, 2, ALL)" % c.client) == [0, "end"]
    assert a("give(%s, 2, 10)" % c.server) == 10
    wait_for(lambda: b("take(%s, 2, ALL)" % c.client) == [0, "ECONNRESET"], 5, "ECONNRESET", step=0.01)
    wait_for(lambda: a.errno("give(%s, 2, 10)" % c.server) == errno.EPIPE, 5, "EPIPE")
    c.close()
    closed(c.lab)


def test_bytes_for_an_end_that_is_shut_down_for_reading(pair):
    """As long as it may send, they arrive, and can be read."""
    c, a, b = pair
    b("%s.shutdown(0)" % c.client)
    assert a("give(%s, 2, 1000)" % c.server) == 1000
    assert b("wait_unread(%s, 1000)" % c.client) == 1000
    assert b("take(%s, 2, 1000)" % c.client) == [1000, ""]
    assert b("give(%s, 1, 1000)" % c.client) == 1000
    assert a("take(%s, 1, 1000)" % c.server) == [1000, ""]


def test_close_with_much_unsent(pair):
    """What was written before close() arrives, however slowly it is read."""
    c, a, b = pair
    n = b("fill(%s, 1)" % c.client)
    b("%s.close()" % c.client)
    assert a("take(%s, 1, ALL, 3000)" % c.server) == [n, "end"]
    a("%s.close()" % c.server)
    closed(c.lab)


# ---- other ends ----

def test_other_end_without_library(cast):
    """It stays with Linux, and works, from either side."""
    a, b = cast.start("a"), cast.start("b", accelerated=False)
    for x, y in ((a, b), (b, a)):
        c = cast.connect(x, y, warm=False)
        for _ in range(40):
            c.exchange()
        x("background('echo', echo, %s)" % c.server)
        work = sizes(4, 30, 18)
        assert y("dialogue(%s, 5, %r)" % (c.client, work)) == [sum(work), ""]
        assert cast.lab.plain or not c.flows()
        y("%s.close()" % c.client)
        assert x("joined('echo')") == sum(work)
        x("%s.close()" % c.server)


def test_other_end_is_late(cast):
    """One end has sent a lot, and asked for more than once, before the other one touches the connection."""
    a, b = cast.start("a"), cast.start("b")
    c = cast.connect(a, b, warm=False)
    for i in range(20):
        assert b("give(%s, 1, 9000, at=%d)" % (c.client, 9000 * i)) == 9000
    assert a("take(%s, 1, 180000)" % c.server) == [180000, ""]
    c.warm()
    c.close()
    closed(cast.lab)


def test_never_accepted(cast):
    """It sends, closes and is gone before anybody accepts."""
    a, b = cast.start("a"), cast.start("b")
    port = a("(l := socket.create_server(('127.0.0.1', 0))).getsockname()[1]")
    for i in range(10):
        b("c = socket.create_connection(('127.0.0.1', %d)); give(c, %d, 50000); c.close()" % (port, i))
    for i in range(10):
        a("s, _ = l.accept()")
        assert a("take(s, %d, ALL)" % i) == [50000, "end"]
    a("s.close()")
    closed(cast.lab)


def test_different_users(make_lab):
    lab = make_lab("shared", config={"service": {"group": "nogroup"}})
    cast = Cast(lab)
    a = cast.start("a")
    b = cast.start("b", wrap=["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"])
    assert b("os.getuid()") != a("os.getuid()")
    c = cast.connect(a, b)
    a("background('echo', echo, %s)" % c.server)
    work = sizes(6, 30, 19)
    assert b("dialogue(%s, 5, %r)" % (c.client, work)) == [sum(work), ""]
    c.assert_fast()
    b("%s.close()" % c.client)
    assert a("joined('echo')") == sum(work)
    cast.close()


# ---- reports and configuration ----

def test_shown(pair):
    """`tapas flows` has both ends, and says that they are local; ss still shows Linux's two sockets."""
    c, a, b = pair
    if not c.lab.plain:
        rows = c.flows()
        assert len(rows) == 2 and all(f["local"] for f in rows), rows
        assert {f["pid"] for f in rows} == {a.pid, b.pid}, rows
    out = c.lab.server.run(["ss", "-tnpH", "( sport = :%d or dport = :%d )" % (c.client_port, c.client_port)]).stdout
    assert len(out.splitlines()) == 2 and all("pid=%d," % x.pid in out for x in (a, b)), out


@pytest.mark.parametrize("config", [{"service": {"local": "off"}}, {"adopt": {"accelerate": "no"}}], ids=["local", "accelerate"])
def test_switched_off(make_lab, config):
    lab = make_lab("shared", config=config)
    cast = Cast(lab)
    a, b = cast.start("a"), cast.start("b")
    c = cast.connect(a, b, warm=False)
    for _ in range(30):
        c.exchange()
    assert lab.plain or not c.flows()
    assert lab.plain or lab.counters()["local_pairs"] == 0
    c.close()
    cast.close()
