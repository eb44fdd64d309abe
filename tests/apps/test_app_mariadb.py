# SPDX-License-Identifier: GPL-2.0-or-later
"""MariaDB: a thread for each connection, and a pool of threads; started by root, runs as mysql."""
import os
import random

import pytest

from apps import carried, lab_for, need, own_dir, scale, write

PORT, USER = 3306, "mysql"


@pytest.fixture
def db(make_lab, mode):
    return lab_for(make_lab, mode, USER)


def start(lab, threads, *more):
    server, install = need("mariadbd", "mariadb-install-db")
    data = own_dir(lab, "data", USER)
    lab.server.run([install, "--no-defaults", "--user=" + USER, "--datadir=" + data,
                    "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"])
    init = write(os.path.join(lab.dir, "init.sql"), "create user 'u'@'%' identified by 'secret';\n"
                 "grant all on *.* to 'u'@'%';\ncreate database d;\n")
    lab.discard_output(lab.run_server([
        server, "--no-defaults", "--user", USER, "--datadir", data, "--bind-address", lab.addr, "--port", PORT,
        "--socket", os.path.join(data, "s"), "--pid-file", os.path.join(data, "pid"), "--skip-name-resolve",
        "--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0", "--thread-handling", threads,
        "--max-allowed-packet=64M", "--init-file", init, *more], PORT))


def client(lab, name, *args):
    return [need(name), "--no-defaults", "-h", lab.addr, "-P", PORT, "-u", "u", "-psecret", *args]


def test_mariadb_io_uring(db):
    """As Debian has it: the io_uring that it opens for its files keeps its sockets with Linux."""
    start(db, "pool-of-threads")
    rnd = random.Random(7)
    with carried(db, "MariaDB, files by io_uring", exempt="opens an io_uring"):
        for size in (1, 50000, 3000000):
            text = rnd.randbytes(size // 2 + 1).hex()
            r = db.run_client(client(db, "mariadb", "-N", "-B", "d"), input="select '%s';\n" % text)
            assert r.stdout == text + "\n"


@pytest.mark.parametrize("threads", ["one-thread-per-connection", "pool-of-threads"])
def test_mariadb(db, threads):
    start(db, threads, "--innodb-use-native-aio=0")
    rnd = random.Random(6)
    rows = ["%d\t%s\n" % (i, rnd.randbytes(rnd.choice((1, 50, 700, 8000))).hex()) for i in range(scale(10000, 1000))]
    script = "create table t (id int primary key, v mediumtext);\n" + "".join(
        "insert into t values (%s, '%s');\n" % tuple(r.split()) for r in rows)
    with carried(db, "MariaDB, " + threads, connections=10):
        db.run_client(client(db, "mariadb", "d"), input=script)
        r = db.run_client(client(db, "mariadb", "-N", "-B", "d", "-e", "select * from t order by id"))
        assert r.stdout == "".join(rows)
        r = db.run_client(client(db, "mariadb", "-N", "-B", "d", "-e", "select length(repeat('x', 9000000)), "
                                 "repeat('y', 3000000)", "--max-allowed-packet=64M"))
        assert r.stdout == "9000000\t%s\n" % ("y" * 3000000)
        n = scale(20000, 1600)
        db.run_client(client(db, "mariadb-slap", "--create-schema=d2", "--concurrency=8", "--number-of-queries=%d" % n,
                             "--auto-generate-sql", "--auto-generate-sql-load-type=mixed"))
