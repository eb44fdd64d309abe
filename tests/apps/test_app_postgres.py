# SPDX-License-Identifier: GPL-2.0-or-later
"""PostgreSQL: the postmaster accepts and forks a process for each connection; pgbench; data out and in by COPY."""
import glob
import hashlib
import os
import random

import pytest

from apps import accelerated_as, as_user, carried, lab_for, own_dir, scale, skip_if_sanitizer_hangs, write
from lab import wait_for

PORT, USER = 5432, "postgres"


def program(name):
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/" + name))
    assert found, "%s is missing: run tests/setup.sh" % name
    return found[-1]


def start(lab, addr, accelerated):
    host = lab.server if addr == lab.addr else lab.client
    skip_if_sanitizer_hangs(program("postgres"))
    data = own_dir(lab, "data", USER)
    host.run(as_user(USER, [program("initdb"), "-D", data, "-A", "trust", "-N", "--no-locale", "-E", "UTF8"]))
    write(os.path.join(data, "pg_hba.conf"), "host all all 10.77.0.0/16 trust\n")
    argv = [program("postgres"), "-D", data, "-h", addr, "-p", PORT, "-k", "", "-c", "fsync=off", "-c",
            "shared_buffers=32MB", "-c", "max_connections=60"]
    p = lab.spawn(host, accelerated_as(lab, USER, argv) if accelerated else as_user(USER, argv))
    lab.discard_output(p)
    ready = [program("pg_isready"), "-q", "-h", addr, "-p", PORT]
    wait_for(lambda: host.run(ready, check=False).returncode == 0, 20, "postgres ready")
    return p


def client(addr, name, *args):
    return [program(name), "-h", addr, "-p", PORT, "-U", USER, *args]


def pgbench(addr, *more):
    return client(addr, "pgbench", "-n", "-c", 8, "-j", 2, *more, "postgres")


@pytest.fixture
def pg(make_lab, mode):
    return lab_for(make_lab, mode, USER)


def test_postgres_pgbench(pg):
    start(pg, pg.addr, True)
    pg.run_client(client(pg.addr, "pgbench", "-i", "-q", "-s", 1, "postgres"))
    n = scale(2000, 150)
    with carried(pg, "PostgreSQL, pgbench", connections=24):
        for protocol in ("simple", "extended", "prepared"):
            r = pg.run_client(pgbench(pg.addr, "-t", n, "-M", protocol))
            assert "processed: %d/%d" % (8 * n, 8 * n) in r.stdout, r.stdout + r.stderr
    r = pg.run_client(client(pg.addr, "psql", "-Atc", "select count(*), (select sum(bbalance) from pgbench_branches) ="
                             " (select sum(abalance) from pgbench_accounts) from pgbench_history", "postgres"))
    assert r.stdout.split("|") == [str(24 * n), "t\n"]


def test_postgres_copy(pg):
    start(pg, pg.addr, True)
    rnd = random.Random(5)
    rows = "".join("%d\t%s\n" % (i, rnd.randbytes(rnd.randrange(2, 2000)).hex()) for i in range(scale(20000, 3000)))
    path = write(os.path.join(pg.dir, "rows"), rows)
    with carried(pg, "PostgreSQL, COPY in and out"):
        script = ("create table t (id int primary key, v text);\n\\copy t from %s\n"
                  "\\copy (select * from t order by id) to %s.out\n"
                  "select md5(string_agg(v, '' order by id)) from t;\n" % (path, path))
        r = pg.run_client(client(pg.addr, "psql", "-qAt", "-v", "ON_ERROR_STOP=1", "postgres"), input=script)
    with open(path + ".out") as f:
        assert f.read() == rows
    all_values = "".join(line.split("\t")[1] for line in rows.splitlines())
    assert r.stdout.split() == [hashlib.md5(all_values.encode()).hexdigest()]


def test_postgres_notify(pg):
    """A session that sleeps until another one speaks; cancelling a query by a second connection."""
    start(pg, pg.addr, True)
    with carried(pg, "PostgreSQL, LISTEN and cancel", at_least=1000, share=0.5):
        script = "listen n;\nselect 1;\nselect pg_notify('n', repeat('x', 7000));\nselect pg_sleep(0.2);\nselect 2;\n"
        r = pg.run_client(client(pg.addr, "psql", "-qAt", "postgres"), input=script)
        assert r.stdout.startswith("1\n") and "x" * 7000 in r.stdout
        r = pg.run_client(client(pg.addr, "psql", "-qAt", "postgres"), check=False,
                          input="set statement_timeout = 300;\nselect pg_sleep(20);\nselect 3;\n")
        assert r.stdout == "3\n" and "statement timeout" in r.stderr


def test_postgres_client(pg):
    """pgbench accelerated, the server plain and elsewhere."""
    start(pg, pg.sources[0], False)
    pg.run_client(client(pg.sources[0], "pgbench", "-i", "-q", "-s", 1, "postgres"))
    n = scale(2000, 150)
    with carried(pg, "pgbench as client", connections=8):
        r = pg.run_accelerated(pgbench(pg.sources[0], "-t", n))
        assert "processed: %d/%d" % (8 * n, 8 * n) in r.stdout, r.stdout + r.stderr
