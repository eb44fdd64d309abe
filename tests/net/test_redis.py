# SPDX-License-Identifier: GPL-2.0-or-later
"""Redis: the server accelerated under its own benchmark, its bulk loader, and as the remote end of accelerated clients."""
import hashlib
import os
import random
import socket

import pytest

from lab import FastShare, scale
from resp import Redis, encode

PORT = 6379


@pytest.fixture(params=["shared", "exclusive"])
def lab(request, make_lab):
    """XDP stays attached: a share is judged, and short work would be over before it is there."""
    return make_lab(request.param, config={"nic": {"attach": "always"}})


def server_argv(bind):
    return ["redis-server", "--port", PORT, "--bind", bind, "--save", "", "--appendonly", "no", "--protected-mode",
            "no", "--daemonize", "no"]


def benchmark_argv(addr, tests, n, *more):
    return ["redis-benchmark", "-h", addr, "-p", PORT, "-t", tests, "-n", n, "-c", 50, "--csv", *more]


def check_benchmark(r, rows):
    text = r.stdout + r.stderr
    assert "rror" not in text and "WARNING: Could not" not in text, text
    lines = [x for x in r.stdout.splitlines() if x.startswith('"') and not x.startswith('"test"')]
    assert len(lines) >= rows, text
    for line in lines:
        assert float(line.split(",")[1].strip('"')) > 0, text


@pytest.mark.parametrize("pipeline", [1, 16])
def test_benchmark(lab, pipeline):
    lab.run_server(server_argv(lab.addr), PORT)
    for tests, n, rows in (("set,get,incr,lpush", scale(200000, 40000), 4), ("lrange", scale(200000, 6000), 4)):
        share = FastShare(lab)
        r = lab.run_client(benchmark_argv(lab.addr, tests, n, "-P", pipeline), timeout=300)
        check_benchmark(r, rows)
        share.assert_fast(0.95, connections=150)


def test_bulk_load(lab):
    """redis-cli --pipe, then every value read back and compared."""
    rnd = random.Random(4)
    lab.run_server(server_argv(lab.addr), PORT)
    total = scale(100, 16) << 20
    path = os.path.join(lab.dir, "load")
    want = {}
    size = 0
    with open(path, "wb") as f:
        while size < total:
            key = b"key:%d" % len(want)
            value = rnd.randbytes(rnd.choice((1, 10, 100, 1448, 4096, 16384, 65536, 100000)))
            want[key] = hashlib.sha1(value).digest()
            f.write(encode(b"SET", key, value))
            size += len(value)
    share = FastShare(lab)
    with open(path, "rb") as f:
        r = lab.client.run(["redis-cli", "-h", lab.addr, "-p", PORT, "--pipe"], stdin=f, timeout=300)
    assert "errors: 0, replies: %d" % len(want) in r.stdout, r.stdout
    share.assert_fast(scale(0.90, 0.50), payload=size)  # a busy loader may be adopted only after some megabytes
    redis = Redis(lab.connect(PORT, timeout=30))
    share = FastShare(lab)
    for key, digest in want.items():
        assert hashlib.sha1(redis.call(b"GET", key)).digest() == digest, key
    share.assert_fast(0.95, payload=size)
    assert redis.call("DBSIZE") == len(want)
    redis.close()


def test_accelerated_benchmark_client(lab):
    """`tapas run redis-benchmark` against a plain server elsewhere."""
    lab.spawn(lab.client, server_argv(lab.sources[0]), ready="Ready to accept")
    share = FastShare(lab)
    r = lab.run_accelerated(benchmark_argv(lab.sources[0], "set,get", scale(200000, 40000)))
    check_benchmark(r, 2)
    share.assert_fast(0.90, connections=90)


def test_subscribers(lab):
    """Pushes without a question: pub/sub to connections that only listen."""
    lab.run_server(server_argv(lab.addr), PORT)
    subs = []
    for _ in range(20):
        r = Redis(lab.connect(PORT))
        assert r.call("PING") == b"PONG" and r.call("PING") == b"PONG"
        assert r.call("SUBSCRIBE", "news") == [b"subscribe", b"news", 1]
        subs.append(r)
    pub = Redis(lab.connect(PORT))
    for i in range(200):
        assert pub.call("PUBLISH", "news", "message %d" % i) == 20
    for r in subs:
        for i in range(200):
            got = r.answer()
            assert got == [b"message", b"news", b"message %d" % i], got
        r.sock.shutdown(socket.SHUT_RDWR)
        r.close()
    pub.close()
