# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that fork or execute for each connection: rsync daemon, sshd (and rsync, sftp over it), socat in its modes,
git daemon."""
import filecmp
import os
import random
import socket
import subprocess

import pytest

from apps import carried, data_of, echo, echo_at_once, need, own_dir, scale, write
from lab import run_prefix, wait_for


def tree(path, n=None, seed=1):
    rnd = random.Random(seed)
    for i in range(n or scale(200, 40)):
        d = os.path.join(path, "d%d" % (i % 7))
        os.makedirs(d, exist_ok=True)
        write(os.path.join(d, "f%d" % i), rnd.randbytes(rnd.choice((0, 1, 1448, 30000, 300000))), "wb")
    return path


def same(a, b):
    c = filecmp.dircmp(a, b, ignore=[])
    assert not c.left_only and not c.right_only and not c.funny_files, (c.left_only, c.right_only)
    _, wrong, errors = filecmp.cmpfiles(a, b, c.common_files, shallow=False)
    assert not wrong and not errors, (wrong, errors)
    for d in c.common_dirs:
        same(os.path.join(a, d), os.path.join(b, d))


@pytest.mark.parametrize("who", ["server", "client"])
def test_rsync_daemon(lab, who):
    rsync = need("rsync")
    addr = lab.addr if who == "server" else lab.sources[0]
    src, mod = tree(own_dir(lab, "src")), own_dir(lab, "mod")
    conf = write(os.path.join(lab.dir, "rsyncd.conf"), "use chroot = no\nuid = root\ngid = root\nlog file = %s/log\n"
                 "[m]\npath = %s\nread only = no\n" % (lab.dir, mod))
    server = [rsync, "--daemon", "--no-detach", "--config", conf, "--address", addr, "--port", 8730]
    if who == "server":
        lab.run_server(server, 8730)
        run = lab.run_client
    else:
        lab.spawn(lab.client, server)
        wait_for(lambda: lab.client.run(["ss", "-tlnH", "sport = :8730"]).stdout, 10, "rsync daemon")
        run = lab.run_accelerated
    url = "rsync://%s:8730/m/" % addr
    with carried(lab, "rsync daemon, %s" % who, connections=3):
        run([rsync, "-a", src + "/", url + "t/"])
        same(src, os.path.join(mod, "t"))
        back = own_dir(lab, "back")
        run([rsync, "-a", url + "t/", back])
        same(src, back)
        tree(src, seed=2)
        run([rsync, "-a", "--checksum", "--delete", src + "/", url + "t/"])
        same(src, os.path.join(mod, "t"))


def test_sshd(lab):
    sshd, keygen = need("sshd", "ssh-keygen")
    need("ssh", "sftp", "rsync")
    os.makedirs("/run/sshd", exist_ok=True)
    directory = own_dir(lab, "ssh")
    os.chmod(directory, 0o700)
    for k in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", os.path.join(directory, k)], check=True)
    conf = write(os.path.join(directory, "sshd_config"), """ListenAddress %s:2222
