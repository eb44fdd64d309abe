# SPDX-License-Identifier: GPL-2.0-or-later
"""redis as people run it: persistence by forked children under load, a replica, a cluster, pub/sub, its benchmark."""
import random
import threading

import pytest

from apps import carried, data_of, need, own_dir, scale
from lab import wait_for
from resp import Redis

PORT = 6379


def argv(bind, directory, *more, port=PORT):
    need("redis-server")
    return ["redis-server", "--port", port, "--bind", bind, "--dir", directory, "--protected-mode", "no",
            "--daemonize", "no", "--save", "", *more]


def fill(redis, prefix, n, sizes=(1, 100, 1448, 20000)):
    rnd = random.Random(prefix)
    want = {}
    for i in range(n):
        key = b"%s:%d" % (prefix.encode(), i)
        want[key] = rnd.randbytes(rnd.choice(sizes))
        assert redis.call("SET", key, want[key]) == b"OK"
    return want


def check(redis, want):
    for key, value in want.items():
        assert redis.call("GET", key) == value, key


def test_redis_persistence(lab):
    """Snapshots and rewrites of the append-only file by forked children while clients go on, then a restart."""
    directory = own_dir(lab, "data")
    more = ["--appendonly", "yes", "--appendfsync", "everysec"]
    p = lab.run_server(argv(lab.addr, directory, *more), PORT)
    lab.discard_output(p)
    with carried(lab, "redis, AOF and RDB by fork", connections=4):
        conns = [Redis(lab.connect(PORT, timeout=30)) for _ in range(4)]
        want = {}
        for r in range(scale(5, 2)):
            assert conns[0].call("BGSAVE").startswith(b"Background")
            for k, c in enumerate(conns):
                want.update(fill(c, "r%dc%d" % (r, k), 100))
            wait_for(lambda: conns[0].info("persistence")["rdb_bgsave_in_progress"] == "0", 20, "snapshot")
            assert conns[1].call("BGREWRITEAOF").startswith(b"Background")
            for c in conns:
                check(c, want)
            wait_for(lambda: conns[1].info("persistence")["aof_rewrite_in_progress"] == "0", 20, "rewrite")
        info = conns[0].info("persistence")
        assert info["rdb_last_bgsave_status"] == info["aof_last_bgrewrite_status"] == "ok"
        for c in conns[1:]:
            c.close()
        conns[0].send("SHUTDOWN")
        assert conns[0].file.read() == b""
        conns[0].close()
        assert p.wait(10) == 0
        q = lab.run_server(argv(lab.addr, directory, *more), PORT)
        lab.discard_output(q)
        c = Redis(lab.connect(PORT, timeout=30))
        wait_for(lambda: c.info("persistence")["loading"] == "0", 20, "data loaded")
        check(c, want)
        c.close()


@pytest.mark.parametrize("role", ["primary", "replica"])
def test_redis_replication(lab, role):
    """A full synchronization with backlog, then a stream of writes; one of the two is accelerated, the other plain."""
    if role == "primary":
        p = lab.run_server(argv(lab.addr, own_dir(lab, "p"), "--repl-diskless-sync", "no"), PORT)
        primary, other = lab.addr, lab.sources[0]
    else:
        p = lab.spawn(lab.client, argv(lab.sources[0], own_dir(lab, "p")), ready="Ready to accept")
        primary, other = lab.sources[0], lab.addr
    lab.discard_output(p)
    fed = Redis(lab.client.connect((primary, PORT), timeout=30))
    with carried(lab, "redis, replication, %s" % role):
        want = fill(fed, "before", 200)
        args = argv(other, own_dir(lab, "r"), "--replicaof", "%s %d" % (primary, PORT))
        if role == "replica":
            lab.discard_output(lab.run_server(args, PORT))
        else:
            lab.discard_output(lab.spawn(lab.client, args, ready="Ready to accept"))
        replica = Redis(lab.client.connect((other, PORT), timeout=30))
        wait_for(lambda: replica.info("replication")["master_link_status"] == "up", 20, "link up")
        want.update(fill(fed, "after", scale(5000, 800), (100, 1448, 20000)))
        assert fed.call("WAIT", 1, 10000) == 1
        check(replica, want)
        for c in (fed, replica):
            c.close()


