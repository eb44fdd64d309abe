# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of whole programs share: the figure of each, and small ways to make data and ask for it.

The figure is the share of the TCP payload of the *client* host (which is plain Linux) that the service carried. It
goes into apps.json beside the binaries, with what went wrong if something did; table.py makes a table of it.
"""
import contextlib
import http.client
import json
import os
import random
import shutil
import subprocess
import sys
import threading

import pytest

from lab import ASAN_LIBRARY, BUILD, FULL, FastShare, run_prefix, scale  # noqa: F401: scale is for the tests

SERVERS = os.path.join(os.path.dirname(os.path.realpath(__file__)), "servers")
FIGURES = os.path.join(BUILD, "apps.json")
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
SHARE = 0.90


def need(*programs):
    """The programs' paths. What tests/setup.sh installs must be there: a missing program fails the test."""
    os.environ["PATH"] += "".join(":" + d for d in ("/usr/sbin", "/sbin") if d not in os.environ["PATH"].split(":"))
    found = [shutil.which(p) for p in programs]
    for program, path in zip(programs, found):
        assert path, "%s is missing: run tests/setup.sh" % program
    return found[0] if len(found) == 1 else found


def skip_if_sanitizer_hangs(path):
    """Some programs hang at their start under the sanitizer alone, without our library."""
    if ASAN_LIBRARY:
        try:
            subprocess.run([path, "--version"], env=dict(os.environ, LD_PRELOAD=ASAN_LIBRARY), timeout=5,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            pytest.skip("%s hangs under the sanitizer alone" % path)


def record(program, figure):
    try:
        with open(FIGURES) as f:
            all_figures = json.load(f)
    except (FileNotFoundError, ValueError):
        all_figures = {}
    all_figures[program] = figure
    os.makedirs(os.path.dirname(FIGURES), exist_ok=True)
    with open(FIGURES + ".tmp", "w") as f:
        json.dump(all_figures, f, indent=1, sort_keys=True)
        f.write("\n")
    os.rename(FIGURES + ".tmp", FIGURES)


def refusals(lab):
    """Reasons why connections of this moment are with Linux, counted."""
    count = {}
    for f in lab.flows("LINUX"):
        count[f["reason"]] = count.get(f["reason"], 0) + 1
    return count


def local_payload(host):
    """TCP payload between programs of that host so far, counted where it was sent and where it was received."""
    lo = json.loads(host.run(["ip", "-j", "-s", "link", "show", "lo"]).stdout)[0]["stats64"]["tx"]
    return 2 * (lo["bytes"] - 66 * lo["packets"])


@contextlib.contextmanager
def carried(lab, program, connections=1, share=SHARE, exempt=None, at_least=100000):
    """The work inside must go by the fast path: that many connections at least, and that share of the bytes.

    @exempt is the reason why a program's share is not judged; it is measured all the same. @at_least bytes must have
    been moved, so that a share of nothing is not a success.
    """
    figure = {"mode": lab.mode, "ok": False, "share": None, "exempt": exempt or ""}
    local = local_payload(lab.client)
    measure = FastShare(lab)
    try:
        try:
            yield measure
        except BaseException as e:
            figure["wrong"] = ("%s: %s" % (type(e).__name__, e)).splitlines()[0][:200]
            raise
        finally:
            if not lab.plain:
                measure.measure()
                measure.payload -= local_payload(lab.client) - local
                figure["share"] = round(min(1.0, measure.fast / max(1, measure.payload)), 4)
                figure.update(bytes=measure.payload, fast_bytes=measure.fast, adopted=measure.delta["adopted"],
                              with_linux=refusals(lab))
        if not lab.plain:
            said = {k: v for k, v in measure.delta.items() if v}
            assert measure.payload >= at_least, "only %d bytes were moved" % measure.payload
            if not exempt:
                figure["wrong"] = "%d of %d connections adopted" % (measure.delta["adopted"], connections)
                assert measure.delta["adopted"] >= connections, "%s: %s" % (figure["wrong"], said)
                figure["wrong"] = "%.1f %% of the bytes" % (100 * figure["share"])
                assert figure["share"] >= share, "%s by the fast path: %s, with Linux: %s" % (
                    figure["wrong"], said, figure["with_linux"])
        figure["ok"] = True
        figure.pop("wrong", None)
    finally:
        if not lab.plain:
            record(program + (" (exclusive)" if lab.mode == "exclusive" else ""), figure)


def lab_for(make_lab, mode, user=None, **config):
    """A lab whose service admits a user's group besides root."""
    config.setdefault("nic", {})["attach"] = "always"  # a share is judged: short work would be over before it is there
    if user:
        config.setdefault("service", {})["group"] = user
    return make_lab(mode, config=config)


def as_user(user, argv):
    return ["setpriv", "--reuid", user, "--regid", user, "--init-groups", *argv]


def accelerated_as(lab, user, argv):
    """A command line that runs the program as that user with the library, which is put where everybody can read it."""
    if lab.plain:
        return as_user(user, argv)
    where = os.path.join(lab.dir, "bin")
    if not os.path.exists(where):
        os.makedirs(where)
        for name in ("tapas", "libtapas-preload.so"):
            shutil.copy(os.path.join(BUILD, name), where)
    return as_user(user, [*run_prefix(where), *argv])


def own_dir(lab, name, user=None):
    path = os.path.join(lab.dir, name)
    os.makedirs(path)
    if user:
        shutil.chown(path, user, user)
    return path


def write(path, text, mode="w"):
    with open(path, mode) as f:
        f.write(text)
    return path


def data_of(seed, size):
    return random.Random(seed).randbytes(size)


def files(directory, sizes=(3 << 20, 1 << 20, 65536, 1448, 1, 0)):
    """Files f0, f1, ... with random data; returns {name: data}."""
    made = {}
    for i, size in enumerate(sizes):
        made["f%d" % i] = data_of(i, size)
        write(os.path.join(directory, "f%d" % i), made["f%d" % i], "wb")
    return made


def self_signed(lab):
    """A certificate and its key."""
    cert, key = (os.path.join(lab.dir, n) for n in ("cert.pem", "key.pem"))
    subprocess.run([need("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
                    "/CN=tapas.test", "-out", cert, "-keyout", key], check=True, capture_output=True)
    return cert, key


class Http:
    """A kept HTTP/1.1 connection from the plain host."""

    def __init__(self, lab, port, timeout=20, tls=None):
        self.conn = http.client.HTTPConnection(lab.addr, port, timeout=timeout)
        self.conn.auto_open = 0
        self.conn.sock = lab.connect(port, timeout=timeout)
        if tls:
            self.conn.sock = tls.wrap_socket(self.conn.sock)

    def call(self, method, path, body=None, headers=None):
        if not self.conn.sock:
            raise ConnectionResetError("the server has ended the connection after its last answer")
        self.conn.request(method, path, body=body, headers=headers or {})
        r = self.conn.getresponse()
        data = r.read()
        return r.status, data

    def get(self, path, want):
        status, data = self.call("GET", path)
        assert status == 200 and data == want, (path, status, len(data), len(want))

    def close(self):
        self.conn.close()


def http_warm_get_all(lab, port, made, connections, rounds, prefix="/", tls=None):
    """Kept connections ask for every file, in turn, smallest first; all data compared."""
    conns = [Http(lab, port, tls=tls) for _ in range(connections)]
    names = sorted(made, key=lambda n: len(made[n]))
    for _ in range(rounds):
        for n in names:
            for c in conns:
                c.get(prefix + n, made[n])
    return conns


@contextlib.contextmanager
def asking(lab, port, made, clients, more=None):
    """Clients that ask for every file over kept connections, again and again, each in a thread, and do more(connection)
    after each round. A connection that ends between two answers is replaced; what goes wrong otherwise fails the test.
    Yields how many "answers" there were, and how many connections "ended"."""
    stop, errors, counts = threading.Event(), [], {"answers": 0, "ended": 0}

    def get(name):
        def step(c):
            c.get("/" + name, made[name])
            counts["answers"] += 1
        return step

    def ask():
        try:
            c = Http(lab, port)
            while not stop.is_set():
                for step in [get(name) for name in made] + ([more] if more else []):
                    try:
                        step(c)
                    except ConnectionError:  # includes RemoteDisconnected: before an answer's first byte
                        counts["ended"] += 1
                        c.close()
                        c = Http(lab, port)
            c.close()
        except BaseException as e:
            errors.append(e)
            raise

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for t in threads:
        t.start()
    try:
        yield counts
    finally:
        stop.set()
        for t in threads:
            t.join(30)
    assert not errors, errors[0]


def echo(s, f, messages):
    """One after another: each comes back before the next is sent. @f reads from @s."""
    for i, m in enumerate(messages):
        s.sendall(m)
        assert f.read(len(m)) == m, "echo %d" % i


def echo_at_once(s, f, data):
    """Written by a thread while it is read."""
    t = threading.Thread(target=s.sendall, args=(data,), daemon=True)
    t.start()
    assert f.read(len(data)) == data
    t.join(20)


def exit_status(proc, timeout=60):
    out, _ = proc.communicate(timeout=timeout)
    assert proc.returncode == 0, out.decode(errors="replace")[-3000:]
    return out.decode(errors="replace")


slow = pytest.mark.skipif(not FULL, reason="long: TAPAS_FULL=1")
