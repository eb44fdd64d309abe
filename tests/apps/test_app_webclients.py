# SPDX-License-Identifier: GPL-2.0-or-later
"""iperf3 both ways round, and the clients of the web: curl --parallel, wrk, ab; each against nginx, one of the two
ends accelerated."""
import json
import os
import re

import pytest

from apps import carried, files, lab_for, need, own_dir, scale, skip_if_sanitizer_hangs, write

PORT, IPERF = 8080, 5201
CONF = """user www-data; worker_processes 2; daemon off; pid %(dir)s/pid; error_log stderr warn;
events { worker_connections 1024; }
http { access_log off; sendfile on; keepalive_requests 1000000; client_body_temp_path %(dir)s/b;
proxy_temp_path %(dir)s/p; fastcgi_temp_path %(dir)s/f; uwsgi_temp_path %(dir)s/u; scgi_temp_path %(dir)s/s;
server { listen %(addr)s:%(port)d; location / { root %(root)s; } } }
"""


@pytest.fixture(params=["server", "client"])
def web(request, make_lab, mode):
    """(lab, who is accelerated, address, files, a function that runs a client program on the right side)"""
    lab = lab_for(make_lab, mode, "www-data")
    who = request.param
    addr = lab.addr if who == "server" else lab.sources[0]
    directory, root = own_dir(lab, "nginx"), own_dir(lab, "www")
    made = files(root, (2 << 20, 100000, 1000))
    path = write(os.path.join(directory, "conf"), CONF % {"dir": directory, "addr": addr, "port": PORT, "root": root})
    argv = [need("nginx"), "-c", path, "-e", "stderr"]
    if who == "server":
        lab.discard_output(lab.run_server(argv, PORT))
        run = lab.run_client
    else:
        lab.discard_output(lab.spawn(lab.client, argv))
        lab.client.run(["curl", "-sS", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", "-o", "/dev/null",
                        "http://%s:%d/f2" % (addr, PORT)])
        run = lab.run_accelerated
    return lab, who, "http://%s:%d" % (addr, PORT), made, run


def test_curl_parallel(web):
    lab, who, url, made, run = web
    skip_if_sanitizer_hangs(need("curl"))
    out = own_dir(lab, "out")
    argv = [need("curl"), "-sS", "--fail", "--max-time", "60", "--parallel", "--parallel-max", "8"]
    n = scale(800, 160)
    for i in range(n):
        argv += ["-o", os.path.join(out, str(i)), "%s/f%d" % (url, i % 2)]
    with carried(lab, "curl --parallel, %s" % who, connections=4):
        run(argv)
    for i in range(n):
        with open(os.path.join(out, str(i)), "rb") as f:
            assert f.read() == made["f%d" % (i % 2)]


def test_wrk(web):
    lab, who, url, made, run = web
    with carried(lab, "wrk, %s" % who, connections=16):
        r = run([need("wrk"), "-t", 2, "-c", 16, "-d", "%ds" % scale(10, 2), url + "/f1"])
        assert int(re.search(r"(\d+) requests in", r.stdout).group(1)) > 100, r.stdout
        assert "Non-2xx" not in r.stdout and "Socket errors" not in r.stdout, r.stdout


def test_ab(web):
    lab, who, url, made, run = web
    n = scale(20000, 2000)
    with carried(lab, "ab -k, %s" % who, connections=16):
        r = run([need("ab"), "-q", "-k", "-n", n, "-c", 16, url + "/f1"])
        assert re.search(r"Complete requests: +%d\n" % n, r.stdout), r.stdout
        assert re.search(r"Failed requests: +0\n", r.stdout), r.stdout
        assert "HTML transferred:       %d bytes" % (n * 100000) in r.stdout, r.stdout


def test_ab_short(web):
    """A connection for each request: most stay with Linux; nothing may fail for that."""
    lab, who, url, made, run = web
    n = scale(10000, 1000)
    with carried(lab, "ab, %s" % who, exempt="a connection for each request"):
        r = run([need("ab"), "-q", "-n", n, "-c", 16, url + "/f2"])
        assert re.search(r"Complete requests: +%d\n" % n, r.stdout), r.stdout
        assert re.search(r"Failed requests: +0\n", r.stdout), r.stdout


@pytest.mark.parametrize("who", ["server", "client"])
@pytest.mark.parametrize("how", [[], ["-R"], ["-P", "4"], ["--bidir"], ["-l", "100", "-N"], ["-Z"]])
def test_iperf3(lab, who, how):
    addr = lab.addr if who == "server" else lab.sources[0]
    server = [need("iperf3"), "-s", "-B", addr, "-p", IPERF, "-1", "--forceflush"]
    if who == "server":
        lab.run_server(server, ready="listening")
        run = lab.run_client
    else:
        lab.spawn(lab.client, server, ready="listening")
        run = lab.run_accelerated
    with carried(lab, " ".join(["iperf3", *how]) + ", " + who):
        r = run(["iperf3", "-c", addr, "-p", IPERF, "-J", "-t", scale(5, 1), *how], check=False)
        report = json.loads(r.stdout)
        assert "error" not in report, report["error"]
        assert report["end"]["sum_received"]["bytes"] > 1000000
        assert r.returncode == 0