HostKey %s/host
PidFile none
PermitRootLogin yes
StrictModes no
UsePAM no
AuthorizedKeysFile %s/user.pub
Subsystem sftp internal-sftp
""" % (lab.addr, directory, directory))
    lab.run_server([sshd, "-D", "-e", "-f", conf], 2222)
    options = ["-i", directory + "/user", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o",
               "IdentitiesOnly=yes", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes"]
    ssh = ["ssh", "-F", "none", "-p", 2222, *options, "root@" + lab.addr]
    big = write(os.path.join(lab.dir, "big"), data_of(3, scale(64, 6) << 20), "wb")
    # the sandboxed child of each connection, which authenticates, has it with Linux; then the monitor goes on
    with carried(lab, "sshd", connections=4, share=0.8):
        r = lab.run_client([*ssh, "echo out; echo err >&2; exit 7"], check=False)
        assert (r.returncode, r.stdout, r.stderr) == (7, "out\n", "err\n")
        with open(big, "rb") as f:
            r = lab.run_client([*ssh, "cat; echo done >&2"], stdin=f, text=False)
        assert r.stdout == data_of(3, scale(64, 6) << 20) and r.stderr == b"done\n"
        r = lab.run_client([*ssh, "-tt", "stty size; echo tty"], check=False)
        assert "tty" in r.stdout
        batch = write(os.path.join(lab.dir, "batch"), "put %s %s.up\nget %s.up %s.down\n" % (big, big, big, big))
        lab.run_client(["sftp", "-F", "none", "-P", 2222, "-q", "-b", batch, *options, "root@" + lab.addr])
        assert filecmp.cmp(big, big + ".up", False) and filecmp.cmp(big, big + ".down", False)
    src, dst = tree(own_dir(lab, "src")), own_dir(lab, "dst")
    with carried(lab, "rsync over ssh", share=0.5):
        lab.run_client(["rsync", "-a", "-e", " ".join(map(str, ["ssh", "-F", "none", "-p", 2222, *options])), src + "/",
                        "root@%s:%s" % (lab.addr, dst)])
        same(src, dst)


def exchange(lab, port, connections=3, terminal=False):
    """What an echo gives back: small messages, then a large one."""
    for k in range(connections):
        s = lab.connect(port, timeout=20)
        f = s.makefile("rb", 1 << 16)
        echo(s, f, (data_of(i, 1 + 150 * i) for i in range(20)))
        if terminal:  # holds 4 kB; socat waits for room in it, and so would not read what comes back
            echo(s, f, (data_of(i, 1448) for i in range(scale(1000, 100))))
            s.close()
            continue
        echo_at_once(s, f, data_of(k, scale(16, 2) << 20))
        s.shutdown(socket.SHUT_WR)
        assert f.read() == b""
        s.close()


def await_attached(lab, port):
    """A conversation until it is carried: XDP is attached on demand, and a program that is short of it may be over."""
    s = lab.connect(port, timeout=20)
    f = s.makefile("rb", 1 << 16)

    def is_carried():
        echo(s, f, (data_of(i, 1 + 150 * i) for i in range(20)))
        return lab.plain or lab.counters()["adopted"] > 0

    wait_for(is_carried, 10, "a connection adopted")
    s.close()


# socat's writes to a pipe must not block, or it and whoever reads the pipe wait for each other: pieces of a page
SOCAT = {
    "PIPE": ["-b", "4096", "TCP-LISTEN:{p},fork,reuseaddr,bind={a}", "PIPE"],
    "EXEC with sockets": ["TCP-LISTEN:{p},fork,reuseaddr,bind={a}", "EXEC:cat"],
    "EXEC with pipes": ["-b", "4096", "TCP-LISTEN:{p},fork,reuseaddr,bind={a}", "EXEC:cat,pipes"],
    "EXEC, nofork": ["TCP-LISTEN:{p},fork,reuseaddr,bind={a}", "EXEC:cat,nofork"],
    "EXEC with a terminal": ["TCP-LISTEN:{p},fork,reuseaddr,bind={a}", "EXEC:cat,pty,raw,echo=0"],
    "relay": ["TCP-LISTEN:{p},fork,reuseaddr,bind={a}", "TCP:{b}:{q}"],
}


@pytest.mark.parametrize("how", SOCAT)
def test_socat(lab, how):
    p, q = 7000, 7001
    argv = [x.format(p=p, q=q, a=lab.addr, b=lab.sources[0]) for x in SOCAT[how]]
    if how == "relay":
        lab.spawn(lab.client, [need("socat"), "-b", 4096, "TCP-LISTEN:%d,fork,reuseaddr,bind=%s" % (q, lab.sources[0]), "PIPE"])
        wait_for(lambda: lab.client.run(["ss", "-tlnH", "sport = :%d" % q]).stdout, 10, "back end")
    lab.run_server([need("socat"), *argv], p)
    if "nofork" in how:  # each connection is a program of its own
        await_attached(lab, p)
    with carried(lab, "socat, " + how, connections=6 if how == "relay" else 3):
        exchange(lab, p, terminal="terminal" in how)


def test_socat_files(lab):
    """One connection, one way: a file to the peer, a file from it, and standard input and output of a client."""
    data = data_of(9, scale(64, 4) << 20)
    path = write(os.path.join(lab.dir, "data"), data, "wb")
    socat = need("socat")
    with carried(lab, "socat, files", connections=3):
        p = lab.run_server([socat, "-u", "OPEN:" + path, "TCP-LISTEN:7000,reuseaddr,bind=" + lab.addr], 7000)
        s = lab.connect(7000, timeout=20)
        with s.makefile("rb") as f:
            assert f.read() == data
        s.close()
        assert p.wait(10) == 0
        p = lab.run_server([socat, "-u", "TCP-LISTEN:7001,reuseaddr,bind=" + lab.addr, "CREATE:%s.got" % path], 7001)
        s = lab.connect(7001, timeout=20)
        s.sendall(data)
        s.close()
        assert p.wait(10) == 0
        with open(path + ".got", "rb") as f:
            assert f.read() == data
        lab.spawn(lab.client, [socat, "-b", 4096, "TCP-LISTEN:7002,reuseaddr,bind=" + lab.sources[0], "PIPE"])
        wait_for(lambda: lab.client.run(["ss", "-tlnH", "sport = :7002"]).stdout, 10, "echo")
        with open(path, "rb") as f:
            r = lab.run_accelerated([socat, "-t", 10, "-", "TCP:%s:7002" % lab.sources[0]], stdin=f, text=False)
        assert r.stdout == data


@pytest.mark.parametrize("who", ["server", "client"])
def test_git_daemon(lab, who):
    git = need("git")
    addr = lab.addr if who == "server" else lab.sources[0]
    base = own_dir(lab, "base")
    repo = os.path.join(base, "r")
    env = dict(lab.env(), GIT_CONFIG_GLOBAL=write(os.path.join(lab.dir, "gitconfig"), "[safe]\n directory = *\n[user]\n"
                                                  " name = t\n email = t@example.org\n"), GIT_CONFIG_NOSYSTEM="1",
               GIT_TERMINAL_PROMPT="0")

    def local(*args, where=repo):
        return subprocess.run([git, "-C", where, *args], env=env, check=True, capture_output=True, text=True).stdout

    os.makedirs(repo)
    local("init", "-q", "-b", "main")
    for k in range(3):
        tree(repo, seed=k)
        local("add", "-A")
        local("commit", "-q", "-m", "c%d" % k)
    local("config", "receive.denyCurrentBranch", "ignore")
    server = [git, "daemon", "--reuseaddr", "--export-all", "--enable=receive-pack", "--base-path=" + base, "--listen=" +
              addr, "--port=9418", base]
    if who == "server":
        lab.run_server(server, 9418, env=env)
        host, prefix = lab.client, []
    else:
        lab.spawn(lab.client, server, env=env)
        wait_for(lambda: lab.client.run(["ss", "-tlnH", "sport = :9418"]).stdout, 10, "git daemon")
        host, prefix = lab.server, [] if lab.plain else run_prefix()
    clone = os.path.join(lab.dir, "clone")
    with carried(lab, "git daemon, %s" % who, connections=2):
        host.run([*prefix, git, "clone", "-q", "git://%s/r" % addr, clone], env=env)
        local("fsck", "--full", where=clone)
        assert local("rev-parse", "HEAD", where=clone) == local("rev-parse", "HEAD")
        tree(clone, seed=9)
        local("add", "-A", where=clone)
        local("commit", "-q", "-m", "more", where=clone)
        host.run([*prefix, git, "-C", clone, "push", "-q", "origin", "HEAD:refs/heads/pushed"], env=env)
        assert local("rev-parse", "HEAD", where=clone) == local("rev-parse", "refs/heads/pushed")
        local("fsck", "--full")
