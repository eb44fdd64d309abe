# SPDX-License-Identifier: GPL-2.0-or-later
"""Other servers and clients as people run them: memcached, nginx, python's http.server, curl."""
import hashlib
import os
import random
import sys

import pytest

from lab import FastShare, scale

PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable


@pytest.fixture(params=["shared", "exclusive"])
def lab(request, make_lab):
    """XDP stays attached: a share is judged, and short work would be over before it is there."""
    return make_lab(request.param, config={"nic": {"attach": "always"}})


def memcached_call(f, sock, data, end=b"\r\n"):
    sock.sendall(data)
    line = f.readline()
    assert line.endswith(end), line
    return line[:-2]


def test_memcached(lab):
    port, rnd = 11211, random.Random(7)
    lab.run_server(["memcached", "-u", "root", "-l", lab.addr, "-p", port, "-t", "2", "-m", "256", "-I", "2m"], port)
    socks = [lab.connect(port, timeout=20) for _ in range(16)]
    files = [s.makefile("rb", 1 << 18) for s in socks]
    share, want, total = FastShare(lab), {}, 0
    for i in range(scale(4000, 600)):
        s, f = socks[i % 16], files[i % 16]
        key, value = b"k%d" % i, rnd.randbytes(rnd.choice((1, 30, 500, 1448, 5000, 70000, 150000)))
        want[key] = hashlib.sha1(value).digest()
        total += len(value)
        assert memcached_call(f, s, b"set %s 0 0 %d\r\n%s\r\n" % (key, len(value), value)) == b"STORED"
    for i, (key, digest) in enumerate(want.items()):
        s, f = socks[(i * 7) % 16], files[(i * 7) % 16]
        head = memcached_call(f, s, b"get %s\r\n" % key).split()
        assert head[:2] == [b"VALUE", key]
        assert hashlib.sha1(f.read(int(head[3]) + 2)[:-2]).digest() == digest, key
        assert f.readline() == b"END\r\n"
    share.assert_fast(0.95, connections=16, payload=2 * total)
    for s in socks:
        s.close()


def nginx_conf(lab, port):
    root = os.path.join(lab.dir, "www")
    os.makedirs(root, exist_ok=True)
    sums = {}
    for i, size in enumerate((10 << 20, 1 << 20, 65536, 1, 0)):
        data = random.Random(i).randbytes(size)
        name = "f%d" % i
        with open(os.path.join(root, name), "wb") as f:
            f.write(data)
        sums[name] = (hashlib.sha256(data).hexdigest(), size)
    path = os.path.join(lab.dir, "nginx.conf")
    with open(path, "w") as f:
        f.write("""user root; worker_processes 2; daemon off; pid %(dir)s/nginx.pid; error_log stderr warn;
events { worker_connections 1024; }
http { access_log off; sendfile on; tcp_nopush on; keepalive_timeout 30; client_body_temp_path %(dir)s/body;
proxy_temp_path %(dir)s/p; fastcgi_temp_path %(dir)s/f; uwsgi_temp_path %(dir)s/u; scgi_temp_path %(dir)s/s;
server { listen %(addr)s:%(port)d; location / { root %(root)s; } } }
""" % {"dir": lab.dir, "addr": lab.addr, "port": port, "root": root})
    return path, sums


def test_nginx(lab):
    """Files fetched over kept connections, several clients at once, compared byte by byte."""
    port = 8080
    path, sums = nginx_conf(lab, port)
    lab.run_server(["nginx", "-c", path, "-e", "stderr"], port)
    share = FastShare(lab)
    total = 0
    names = [n for _ in range(scale(6, 2)) for n in sums]
    procs = []
    for k in range(4):
        out = os.path.join(lab.dir, "got%d" % k)
        os.makedirs(out)
        argv = ["curl", "-sS", "--fail", "--max-time", "60"]
        for j, n in enumerate(names):
            argv += ["-o", "%s/%d-%s" % (out, j, n), "http://%s:%d/%s" % (lab.addr, port, n)]
            total += sums[n][1]
        procs.append(lab.spawn(lab.client, argv))
    for p in procs:
        assert p.wait(90) == 0, p.stdout.read()
    for k in range(4):
        for j, n in enumerate(names):
            with open(os.path.join(lab.dir, "got%d" % k, "%d-%s" % (j, n)), "rb") as f:
                assert hashlib.sha256(f.read()).hexdigest() == sums[n][0], n
    # the first file of a connection is large: at most its first window goes before the adoption
    share.assert_fast(0.50, connections=4, payload=total)


def test_http_server(lab):
    """A threaded program with blocking sockets."""
    port = 8000
    data = random.Random(1).randbytes(3 << 20)
    with open(os.path.join(lab.dir, "file"), "wb") as f:
        f.write(data)
    lab.run_server([PYTHON, "-m", "http.server", port, "--directory", lab.dir, "--bind", lab.addr,
                    "--protocol", "HTTP/1.1"], port)
    out = os.path.join(lab.dir, "out")
    argv = ["curl", "-sS", "--fail", "--max-time", "60"]
    for i in range(5):
        argv += ["-o", "%s%d" % (out, i), "http://%s:%d/file" % (lab.addr, port)]
    share = FastShare(lab)
    lab.run_client(argv)
    for i in range(5):
        with open("%s%d" % (out, i), "rb") as f:
            assert f.read() == data
    share.assert_fast(0.50, payload=5 * len(data))


def test_accelerated_curl(lab):
    """`tapas run curl` fetches from a plain server: short transfers, and some on one connection."""
    port = 8000
    data = random.Random(2).randbytes(4 << 20)
    www = os.path.join(lab.dir, "www")
    os.makedirs(www)
    with open(os.path.join(www, "file"), "wb") as f:
        f.write(data)
    lab.spawn(lab.client, [PYTHON, "-u", "-m", "http.server", port, "--directory", www, "--bind", lab.sources[0],
                           "--protocol", "HTTP/1.1"], ready="Serving")
    out = os.path.join(lab.dir, "out")
    argv = ["curl", "-sS", "--fail", "--max-time", "60"]
    for i in range(4):
        argv += ["-o", "%s%d" % (out, i), "http://%s:%d/file" % (lab.sources[0], port)]
    share = FastShare(lab)
    lab.run_accelerated(argv)
    for i in range(4):
        with open("%s%d" % (out, i), "rb") as f:
            assert f.read() == data
    share.assert_fast(0.50, payload=4 * len(data))


@pytest.mark.parametrize("size", [1, 1448, 100000])
def test_echo_sizes(lab, size):
    """An epoll program in Python: messages around the segment and buffer sizes."""
    from lab import echo_once
    lab.run_server([PYTHON, os.path.join(os.path.dirname(__file__), "peer.py"), "echo", 7], ready="ready")
    s = lab.connect(7, timeout=20)
    lab.adopt(s)
    before = lab.shadows(7)[0].get("bytes_received", 0)
    share = FastShare(lab)
    rnd = random.Random(size)
    for _ in range(20):
        echo_once(s, rnd.randbytes(size))
    share.assert_fast(0.99, connections=0, payload=40 * size)
    # Linux's own count: nothing of it went through the kernel socket
    assert lab.plain or lab.shadows(7)[0].get("bytes_received", 0) == before
    s.close()
