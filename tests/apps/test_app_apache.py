# SPDX-License-Identifier: GPL-2.0-or-later
"""Apache httpd with its event and its prefork module, as root and www-data; graceful restart under load."""
import os
import signal
import time

import pytest

from apps import asking, carried, files, http_warm_get_all, lab_for, need, own_dir, scale, write
from lab import wait_for

PORT = 8080
CONF = """ServerRoot %(dir)s
ServerName tapas.test
Listen %(addr)s:%(port)d
PidFile %(dir)s/pid
DefaultRuntimeDir %(dir)s
User www-data
Group www-data
LoadModule mpm_%(mpm)s_module /usr/lib/apache2/modules/mod_mpm_%(mpm)s.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
ErrorLog %(dir)s/error.log
DocumentRoot %(root)s
KeepAlive On
MaxKeepAliveRequests 0
KeepAliveTimeout 30
EnableSendfile %(sendfile)s
StartServers 4
MaxConnectionsPerChild 0
"""


@pytest.fixture
def www(make_lab, mode):
    return lab_for(make_lab, mode, "www-data")


def start(lab, mpm, sendfile="On", sizes=(3 << 20, 1 << 20, 65536, 1448, 1, 0)):
    directory, root = own_dir(lab, "apache"), own_dir(lab, "www")
    made = files(root, sizes)
    path = write(os.path.join(directory, "conf"), CONF % {
        "dir": directory, "addr": lab.addr, "port": PORT, "mpm": mpm, "root": root, "sendfile": sendfile})
    p = lab.run_server([need("apache2"), "-f", path, "-DFOREGROUND"], PORT)
    lab.discard_output(p)
    return p, made, directory


@pytest.mark.parametrize("sendfile", ["On", "Off"])
@pytest.mark.parametrize("mpm", ["event", "prefork", "worker"])
def test_apache(www, mpm, sendfile):
    _, made, _ = start(www, mpm, sendfile)
    with carried(www, "Apache httpd, %s, sendfile %s" % (mpm, sendfile.lower()), connections=6):
        for c in http_warm_get_all(www, PORT, made, 6, scale(10, 2)):
            c.close()


@pytest.mark.parametrize("mpm", ["event", "prefork"])
def test_apache_graceful(www, mpm):
    """SIGUSR1: children finish what they have; no answer may be cut off.

    A connection's first request is the smallest. The event module counts a connection only when a worker has begun with
    it: a child that accepts its first one while it is told to end takes itself for idle, answers, and ends without
    waiting for what the socket could not take at once. Linux's accept() is quick enough to hide that; one that takes
    some milliseconds shows it on Linux alone.
    """
    p, made, directory = start(www, mpm, sizes=(1000, 20000, 200000))
    with carried(www, "Apache httpd, %s, graceful restart" % mpm, connections=6), asking(www, PORT, made, 4) as counts:
        for _ in range(scale(5, 2)):
            time.sleep(0.7)
            before = counts["answers"]
            with open(os.path.join(directory, "pid")) as f:
                os.kill(int(f.read()), signal.SIGUSR1)
            wait_for(lambda: counts["answers"] > before + 100, 15, "answers after the restart")
    assert p.poll() is None
