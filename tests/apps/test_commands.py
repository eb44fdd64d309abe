# SPDX-License-Identifier: GPL-2.0-or-later
"""Everyday commands with the library preloaded, beside the same without: same output, same exit status.

The service runs and admits them, so that the library is whole; nothing here has a connection to accelerate.
"""
import os
import subprocess

import pytest

from apps import BUILD, PYTHON, need, own_dir, write
from lab import ASAN_LIBRARY

COMMANDS = """
ls -l --time-style=full-iso tree words
ls nothing-here
sort -n numbers
sort -R --random-source=numbers words | sort | uniq -c | sort -rn
git -C repo status
git -C repo log --stat --format=%H
git -C repo diff HEAD~1
git -C repo grep -n line
git clone -q repo clone && git -C clone fsck
find tree -type f -newer numbers -o -name '*7*' | sort
find tree -type f -print0 | xargs -0 -n 5 -P 3 md5sum | sort
tar cf - --sort=name --mtime=@0 tree | sha256sum
tar czf t.tgz tree && tar tzf t.tgz | sort && rm t.tgz
gzip -9nc words | gunzip | cmp - words
xz -c words | xz -dc | wc
bzip2 -c words | bzip2 -dc | head -3
awk '{ s += $1 } END { print s, NR }' numbers
awk 'BEGIN { "date -u +%Y -d @0" | getline y; print y; system("exit 3") }'
sed -n 's/a/A/gp;20q' words
grep -rn 'f1' tree | sort
cut -c1-4 words | tr a-z A-Z | uniq | tail -5
head -c 100000 /dev/zero | tail -c 10 | od -c
yes | head -1000 | wc -l
paste -sd+ numbers | bc
diff -u words numbers | head -20
join <(sort words) <(sort words) | wc -l
comm -12 <(sort numbers) <(sort words) | wc -l
python3 -c 'import socket, select, asyncio; print(sum(range(1000)))'
python3 -c 'import subprocess; print(subprocess.run(["echo", "x"], capture_output=True, close_fds=True).stdout)'
python3 -c 'import os; r, w = os.pipe(); p = os.fork(); p or (os.write(w, b"child"), os._exit(4)); print(os.read(r, 9), os.waitpid(p, 0)[1] >> 8)'
python3 -c 'import multiprocessing as m; print(m.get_context("spawn").Pool(2).map(abs, [-1, 2, -3]))'
python3 -c 'import socket; a, b = socket.socketpair(); a.sendall(b"x" * 1000); print(len(b.recv(2000)))'
python3 -c 'import sys; sys.exit(300)'
python3 -c 'import os; os.kill(os.getpid(), 15)'
perl -e 'print join(",", map { $_ * 2 } 1..10), "\\n"; exit 5'
perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1") or die; if (!fork) { $c = IO::Socket::INET->new($s->sockhost . ":" . $s->sockport); print $c "hello\\n"; exit } print $s->accept->getline; wait'
for i in $(seq 200); do (exit $((i % 7))) || s=$((s + 1)); done; echo $s
i=0; while read -r l; do i=$((i + ${#l})); done < words; echo $i
echo a | (read -r x; exec 7<numbers; read -r y <&7; exec 7<&-; echo "$x$y"; false)
exec 3>&1 4>&2 5</dev/null; ls -l /proc/self/fd | sed 's/.*:.. //' | sed 's/ -> .*//'; echo three >&3; exec 3>&-
trap 'echo term' TERM; kill -TERM $$; sleep 0.01; ulimit -n 64; bash -c 'ulimit -n; exec true'
timeout 0.2 sleep 5; echo $?
echo hello | nc -N 127.0.0.1 1 2>/dev/null; curl -s http://127.0.0.1:1/; echo $?
ssh-keygen -q -t ed25519 -N '' -f k -C c && ssh-keygen -y -f k | cut -c1-20; rm -f k k.pub
openssl rand -hex 16 | wc -c; openssl dgst -sha256 words; openssl enc -aes-128-cbc -pass pass:x -pbkdf2 -in words | openssl enc -d -aes-128-cbc -pass pass:x -pbkdf2 | cmp - words
make -s -C proj clean; make -s -j2 -C proj && proj/prog a b; echo $?; make -C proj nothing
gcc -Wall -O2 -o prog proj/main.c proj/part.c && ./prog one; gcc -c nothing.c
gcc -xc - -o /dev/null <<< 'int main(void) { return x; }'
dd if=words of=copy bs=7 count=100 conv=notrunc status=none; cksum copy; rm copy
cp -a tree tree2 && rm -rf tree2/d1 && diff -r tree tree2; rm -rf tree2
stat -c '%n %s %a' words numbers; file words numbers; du -b tree | sort
env -i PATH=$PATH A=1 sh -c 'echo $A; echo ${LD_PRELOAD:-none}' | head -1; nproc; id -u; hostname
getent hosts localhost; getent passwd root; getent services ssh
ps -o comm= -p $$; kill -0 $$ && echo alive
rsync -a --out-format=%n tree/ copied/ | sort; rsync -a --out-format=%n tree/ copied/; rm -rf copied
mkfifo p; (echo through > p &) ; cat p; rm p
node -e 'console.log([1,2,3].map(x => x * 2)); require("child_process").exec("echo sub", (e, o) => process.stdout.write(o))'
sqlite=$(python3 -c 'import sqlite3; d = sqlite3.connect(":memory:"); print(d.execute("select 6 * 7").fetchone()[0])'); echo $sqlite
script=$(mktemp -p .); echo 'echo in $1; exit 9' > $script; bash $script x; s=$?; rm $script; exit $s
xargs -n 3 echo < words | wc -l
date -u -d @86400 +%F; cal 1 2000 2>/dev/null; TZ=UTC printf '%(%Y)T\\n' 0
tee a.out b.out < words | md5sum; cmp a.out b.out; rm a.out b.out
bash -c 'coproc cat; echo x >&${COPROC[1]}; read -r r <&${COPROC[0]}; echo $r'
"""


