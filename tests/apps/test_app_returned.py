# SPDX-License-Identifier: GPL-2.0-or-later
"""redis and nginx while single connections of theirs, picked by chance, are given back to Linux and adopted again, on a
wire that loses one frame in a hundred. Requests are pipelined, so that bytes are on their way in both directions; every
byte of every answer is compared, and no connection may end."""
import os
import random
import re
import socket
import threading

from apps import carried, files, own_dir, scale
from test_app_nginx import argv as nginx_argv
from test_app_nginx import configure
from resp import Redis, encode
from test_app_redis import argv as redis_argv
from test_return import ReleasingSome, returned

REDIS, HTTP = 6379, 8080
LOSS = ["drop=1", "seed=91"]
DEPTH = 12  # requests on their way


class Pipeline:
    """One connection: a thread writes requests, another reads and compares the answers, until told to end."""

    def __init__(self, sock, requests):
        self.sock, self.requests, self.error, self.answers = sock, requests, None, 0
        self.expected, self.room, self.stop = [], threading.Semaphore(DEPTH), threading.Event()
        self.queued = threading.Semaphore(0)
        self.threads = [threading.Thread(target=self.guarded, args=(body,), daemon=True)
                        for body in (self.write, self.read)]
        for t in self.threads:
            t.start()

    def guarded(self, body):
        try:
            body()
        except BaseException as e:  # handed to end()
            self.error = self.error or e
            self.stop.set()
            for s in (self.room, self.queued):
                s.release()

    def write(self):
        for data, check in self.requests:
            self.room.acquire()
            if self.stop.is_set():
                break
            self.expected.append(check)
            self.queued.release()
            self.sock.sendall(data)
        self.expected.append(None)
        self.queued.release()

    def read(self):
        while True:
            self.queued.acquire()
            if self.error:
                return
            check = self.expected.pop(0)
            if check is None:
                return
            check()
            self.answers += 1
            self.room.release()

    def end(self, timeout):
        self.stop.set()
        self.room.release()
        for t in self.threads:
            t.join(timeout)
        assert not self.error, self.error
        assert not any(t.is_alive() for t in self.threads), "a connection stands still"


def redis_pipeline(lab, number):
    r = Redis(lab.connect(REDIS, timeout=30))

    def wants(value):
        def check():
            assert r.answer() == value
        return check

    def requests():
        rnd, n, stored = random.Random(number), 0, {}
        while True:
            n += 1
            if rnd.random() < 0.5 or not stored:
                key = b"%d:%d" % (number, n % 20)
                stored[key] = rnd.randbytes(rnd.choice((1, 100, 1448, 5000, 60000)))
                yield encode("SET", key, stored[key]), wants(b"OK")
            else:
                key = rnd.choice(list(stored))
                yield encode("GET", key), wants(stored[key])

    return Pipeline(r.sock, requests())


def nginx_pipeline(lab, number, made):
    sock = lab.connect(HTTP, timeout=30)
    file = sock.makefile("rb", 1 << 20)

    def wants(status, value):
        def check():
            line = file.readline()
            assert re.match(rb"HTTP/1.1 (%s) " % status, line), line
            length = 0
            while line not in (b"\r\n", b""):
                line = file.readline()
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            data = file.read(length)
            assert len(data) == length and (value is None or data == value), (len(data), length)
        return check

    def requests():
        rnd, mine = random.Random(number), None
        while True:
            what = rnd.random()
            if what < 0.4:
                mine = rnd.randbytes(rnd.choice((1, 1448, 20000, 60000)))
                yield (b"PUT /put/%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (number, len(mine)) + mine,
                       wants(b"201|204", None))
            elif what < 0.7 and mine is not None:
                yield b"GET /put/%d HTTP/1.1\r\nHost: x\r\n\r\n" % number, wants(b"200", mine)
            else:
                name = rnd.choice(list(made))
                yield b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % name.encode(), wants(b"200", made[name])

    p = Pipeline(sock, requests())
    p.file = file
    return p


def back_and_forth(lab, name, pipelines, least):
    """All connections stay, with every byte right, while @least of them go back, and come again. How much the service
    carries depends on how fast they are given back: one in ten milliseconds, as soon as it is there."""
    with carried(lab, name, connections=len(pipelines), share=0.2):
        with ReleasingSome(lab, 0.01) as r:
            r.times(least, scale(400, 30))
        assert all(p.answers > 0 for p in pipelines), [p.answers for p in pipelines]
        for p in pipelines:
            p.end(60)
        answers = sum(p.answers for p in pipelines)
    if not lab.plain:
        again = lab.counters()["adopted"] - len(set(re.findall(r"(\S+ > \S+): adopting to fast", lab.log())))
        print("%s: %d answers; %d returns, %d adopted again" % (name, answers, lab.counters()["returned"], again))
        assert again >= least // 2, lab.counters()
    for p in pipelines:
        p.sock.shutdown(socket.SHUT_RDWR)  # the file keeps it open
    returned(lab, least)


def test_redis_returned(make_lab, mode):
    lab = make_lab(mode, middlebox=LOSS)
    lab.discard_output(lab.run_server(redis_argv(lab.addr, own_dir(lab, "d")), REDIS))
    back_and_forth(lab, "redis, given back and adopted again", [redis_pipeline(lab, i) for i in range(8)], scale(1000, 40))


def test_nginx_returned(make_lab, mode):
    lab = make_lab(mode, config={"service": {"group": "www-data"}}, middlebox=LOSS)
    directory, root = configure(lab, lab.addr, "www-data")
    made = files(root, (200000, 30000, 1448, 100))
    lab.discard_output(lab.run_server(nginx_argv(directory), HTTP))
    back_and_forth(lab, "nginx, given back and adopted again", [nginx_pipeline(lab, i, made) for i in range(8)],
                   scale(1000, 40))
    with open(os.path.join(directory, "error.log")) as f:
        assert not re.search(r"exited on signal|\[(alert|crit|emerg)\]", f.read())
