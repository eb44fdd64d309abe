# SPDX-License-Identifier: GPL-2.0-or-later
"""nginx: a master with four workers that are not root; sendfile, TLS, proxying both ways, reload under load."""
import json
import os
import re
import signal
import ssl
import statistics
import time

import pytest

from apps import asking, carried, files, http_warm_get_all, lab_for, need, own_dir, scale, self_signed, write
from lab import Lab, wait_for

PORT, TLS, BACK = 8080, 8443, 8081
CONF = """%(user)s worker_processes %(workers)d; daemon off; pid %(dir)s/nginx.pid;
error_log %(dir)s/error.log notice;
events { worker_connections 1024; }
http { access_log off; sendfile %(sendfile)s; tcp_nopush on; keepalive_timeout 30; keepalive_requests 100000;
client_max_body_size 64m; client_body_temp_path %(dir)s/body; proxy_temp_path %(dir)s/p; fastcgi_temp_path %(dir)s/f;
uwsgi_temp_path %(dir)s/u; scgi_temp_path %(dir)s/s;
upstream back { server %(back)s:%(backport)d; keepalive 16; }
server { listen %(addr)s:%(port)d; %(tls)s
 location / { root %(root)s; }
 location /put/ { root %(root)s; dav_methods PUT; create_full_put_path on; }
 location /proxy/ { proxy_pass http://back/; proxy_http_version 1.1; proxy_set_header Connection ""; %(proxy)s } } }
"""


def configure(lab, addr, user, back=None, tls=None, workers=4, sendfile="on", proxy="", port=PORT):
    directory = own_dir(lab, "nginx-" + addr)
    root = own_dir(lab, "www-" + addr)
    for sub in ("put",):
        os.makedirs(os.path.join(root, sub))
        os.chmod(os.path.join(root, sub), 0o777)
    listen_tls = ""
    if tls:
        listen_tls = "listen %s:%d ssl; ssl_certificate %s; ssl_certificate_key %s;" % (addr, TLS, *tls)
    write(os.path.join(directory, "nginx.conf"), CONF % {
        "user": "user %s;" % user, "dir": directory, "addr": addr, "port": port, "root": root, "workers": workers,
        "sendfile": sendfile, "tls": listen_tls, "back": back or addr, "backport": BACK, "proxy": proxy})
    return directory, root


def argv(directory):
    return [need("nginx"), "-c", os.path.join(directory, "nginx.conf"), "-e", "stderr"]


@pytest.fixture
def www(make_lab, mode):
    return lab_for(make_lab, mode, "www-data")


@pytest.mark.parametrize("sendfile", ["on", "off"])
def test_nginx_files(www, sendfile):
    directory, root = configure(www, www.addr, "www-data", sendfile=sendfile)
    made = files(root)
    www.discard_output(www.run_server(argv(directory), PORT))
    with carried(www, "nginx, 4 workers, sendfile " + sendfile, connections=8):
        conns = http_warm_get_all(www, PORT, made, 8, scale(10, 2))
        for i, c in enumerate(conns):
            assert c.call("PUT", "/put/%d" % i, made["f1"])[0] == 201
        for c in conns:
            c.close()
    for i in range(8):
        with open(os.path.join(root, "put", str(i)), "rb") as f:
            assert f.read() == made["f1"]


def test_nginx_tls(www):
    tls = self_signed(www)
    directory, root = configure(www, www.addr, "www-data", tls=tls)
    made = files(root)
    www.discard_output(www.run_server(argv(directory), TLS))
    with carried(www, "nginx, TLS", connections=4):
        context = ssl.create_default_context(cafile=tls[0])
        context.check_hostname = False
        for c in http_warm_get_all(www, TLS, made, 4, scale(10, 2), tls=context):
            c.close()


