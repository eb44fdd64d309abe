# SPDX-License-Identifier: GPL-2.0-or-later
"""memcached with eight threads: a listener thread hands each accepted descriptor to another thread's event loop."""
import random
import threading

from apps import carried, data_of, need, scale

PORT = 11211


def talk(sock, k, rounds, errors):
    try:
        rnd = random.Random(k)
        f = sock.makefile("rb", 1 << 18)
        for i in range(rounds):
            value = rnd.randbytes(rnd.choice((1, 100, 1448, 5000, 70000, 300000)))
            key = b"k%d-%d" % (k, i % 7)
            sock.sendall(b"set %s 0 0 %d\r\n%s\r\n" % (key, len(value), value))
            assert f.readline() == b"STORED\r\n"
            sock.sendall(b"get %s\r\nincr n%d 1\r\n" % (key, k))
            assert f.readline() == b"VALUE %s 0 %d\r\n" % (key, len(value))
            assert f.read(len(value) + 2)[:-2] == value
            assert f.readline() == b"END\r\n"
            assert f.readline() == b"NOT_FOUND\r\n"
    except BaseException as e:
        errors.append(e)
        raise


def test_memcached(lab):
    lab.run_server([need("memcached"), "-u", "root", "-l", lab.addr, "-p", PORT, "-t", "8", "-m", "256", "-I", "2m"],
                   PORT)
    with carried(lab, "memcached, 8 threads", connections=32):
        socks = [lab.connect(PORT, timeout=30) for _ in range(32)]
        errors = []
        threads = [threading.Thread(target=talk, args=(s, k, scale(200, 15), errors)) for k, s in enumerate(socks)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not errors, errors[0]
        socks[0].sendall(b"stats\r\n")
        got = b""
        while not got.endswith(b"END\r\n"):
            more = socks[0].recv(65536)
            assert more
            got += more
        assert b"STAT threads 8\r\n" in got
        for s in socks:
            s.close()


def test_memcached_multiget(lab):
    """Many keys at once: one answer of several megabytes."""
    values = {b"k%d" % i: data_of(i, 50000) for i in range(100)}
    lab.run_server([need("memcached"), "-u", "root", "-l", lab.addr, "-p", PORT, "-t", "8", "-m", "256"], PORT)
    with carried(lab, "memcached, multiget"):
        s = lab.connect(PORT, timeout=30)
        f = s.makefile("rb", 1 << 18)
        for k, v in values.items():
            s.sendall(b"set %s 0 0 %d\r\n%s\r\n" % (k, len(v), v))
            assert f.readline() == b"STORED\r\n"
        for _ in range(3):
            s.sendall(b"get " + b" ".join(values) + b"\r\n")
            for k, v in values.items():
                assert f.readline() == b"VALUE %s 0 %d\r\n" % (k, len(v))
                assert f.read(len(v) + 2)[:-2] == v
            assert f.readline() == b"END\r\n"
        s.close()