def work_directory(path):
    for i in range(40):
        d = os.path.join(path, "tree", "d%d" % (i % 5))
        os.makedirs(d, exist_ok=True)
        os.utime(write(os.path.join(d, "f%d" % i), "file f%d\n" % i * (i + 1)), (1e9, 1e9))
    for i in range(5):
        os.utime(os.path.join(path, "tree", "d%d" % i), (1e9, 1e9))
    write(os.path.join(path, "numbers"), "".join("%d\n" % (i * 7919 % 1000) for i in range(1000)))
    write(os.path.join(path, "words"), "".join("word%d and\n" % (i * 31 % 300) for i in range(2000)))
    for name in ("numbers", "words"):
        os.utime(os.path.join(path, name), (1e9, 1e9))
    proj = os.path.join(path, "proj")
    os.makedirs(proj)
    write(os.path.join(proj, "main.c"), '#include <stdio.h>\nint part(int);\nint main(int n, char **v)\n{\n'
          '\tprintf("%s %d\\n", v[n - 1], part(n));\n\treturn part(n);\n}\n')
    write(os.path.join(proj, "part.c"), "int part(int n)\n{\n\treturn n * 3;\n}\n")
    write(os.path.join(proj, "Makefile"), "prog: main.o part.o\n\t$(CC) -o $@ $^\nclean:\n\trm -f *.o prog\n")
    repo = os.path.join(path, "repo")
    git = ["git", "-C", repo, "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "init", "-q", "-b", "main", repo], check=True)
    env = dict(os.environ, GIT_AUTHOR_DATE="2001-01-01T00:00:00Z", GIT_COMMITTER_DATE="2001-01-01T00:00:00Z")
    for i in range(3):
        write(os.path.join(repo, "f%d" % i), "line\n" * (i + 1))
        write(os.path.join(repo, "f"), "line %d\n" % i)
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", "c%d" % i], check=True, env=env)
    write(os.path.join(repo, "new"), "untracked\n")


def run(lab, where, command, preloaded):
    env = dict(lab.env(), LC_ALL="C", PATH="%s:%s" % (os.path.dirname(PYTHON), os.environ["PATH"]), GIT_CONFIG_GLOBAL=
               os.path.join(lab.dir, "gitconfig"), HOME=where)
    env.pop("LD_PRELOAD", None)
    if preloaded:
        env["LD_PRELOAD"] = os.path.join(BUILD, "libtapas-preload.so")
    r = subprocess.run(["ip", "netns", "exec", lab.server.name, "bash", "-c", command], cwd=where, env=env, timeout=60,
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return r.returncode, r.stdout, r.stderr


@pytest.mark.skipif(bool(ASAN_LIBRARY), reason="a sanitizer changes what these say")
def test_commands(lab):
    need("git", "gcc", "make", "openssl", "ssh-keygen", "node", "rsync", "bc", "file")
    write(os.path.join(lab.dir, "gitconfig"), "[safe]\n directory = *\n[gc]\n auto = 0\n")
    where = {}
    for name in ("plain", "tapas"):
        where[name] = os.path.join(own_dir(lab, name), "w")
        os.makedirs(where[name])
        work_directory(where[name])
    commands = [c for c in COMMANDS.splitlines() if c]
    assert len(commands) >= 50
    wrong = []
    for c in commands:
        plain, tapas = run(lab, where["plain"], c, False), run(lab, where["tapas"], c, True)
        for k in (1, 2):
            plain, tapas = [(*x[:k], x[k].replace(where[n].encode(), b"HERE"), *x[k + 1:])
                            for x, n in ((plain, "plain"), (tapas, "tapas"))]
        if plain[:2] != tapas[:2] or b"tapas" in tapas[2] or b"preload" in tapas[2] or len(plain[2]) != len(tapas[2]):
            wrong.append("%s\n  plain: %r\n  tapas: %r" % (c, plain, tapas))
    assert not wrong, "\n".join(wrong)
    if not lab.plain:
        assert lab.counters()["adopted"] == 0


def test_commands_are_the_same_without_library(lab):
    """The comparison itself: a command that says whether the library is there must differ."""
    where = own_dir(lab, "w")
    say = "grep -c libtapas-preload /proc/self/maps"
    assert run(lab, where, say, False)[1] == b"0\n"
    assert run(lab, where, say, True)[1] != b"0\n"