@pytest.mark.parametrize("buffering", ["on", "off"])
def test_nginx_proxy(www, buffering):
    """Accelerated on both sides: from the plain client, and to a plain nginx on the client's host."""
    back = www.sources[0]
    directory, _ = configure(www, www.addr, "www-data", back=back,
                             proxy="proxy_buffering %s; proxy_request_buffering %s;" % (buffering, buffering))
    back_dir, back_root = configure(www, back, "www-data", workers=1, port=BACK)
    made = files(back_root)
    www.discard_output(www.spawn(www.client, argv(back_dir)))
    www.discard_output(www.run_server(argv(directory), PORT))
    wait_for(lambda: www.client.run(["ss", "-tlnH", "sport = :%d" % BACK]).stdout, 10, "back end")
    with carried(www, "nginx, proxy, buffering " + buffering, connections=8):
        conns = http_warm_get_all(www, PORT, made, 6, scale(10, 2), prefix="/proxy/")
        for i, c in enumerate(conns):
            status, _ = c.call("PUT", "/proxy/put/%d" % i, made["f1"])
            assert status == 201
            c.close()
    for i in range(6):
        with open(os.path.join(back_root, "put", str(i)), "rb") as f:
            assert f.read() == made["f1"]


def workers_of(lab):
    out = lab.server.run(["ps", "-eo", "pid,ppid,args"]).stdout
    master = [int(m.group(1)) for m in re.finditer(r"^ *(\d+) .*nginx: master process .*%s" % lab.dir, out, re.M)]
    return [int(m.group(1)) for m in re.finditer(r"^ *(\d+) +(\d+) nginx: worker", out, re.M)
            if int(m.group(2)) in master], master


def test_nginx_reload(www):
    directory, root = configure(www, www.addr, "www-data")
    made = files(root, (200000, 30000, 1448, 100))
    p = www.run_server(argv(directory), PORT)
    www.discard_output(p)
    with carried(www, "nginx, reload under load", connections=8), asking(www, PORT, made, 8) as counts:
        for _ in range(scale(6, 3)):
            time.sleep(0.5)
            old, master = workers_of(www)
            assert len(master) == 1 and len(old) >= 4
            before = counts["answers"]
            os.kill(master[0], signal.SIGHUP)
            wait_for(lambda: not set(old) & set(workers_of(www)[0]), 15, "old workers gone")
            wait_for(lambda: counts["answers"] > before + 50, 10, "answers by the new workers")
    assert p.poll() is None
    with open(os.path.join(directory, "error.log")) as f:
        assert not re.search(r"exited on signal|\[(alert|crit|emerg)\]", f.read())


WRK = """done = function(s, l, r)
 io.write(string.format('{"requests": %d, "connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}\\n',
 s.requests, s.errors.connect, s.errors.read, s.errors.write, s.errors.status, s.errors.timeout)) end
"""


def held(pid):
    """Memory in KiB (not of files; a process's part of what it shares) and open descriptors."""
    with open("/proc/%d/smaps_rollup" % pid) as f:
        text = f.read()
    kib = sum(int(re.search(r"^%s: +(\d+)" % k, text, re.M).group(1)) for k in ("Pss_Anon", "Pss_Shmem"))
    return kib, len(os.listdir("/proc/%d/fd" % pid))


def sample(lab):
    """What the service, the master and the youngest four workers hold."""
    workers, master = workers_of(lab)
    workers = sorted(workers, key=lambda p: os.stat("/proc/%d" % p).st_mtime)[-4:]
    of_workers = []
    for p in workers:
        try:
            of_workers.append(held(p))
        except (FileNotFoundError, ProcessLookupError):
            pass
    service, of_master = held(lab.service.pid) if lab.service else (0, 0), held(master[0])
    return {"service KiB": service[0], "service descriptors": service[1],
            "master KiB": of_master[0], "master descriptors": of_master[1],
            "worker KiB": max((x[0] for x in of_workers), default=0),
            "worker descriptors": max((x[1] for x in of_workers), default=0)}


