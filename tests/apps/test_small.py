# SPDX-License-Identifier: GPL-2.0-or-later
"""What whole programs do with descriptors, each in a few lines: the first place to look when one of them fails."""
import os
import socket
import threading
import time

import pytest

from apps import PYTHON, carried, data_of, echo, echo_at_once, own_dir, write

PORT = 7
HEAD = """
import array, os, select, signal, socket, subprocess, sys, threading, time
addr = sys.argv[1]
listener = socket.create_server((addr, 7))
print("ready", flush=True)
def echo(s, rounds=-1):
    while rounds:
        d = s.recv(65536)
        if not d:
            return s.close()
        s.sendall(d)
        rounds -= 1
s, _ = listener.accept()
"""
LATER = "echo(s, 6)\n"
FORK = "if not os.fork():\n    echo(s)\n    os._exit(0)\ns.close(); os.wait()"
EXEC = "subprocess.run(['cat'], stdin=s, stdout=s); s.close()"
PASS = """a, b = socket.socketpair()
if not os.fork():
    m, f, *_ = socket.recv_fds(b, 1, 1)
    echo(socket.socket(fileno=f[0]))
    os._exit(0)
socket.send_fds(a, [b'x'], [s.fileno()]); s.close(); os.wait()"""

PROGRAMS = {
    # rsync, PostgreSQL: the parent only accepts
    "fork at once": FORK,
    # the parent has talked before: login, protocol choice
    "fork later": LATER + FORK,
    # both ends of a fork use it: one reads, one writes (rsync's client, telnet-like programs)
    "fork, one reads and one writes": """echo(s, 6)
r, w = os.pipe()
if not os.fork():
    while d := s.recv(65536):
        os.write(w, d)
    os._exit(0)
os.close(w)
while d := os.read(r, 65536):
    s.sendall(d)
s.close()""",
    "fork and the parent goes on": "echo(s, 6)\nif not os.fork():\n    os._exit(0)\nos.wait(); echo(s)",
    # git daemon, inetd, sshd
    "exec at once": EXEC,
    "exec later": LATER + EXEC,
    "exec of this process": "echo(s, 6)\nos.dup2(s.fileno(), 0); os.dup2(s.fileno(), 1); os.execvp('cat', ['cat'])",
    "popen of a shell": "echo(s, 6)\nos.dup2(s.fileno(), 5); s.close(); os.system('cat <&5 >&5')",
    # node.js cluster, nginx-like helpers
    "passed at once": PASS,
    "passed later": LATER + PASS,
    "passed to itself": """echo(s, 6)
a, b = socket.socketpair()
socket.send_fds(a, [b'x'], [s.fileno()]); s.close()
echo(socket.socket(fileno=socket.recv_fds(b, 1, 1)[1][0]))""",
    # MariaDB's pool of threads: a listener sleeps in an instance that has had nothing adopted, another thread adds
    # a connection that is adopted by then, looks once without waiting, and leaves the rest to the listener
    "added to an instance in which a thread sleeps": """import queue
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
ep, q = select.epoll(), queue.Queue()
def listen():
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # does not run in between
    while True:
        for fd, _ in ep.poll():
            q.put(fd)
threading.Thread(target=listen, daemon=True).start()
s.setblocking(False)
how = select.EPOLLIN | select.EPOLLET | select.EPOLLONESHOT | select.EPOLLRDHUP
for turn in range(6):
    select.select([s], [], [])
    s.sendall(s.recv(65536))
ep.register(s, how)  # before the client goes on: it pauses here
held = [fd for fd, _ in ep.poll(0)]
while True:
    if not held:
        held.append(q.get())
    held.clear()
    try:
        while d := s.recv(65536):
            s.setblocking(True); s.sendall(d); s.setblocking(False)
        break
    except BlockingIOError:
        ep.modify(s, how)
s.close()""",
    # libuv, Java: one thread waits, another adds; level-triggered
    "added by another thread": """ep = select.epoll()
def listen():
    while True:
        for fd, _ in ep.poll():
            d = s.recv(65536)
            if not d:
                os._exit(0)
            s.sendall(d)
t = threading.Thread(target=listen); t.start()
echo(s, 6)
ep.register(s, select.EPOLLIN)
t.join()""",
    "epoll instance inherited": """ep = select.epoll()
ep.register(s, select.EPOLLIN)
echo(s, 6)
if not os.fork():
    while True:
        ep.poll()
        d = s.recv(65536)
        if not d:
            os._exit(0)
        s.sendall(d)
s.close(); os.wait()""",
    "listener inherited by workers": """s.close()
for _ in range(3):
    if not os.fork():
        while True:
            echo(listener.accept()[0])
while True:
    time.sleep(1)""",
    "closed by a child, used by the parent": """echo(s, 6)
if not os.fork():
    s.close()
    os._exit(0)
os.wait()
subprocess.run(['true'], close_fds=True)
subprocess.run(['true'], close_fds=False)
os.system('true')
echo(s)""",
}


# What stays with Linux by design: two processes take their events from one place, and only the kernel's is shared.
LEFT = {"epoll instance inherited": "a child uses an epoll instance that it inherited"}


@pytest.mark.parametrize("what", PROGRAMS)
def test_small(lab, what):
    path = write(os.path.join(own_dir(lab, "p"), "server.py"), HEAD + PROGRAMS[what] + "\n")
    p = lab.run_server([PYTHON, "-u", path, lab.addr], ready="ready")
    lab.discard_output(p)
    with carried(lab, "small: " + what, at_least=10000, exempt=LEFT.get(what)):
        if what == "listener inherited by workers":
            lab.connect(PORT).close()
        s = lab.connect(PORT, timeout=8)
        f = s.makefile("rb", 1 << 16)
        echo(s, f, (data_of(i, 1 + 37 * i) for i in range(6)))
        time.sleep(0.1)  # the server changes hands
        echo(s, f, (data_of(i, 1 + 37 * i) for i in range(6, 60)))
        echo_at_once(s, f, data_of(1, 1 << 20))
        s.shutdown(socket.SHUT_WR)
        assert f.read() == b""
        s.close()


def test_bash_tcp(lab):
    """bash's /dev/tcp: its echo goes through libc's stdio, its read through read(2)."""
    l = lab.client.call(socket.create_server, (lab.sources[0], PORT))

    def serve():
        c, _ = l.accept()
        for line in c.makefile("rb"):
            c.sendall(line.upper())
        c.close()

    threading.Thread(target=serve, daemon=True).start()
    script = "exec 3<>/dev/tcp/%s/%d; for i in $(seq 300); do echo line $i >&3; read -r x <&3; echo $x; done; " \
             "printf '%%s\\n' {1..9} >&3; for i in {1..9}; do read -r x <&3; echo $x; done; exec 3>&-" % (
                 lab.sources[0], PORT)
    with carried(lab, "bash, /dev/tcp", at_least=3000, exempt="stdio on the connection"):
        r = lab.run_accelerated(["bash", "-c", script], timeout=15)
        assert r.stdout == "".join("LINE %d\n" % (i + 1) for i in range(300)) + "".join("%d\n" % i for i in range(1, 10))
    l.close()
