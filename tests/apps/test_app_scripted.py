# SPDX-License-Identifier: GPL-2.0-or-later
"""Servers of three languages' own libraries: Python (threads, asyncio), node.js (one process, cluster), Java."""
import hashlib
import os
import socket
import ssl
import threading

import pytest

from apps import (PYTHON, SERVERS, carried, data_of, echo, echo_at_once, files, http_warm_get_all, need, own_dir,
                  scale, self_signed)

PORT = 8000


def echo_all(lab, port, connections, context=None, rounds=None, big=2 << 20):
    """Messages of many sizes, then a large one written and read at once, over several connections at a time."""
    errors = []

    def body(k):
        try:
            s = lab.connect(port, timeout=30)
            if context:
                s = context.wrap_socket(s)
            f = s.makefile("rb", 1 << 18)
            echo(s, f, (data_of(i, (1, 100, 1448, 20000, 70000)[i % 5]) for i in range(rounds or scale(200, 40))))
            if not context:
                echo_at_once(s, f, data_of(k, big))
                s.shutdown(socket.SHUT_WR)
                assert f.read() == b""
            f.close()
            s.close()
        except BaseException as e:
            errors.append(e)
            raise

    threads = [threading.Thread(target=body, args=(k,)) for k in range(connections)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors, errors[0]


def http_all(lab, made, connections=6, echo_path="/echo"):
    conns = http_warm_get_all(lab, PORT, made, connections, scale(10, 2))
    for c in conns:
        assert c.call("POST", echo_path, made["f1"]) == (200, made["f1"])
        c.close()


def test_python_threads(lab):
    made = files(own_dir(lab, "www"))
    lab.discard_output(lab.run_server([PYTHON, os.path.join(SERVERS, "threads.py"), lab.addr, PORT,
                                       os.path.join(lab.dir, "www")], ready="ready"))
    with carried(lab, "Python, http.server with threads", connections=6):
        http_all(lab, made)


@pytest.mark.parametrize("tls", [False, True])
def test_python_asyncio(lab, tls):
    pair = self_signed(lab) if tls else ()
    lab.discard_output(lab.run_server([PYTHON, os.path.join(SERVERS, "aio.py"), lab.addr, PORT, *pair], ready="ready"))
    context = None
    if tls:
        context = ssl.create_default_context(cafile=pair[0])
        context.check_hostname = False
    with carried(lab, "Python, asyncio" + (", TLS" if tls else ""), connections=8):
        echo_all(lab, PORT, 8, context)
        if not tls:
            s = lab.connect(PORT + 1, timeout=30)
            f = s.makefile("rb")
            for n in (0, 1, 5, 1448, 3000000, 7):
                s.sendall(b"%d\n" % n)
                assert f.readline() == b"%d\n" % n and f.read(n) == b"x" * n
            s.close()
            s = lab.connect(PORT + 2, timeout=30)
            data = data_of(3, 4 << 20)
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            assert s.makefile("rb").read() == hashlib.sha256(data).hexdigest().encode()
            s.close()


@pytest.mark.parametrize("workers", [0, 3])
def test_node(lab, workers):
    made = files(own_dir(lab, "www"))
    lab.discard_output(lab.run_server([need("node"), os.path.join(SERVERS, "server.js"), lab.addr, PORT,
                                       os.path.join(lab.dir, "www"), *([workers] if workers else [])], ready="ready",
                                      timeout=20))
    with carried(lab, "node.js" + (", cluster of %d" % workers if workers else ""), connections=12):
        http_all(lab, made)
        echo_all(lab, PORT + 1, 6)


def test_java(lab):
    made = files(own_dir(lab, "www"))
    lab.discard_output(lab.run_server([need("java"), "-Xmx256m", os.path.join(SERVERS, "Server.java"), lab.addr, PORT,
                                       os.path.join(lab.dir, "www")], ready="ready", timeout=60))
    with carried(lab, "Java: httpserver, threads, NIO", connections=16):
        http_all(lab, made)
        echo_all(lab, PORT + 1, 5)
        echo_all(lab, PORT + 2, 5)


def test_java_client(lab):
    """java.net.http.HttpClient, accelerated, against a plain server."""
    made = files(own_dir(lab, "www"), (3 << 20,))
    lab.discard_output(lab.spawn(lab.client, [PYTHON, os.path.join(SERVERS, "threads.py"), lab.sources[0], PORT,
                                              os.path.join(lab.dir, "www")], ready="ready"))
    with carried(lab, "Java: HttpClient"):
        r = lab.run_accelerated([need("java"), os.path.join(SERVERS, "Client.java"), "http://%s:%d/f0" % (
            lab.sources[0], PORT), scale(50, 20)], timeout=90)
        assert r.stdout.split() == [hashlib.sha256(made["f0"]).hexdigest()] * scale(50, 20)
