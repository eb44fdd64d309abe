# SPDX-License-Identifier: GPL-2.0-or-later
"""haproxy between a plain client and plain servers on the client's host: HTTP, TCP with splice, reload that passes
the listening sockets to the new process."""
import os
import signal
import time

import pytest

from apps import (PYTHON, SERVERS, asking, carried, data_of, echo, echo_at_once, files, http_warm_get_all, need, own_dir,
                  scale, write)
from lab import wait_for

PORT, BACK = 8080, 8081
CONF = """global
 maxconn 500
 nbthread 2
 stats socket %(dir)s/admin.sock mode 600 level admin expose-fd listeners
defaults
 timeout connect 5s
 timeout client 30s
 timeout server 30s
%(options)s
frontend f
 mode %(mode)s
 bind %(addr)s:%(port)d
 default_backend b
backend b
 mode %(mode)s
 server one %(back)s:%(backport)d
"""


def start(lab, mode, options="", *flags):
    directory = own_dir(lab, "haproxy")
    path = write(os.path.join(directory, "haproxy.cfg"), CONF % {
        "dir": directory, "addr": lab.addr, "port": PORT, "back": lab.sources[0], "backport": BACK, "mode": mode,
        "options": options})
    p = lab.run_server([need("haproxy"), "-f", path, *flags], PORT)
    lab.discard_output(p)
    return p, directory


def http_back(lab):
    root = own_dir(lab, "www")
    made = files(root)
    lab.discard_output(lab.spawn(lab.client, [PYTHON, os.path.join(SERVERS, "threads.py"), lab.sources[0], BACK, root],
                                 ready="ready"))
    return made


@pytest.mark.parametrize("reuse", ["always", "never"])
def test_haproxy_http(lab, reuse):
    made = http_back(lab)
    start(lab, "http", " http-reuse %s\n option splice-auto" % reuse)
    with carried(lab, "haproxy, HTTP, reuse " + reuse, connections=12 if reuse == "never" else 7):
        conns = http_warm_get_all(lab, PORT, made, 6, scale(10, 2))
        for c in conns:
            assert c.call("POST", "/echo", made["f1"]) == (200, made["f1"])
            c.close()


@pytest.mark.parametrize("splice", ["auto", "off"])
def test_haproxy_tcp(lab, splice):
    """Echo through the proxy: small messages, then megabytes both ways at once."""
    lab.discard_output(lab.spawn(lab.client, [PYTHON, os.path.join(SERVERS, "aio.py"), lab.sources[0], BACK],
                                 ready="ready"))
    start(lab, "tcp", " option splice-auto\n option splice-request\n option splice-response" if splice == "auto" else "",
          *([] if splice == "auto" else ["-dS"]))
    with carried(lab, "haproxy, TCP, splice " + splice, connections=8):
        for k in range(4):
            s = lab.connect(PORT, timeout=30)
            f = s.makefile("rb", 1 << 18)
            echo(s, f, (data_of(i, 1 + 400 * i) for i in range(20)))
            echo_at_once(s, f, data_of(k, scale(64, 6) << 20))
            s.close()


def test_haproxy_reload(lab):
    """Master and worker: SIGUSR2 executes the program anew, which takes the listeners from the old worker over a unix
    socket; no request may fail."""
    made = http_back(lab)
    small = {k: v for k, v in made.items() if len(v) < 100000}
    p, _ = start(lab, "http", "", "-W")

    def post(c):
        assert c.call("POST", "/echo", made["f2"]) == (200, made["f2"])

    with carried(lab, "haproxy, reload under load", connections=8), asking(lab, PORT, small, 4, post) as counts:
        for _ in range(scale(5, 2)):
            time.sleep(0.7)
            before = counts["answers"]
            p.send_signal(signal.SIGUSR2)
            wait_for(lambda: counts["answers"] > before + 100, 15, "answers after the reload")
    assert p.poll() is None