def reload_under_wrk(lab, seconds):
    """A reload every second. What wrk says, what two careful clients found, the samples before each reload."""
    directory, root = configure(lab, lab.addr, "www-data")
    made = files(root, (200000, 30000, 1448, 100))
    server = lab.run_server(argv(directory), PORT)
    lab.discard_output(server)
    script = write(os.path.join(lab.dir, "wrk.lua"), WRK)
    samples, reloads = [], 0
    master = wait_for(lambda: workers_of(lab)[1], 5, "the master")[0]
    wrk = lab.spawn(lab.client, [need("wrk"), "-t", 1, "-c", 32, "-d", "%ds" % seconds, "--timeout", "10s", "-s", script,
                                 "http://%s:%d/f2" % (lab.addr, PORT)])
    with asking(lab, PORT, made, 2) as counts:
        while wrk.poll() is None:
            time.sleep(1)
            samples.append(sample(lab))
            os.kill(master, signal.SIGHUP)
            reloads += 1
            assert reloads < seconds + 30, "wrk does not end"
    out = wrk.stdout.read().decode()
    said = json.loads([x for x in out.splitlines() if x.startswith("{")][-1])
    said.update(reloads=reloads, answers=counts["answers"], ended=counts["ended"])
    assert server.poll() is None
    wait_for(lambda: len(workers_of(lab)[0]) == 4, 15, "old workers gone")
    with open(os.path.join(directory, "error.log")) as f:
        assert not re.search(r"exited on signal|\[(alert|crit|emerg)\]", f.read())
    return said, samples


@pytest.mark.seconds(1500)
def test_nginx_reload_every_second(www):
    """Under wrk: no request fails that does not on plain Linux, and nothing grows.

    TIME_WAIT is a minute, so only after that all tables have been in use as far as they will be: the long run begins
    to count there, and allows for next to nothing. tests/net/test_memory.py is the short way to the same.
    """
    with carried(www, "nginx, a reload every second under wrk", connections=32, share=0.5):
        said, samples = reload_under_wrk(www, scale(600, 6))
    usual = said
    if not www.plain:
        wait_for(lambda: www.status()["fast"] + www.status()["closing"] == 0, 10, "all flows closed: %s" % www.flows()[:3])
        status = www.tapas("status", "--json")
        with Lab("plain") as plain:
            usual, _ = reload_under_wrk(plain, scale(60, 3))
    early, late = ({k: statistics.median(x[k] for x in part) for k in samples[0]} for part in
                   (samples[scale(90, 2):scale(130, 5)], samples[-scale(40, 3):]))
    print("wrk: %s\nplain Linux: %s\nearly: %s\nat the end: %s" % (said, usual, early, late))
    print("service KiB: %s" % [statistics.median(x["service KiB"] for x in samples[i:i + 30])
                               for i in range(0, len(samples), 30)])

    def failed(x):
        return sum(x[k] for k in ("connect", "read", "write", "timeout", "status"))

    assert said["requests"] > 100 and said["answers"] > 20, said
    assert said["connect"] == said["write"] == said["timeout"] == said["status"] == 0, (said, usual)
    # each reload ends every connection once, between two answers; the last one comes when wrk has ended
    assert failed(said) / (said["reloads"] - 1) <= 2 + 1.25 * failed(usual) / (usual["reloads"] - 1), (said, usual)
    if not www.plain:
        assert status["apps"] <= 5, status  # the master and its workers
        assert late["service KiB"] <= early["service KiB"] + scale(512, 4096), (early, late)
        assert late["master KiB"] <= early["master KiB"] + 256, (early, late)
        assert late["worker KiB"] <= early["worker KiB"] + scale(512, 4096), (early, late)
        for who in ("service", "master", "worker"):
            assert late[who + " descriptors"] <= early[who + " descriptors"] + scale(8, 60), (who, early, late)