def test_redis_cluster(lab):
    """Three nodes on one host, asked by a client that follows redirections; every key read back."""
    need("redis-cli")
    ports = [7001, 7002, 7003]
    for p in ports:
        more = ["--cluster-enabled", "yes", "--cluster-node-timeout", "5000", "--appendonly", "no"]
        lab.discard_output(lab.run_server(argv(lab.addr, own_dir(lab, str(p)), *more, port=p), p))
    lab.run_client(["redis-cli", "--cluster", "create", *["%s:%d" % (lab.addr, p) for p in ports], "--cluster-replicas",
                    "0", "--cluster-yes"], timeout=60)
    nodes = {p: Redis(lab.connect(p, timeout=30)) for p in ports}
    for n in nodes.values():
        wait_for(lambda: b"cluster_state:ok" in n.call("CLUSTER", "INFO"), 20, "cluster up")
    with carried(lab, "redis, cluster of three", connections=0):
        slots = {}
        for first, last, where, *_ in nodes[ports[0]].call("CLUSTER", "SLOTS"):
            slots[(first, last)] = where[1]
        assert set(slots.values()) == set(ports)
        want = {}
        for i in range(scale(5000, 600)):
            key, value = b"key%d" % i, data_of(i, 1000 + i % 3000)
            slot = nodes[ports[0]].call("CLUSTER", "KEYSLOT", key)
            port = next(p for (a, b), p in slots.items() if a <= slot <= b)
            assert nodes[port].call("SET", key, value) == b"OK"
            want[key] = (port, value)
        for key, (port, value) in want.items():
            assert nodes[port].call("GET", key) == value
        r = lab.run_client(["redis-cli", "-c", "-h", lab.addr, "-p", ports[0], "--no-raw", "GET", "key7"])
        assert r.stdout.startswith('"')
    for n in nodes.values():
        n.close()


def test_redis_pubsub(lab):
    lab.discard_output(lab.run_server(argv(lab.addr, own_dir(lab, "d")), PORT))
    with carried(lab, "redis, pub/sub", connections=21):
        subs = [Redis(lab.connect(PORT, timeout=30)) for _ in range(20)]
        for s in subs:
            for _ in range(2):
                assert s.call("PING") == b"PONG"
            assert s.call("SUBSCRIBE", "news") == [b"subscribe", b"news", 1]
        n, got = scale(5000, 500), []

        def listen(s):
            got.append([s.answer()[2] for _ in range(n)])

        threads = [threading.Thread(target=listen, args=(s,)) for s in subs]
        for t in threads:
            t.start()
        messages = [data_of(i, 1 + i % 2000) for i in range(n)]
        pub = Redis(lab.connect(PORT, timeout=30))
        for m in messages:
            assert pub.call("PUBLISH", "news", m) == 20
        for t in threads:
            t.join()
        assert len(got) == 20 and all(g == messages for g in got)
        for s in (*subs, pub):
            s.close()


@pytest.mark.parametrize("threads", [1, 4])
def test_redis_benchmark(lab, threads):
    """The server's own io-threads as well."""
    need("redis-benchmark")
    lab.discard_output(lab.run_server(argv(lab.addr, own_dir(lab, "d"), "--io-threads", threads, "--io-threads-do-reads",
                                           "yes" if threads > 1 else "no"), PORT))
    with carried(lab, "redis-benchmark, %d I/O threads" % threads, connections=100):
        for test in ("set,get,incr,lpush,lrange_100", "mset"):
            r = lab.run_client(["redis-benchmark", "-h", lab.addr, "-p", PORT, "-t", test, "-n", scale(100000, 4000),
                                "-c", 50, "-P", 4, "--csv"], timeout=300)
            assert "rror" not in r.stdout + r.stderr, r.stdout + r.stderr
            assert all(float(x.split(",")[1].strip('"')) > 0 for x in r.stdout.splitlines() if not x.startswith('"test'))


def test_redis_benchmark_accelerated(lab):
    """The benchmark under tapas against a plain server elsewhere."""
    need("redis-benchmark")
    lab.discard_output(lab.spawn(lab.client, argv(lab.sources[0], own_dir(lab, "d")), ready="Ready to accept"))
    with carried(lab, "redis-benchmark as client", connections=90):
        r = lab.run_accelerated(["redis-benchmark", "-h", lab.sources[0], "-p", PORT, "-t", "set,get", "-n",
                                 scale(200000, 20000), "-c", 50, "--csv"], timeout=300)
        assert "rror" not in r.stdout + r.stderr
