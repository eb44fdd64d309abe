// SPDX-License-Identifier: GPL-2.0-or-later
/* sendfile, splice, tee, vmsplice, copy_file_range; and stdio on a connection. */
#include <stdio_ext.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "tests/posix/posix.h"

static char buf[70000];

/* A file of @n bytes of pattern 3. */
static int file_new(size_t n)
{
	int fd = memfd_create("file", 0);

	for (size_t at = 0; at < n;) {
		size_t k = n - at < sizeof(buf) ? n - at : sizeof(buf);

		pattern_fill(buf, k, 3, at);
		if (write(fd, buf, k) != (ssize_t)k)
			fatal("memfd: %s", strerror(errno));
		at += k;
	}
	lseek(fd, 0, SEEK_SET);
	return fd;
}

static void peer_check(const struct conn *c, int64_t n)
{
	struct peer_answer a;

	peer_later(0, PEER_RECV, c, n, 0);
	a = peer_wait();
	say("peer got %lld, %s", (long long)a.ret, a.hash == pattern_stream_hash(3, (uint64_t)n) ? "right" : "wrong");
}

/* ---- sendfile ---- */

static void sendfile_large(void)
{
	struct conn *c = conn_open();
	int f = file_new(5000011);
	off_t off = 0;

	peer_later(0, PEER_RECV, c, 5000011, 0);
	while (off < 5000011)
		if (sendfile(c->fd, f, &off, 5000011 - (size_t)off) <= 0) {
			tell(-1, "sendfile");
			break;
		}
	say("offset %ld", (long)off);
	say("right: %s", peer_wait().hash == pattern_stream_hash(3, 5000011) ? "yes" : "no");
}

static void sendfile_position(void)
{
	struct conn *c = conn_open();
	int f = file_new(1000);

	tell(sendfile(c->fd, f, NULL, 300), "sendfile(300)");
	tell(lseek(f, 0, SEEK_CUR), "position");
	tell(sendfile(c->fd, f, NULL, 5000), "sendfile(5000)");
	tell(sendfile(c->fd, f, NULL, 5000), "sendfile at the end");
	tell(sendfile(c->fd, f, NULL, 0), "sendfile(0)");
	peer_check(c, 1000);
}

static void sendfile_errors(void)
{
	struct conn *c = conn_open();
	int f = file_new(100), p[2];
	off_t off = -1;

	if (pipe(p))
		fatal("pipe");
	tell(sendfile(c->fd, f, &off, 10), "negative offset");
	tell(sendfile(c->fd, f, (off_t *)16, 10), "offset at a bad address");
	tell(sendfile(c->fd, 190, NULL, 10), "source not open");
	tell(sendfile(c->fd, p[0], NULL, 10), "source is a pipe");
	tell(sendfile(c->fd, c->fd, NULL, 10), "source is the connection");
	tell(sendfile(f, c->fd, NULL, 10), "connection into a file");
	tell(sendfile(c->fd, open("/dev/null", O_WRONLY), NULL, 10), "source is not readable");
	off = 1000;
	tell(sendfile(c->fd, f, &off, 10), "beyond the end");
	off = 0;
	tell(sendfile(c->fd, f, &off, 100), "sendfile");
	peer_check(c, 100);
}

static void sendfile_nonblock(void)
{
	struct conn *c = conn_nonblock();
	int f = file_new(20000000);
	off_t off = 0;
	ssize_t n;

	while ((n = sendfile(c->fd, f, &off, 1000000)) > 0)
		continue;
	say("full: %s, some went: %s", err_name(errno), off > 0 && off < 20000000 ? "yes" : "no");
	peer_later(0, PEER_RECV, c, off, 0);
	say("right: %s", peer_wait().hash == pattern_stream_hash(3, (uint64_t)off) ? "yes" : "no");
}

static void sendfile_corked(void)
{
	struct conn *c = conn_open();
	int f = file_new(3000);
	off_t off = 7;

	/* as web servers do */
	pattern_fill(buf, 7, 3, 0);
	tell(send(c->fd, buf, 7, MSG_MORE), "send(MORE)");
	tell(sendfile(c->fd, f, &off, 2993), "sendfile");
	peer_check(c, 3000);
}

/* ---- splice ---- */

static void splice_through(void)
{
	struct conn *c = conn_open();
	int p[2];
	int64_t total = 0;

	if (pipe(p))
		fatal("pipe");
	/* an echo by splice both ways */
	peer_later(0, PEER_PUMP, c, 1000003, 1000003);
	while (total < 1000003) {
		ssize_t n = splice(c->fd, NULL, p[1], NULL, 65536, SPLICE_F_MOVE);

		if (n <= 0) {
			tell(n, "splice in");
			break;
		}
		for (ssize_t k; n > 0; n -= k, total += k) {
			k = splice(p[0], NULL, c->fd, NULL, (size_t)n, SPLICE_F_MOVE);
			if (k <= 0) {
				tell(k, "splice out");
				_exit(1);
			}
		}
	}
	say("right: %s", peer_wait().hash == pattern_stream_hash(1, 1000003) ? "yes" : "no");
}

static void splice_to_conn(void)
{
	struct conn *a = conn_open(), *b = conn_open();
	int p[2];

	if (pipe(p))
		fatal("pipe");
	tell(splice(a->fd, NULL, b->fd, NULL, 100, 0), "connection to connection");
	peer_text(a, "proxied");
	await_in(a->fd, 7);
	tell(splice(a->fd, NULL, p[1], NULL, 100, 0), "splice in");
	tell(splice(p[0], NULL, b->fd, NULL, 100, SPLICE_F_NONBLOCK), "splice out");
	peer_recv_say(b, 7);
}

static void splice_nonblock_flag(void)
{
	struct conn *c = conn_open();
	int p[2];

	if (pipe(p))
		fatal("pipe");
	peer_text_later(60, c, "late");
	tell(splice(c->fd, NULL, p[1], NULL, 100, SPLICE_F_NONBLOCK), "splice(NONBLOCK) on a blocking socket");
	peer_wait();
}

static void splice_full_pipe(void)
{
	struct conn *c = conn_open();
	int p[2];

	if (pipe2(p, O_NONBLOCK))
		fatal("pipe");
	while (write(p[1], buf, 4096) > 0)
		continue;
	peer_text(c, "kept");
	await_in(c->fd, 4);
	tell(splice(c->fd, NULL, p[1], NULL, 100, SPLICE_F_NONBLOCK), "splice into a full pipe");
	tell_data(read(c->fd, buf, 100), buf, "read");
}

static void splice_errors(void)
{
	struct conn *c = conn_nonblock();
	int p[2], f = file_new(10);
	loff_t off = 0;

	if (pipe(p))
		fatal("pipe");
	tell(splice(c->fd, &off, p[1], NULL, 100, 0), "offset for the socket");
	tell(splice(c->fd, NULL, f, NULL, 100, 0), "no pipe");
	tell(splice(c->fd, NULL, 190, NULL, 100, 0), "not open");
	tell(splice(c->fd, NULL, p[0], NULL, 100, 0), "wrong end of the pipe");
	tell(splice(c->fd, NULL, p[1], NULL, 100, 0x100), "unknown flag");
	tell(splice(c->fd, NULL, p[1], NULL, 100, 0), "nothing there");
	tell(splice(p[0], NULL, c->fd, NULL, 0, 0), "length 0");
	close(p[1]);
	tell(splice(p[0], NULL, c->fd, NULL, 100, 0), "pipe at its end");
	close(p[0]);
}

static void splice_no_reader(void)
{
	struct conn *c = conn_open();
	int p[2];

	if (pipe(p))
		fatal("pipe");
	close(p[0]);
	signal_count(SIGPIPE, 0);
	peer_text(c, "kept?");
	await_in(c->fd, 5);
	tell(splice(c->fd, NULL, p[1], NULL, 100, 0), "splice into a pipe without reader");
	say("SIGPIPE %d", signals_seen);
}

static void tee_pipe(void)
{
	struct conn *c = conn_open();
	int a[2], b[2];

	if (pipe(a) || pipe(b))
		fatal("pipe");
	tell(tee(c->fd, a[1], 100, 0), "tee of a connection");
	peer_text(c, "copied");
	await_in(c->fd, 6);
	tell(splice(c->fd, NULL, a[1], NULL, 100, 0), "splice in");
	tell(tee(a[0], b[1], 100, 0), "tee of the pipe");
	tell(splice(b[0], NULL, c->fd, NULL, 100, 0), "splice out");
	tell(splice(a[0], NULL, c->fd, NULL, 100, 0), "splice out");
	peer_recv_say(c, 12);
}

static void vmsplice_out(void)
{
	struct conn *c = conn_open();
	struct iovec v = {"mapped", 6};
	int p[2];

	if (pipe(p))
		fatal("pipe");
	tell(vmsplice(c->fd, &v, 1, 0), "vmsplice on a connection");
	tell(vmsplice(p[1], &v, 1, 0), "vmsplice");
	tell(splice(p[0], NULL, c->fd, NULL, 6, 0), "splice out");
	peer_recv_say(c, 6);
}

static void copy_range(void)
{
	struct conn *c = conn_open();
	int f = file_new(100);

	tell(copy_file_range(f, NULL, c->fd, NULL, 100, 0), "copy_file_range");
	tell(send(c->fd, "x", 1, 0), "send");
	peer_recv_say(c, 1);
}

static void splice_syscall(void)
{
	struct conn *c = conn_open();
	int p[2];

	if (pipe(p))
		fatal("pipe");
	tell(write(p[1], "by number", 9), "write");
	tell(syscall(SYS_splice, p[0], NULL, c->fd, NULL, 9, 0), "syscall(SYS_splice)");
	peer_recv_say(c, 9);
}

static void sendfile_syscall(void)
{
	struct conn *c = conn_open();
	int f = file_new(100);

	tell(syscall(SYS_sendfile, c->fd, f, NULL, 100), "syscall(SYS_sendfile)");
	peer_check(c, 100);
}

/* ---- stdio ---- */

static void stdio_write(void)
{
	struct conn *c = conn_open();
	FILE *f = fdopen(c->fd, "w");

	tell(fprintf(f, "%s %d\n", "formatted", 42), "fprintf");
	tell(fputs("line\n", f) >= 0, "fputs");
	tell(fflush(f), "fflush");
	peer_recv_say(c, 18);
	tell(fclose(f), "fclose");
	peer_drain_say(c);
}

static void stdio_read(void)
{
	struct conn *c = conn_open();
	FILE *f = fdopen(c->fd, "r");
	char line[100] = "";

	peer_text(c, "first line\nsecond line\nno newline");
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	while (fgets(line, sizeof(line), f))
		say("fgets \"%.*s\"", (int)strcspn(line, "\n"), line);
	tell(feof(f) != 0, "feof");
	tell(ferror(f) != 0, "ferror");
}

static void stdio_both(void)
{
	struct conn *c = conn_open();
	FILE *f = fdopen(c->fd, "r+");
	char line[100] = "";

	setvbuf(f, NULL, _IOLBF, 0);
	peer_text(c, "HELO\n");
	say("fgets: %s", fgets(line, sizeof(line), f) ? "yes" : "no");
	fseek(f, 0, SEEK_CUR);
	tell(fprintf(f, "250 OK\n"), "fprintf");
	fflush(f);
	peer_recv_say(c, 7);
}

static void stdio_dprintf(void)
{
	struct conn *c = conn_open();

	tell(dprintf(c->fd, "HTTP/1.%d %d OK\n", 1, 200), "dprintf");
	peer_recv_say(c, 16);
}

static void stdio_getline(void)
{
	struct conn *c = conn_open();
	FILE *f = fdopen(dup(c->fd), "r");
	char *line = NULL;
	size_t n = 0;

	peer_text_later(30, c, "blocks until\n");
	tell(getline(&line, &n, f), "getline");
	peer_wait();
	peer(PEER_CLOSE, c, 0, 0);
	tell(getline(&line, &n, f), "getline");
	tell(fclose(f), "fclose");
}

static void stdio_fread_large(void)
{
	struct conn *c = conn_open();
	FILE *f = fdopen(c->fd, "r");
	uint64_t hash = HASH_START;
	size_t total = 0;

	peer_later(0, PEER_SEND, c, 1000003, 4);
	for (size_t n; total < 1000003 && (n = fread(buf, 1, 1009 < 1000003 - total ? 1009 : 1000003 - total, f)) > 0;
	     total += n)
		hash = pattern_hash(hash, buf, n);
	say("%zu bytes, right: %s", total, hash == pattern_stream_hash(4, 1000003) ? "yes" : "no");
	peer_wait();
}

static void stdio_fclose(void)
{
	struct conn *c = conn_open();
	FILE *f = fdopen(c->fd, "w");

	tell(fclose(f), "fclose without a byte");
	peer_drain_say(c);
	tell(fcntl(c->fd, F_GETFD), "F_GETFD");
}

static void stdio_freopen(void)
{
	struct conn *c = conn_open();
	FILE *f = fdopen(c->fd, "w");

	say("freopen: %s", freopen("/dev/null", "w", f) ? "yes" : "no");
	tell(fprintf(f, "nowhere"), "fprintf");
	fflush(f);
	peer_drain_say(c);
}

static void stdio_mixed(void)
{
	struct conn *c = conn_open();
	FILE *f = fdopen(c->fd, "w");

	tell(send(c->fd, "1 ", 2, 0), "send");
	fprintf(f, "2 ");
	fflush(f);
	tell(send(c->fd, "3 ", 2, 0), "send");
	fprintf(f, "4");
	fflush(f);
	tell(shutdown(c->fd, SHUT_WR), "shutdown");
	peer_drain_say(c);
}

static void stdio_standard(void)
{
	struct conn *c = conn_open();

	tell(dup2(c->fd, 0), "dup2(0)");
	tell(dup2(c->fd, 1), "dup2(1)");
	peer_text(c, "name\n");
	if (scanf("%60s", buf) == 1)
		say("scanf \"%s\"", buf);
	printf("hello %s\n", buf);
	fflush(stdout);
	peer_recv_say(c, 11);
}

static void stdio_perror(void)
{
	struct conn *c = conn_open();

	tell(dup2(c->fd, 2), "dup2(2)");
	errno = ENOENT;
	perror("where");
	psignal(SIGINT, "what");
	peer_recv_say(c, 33);
}

static void fstat_conn(void)
{
	struct conn *c = conn_open();
	struct stat st, st2;
	char path[60], link[60] = "";

	tell(fstat(c->fd, &st), "fstat");
	say("socket: %s, size %ld, block size %ld", S_ISSOCK(st.st_mode) ? "yes" : "no", (long)st.st_size,
	    (long)st.st_blksize);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", c->fd);
	tell(stat(path, &st2), "stat");
	say("same: %s", st.st_ino == st2.st_ino ? "yes" : "no");
	if (readlink(path, link, sizeof(link) - 1) > 0)
		link[8] = 0;
	say("%s", link);
	tell(fchmod(c->fd, 0600), "fchmod");
}

#define STDIO_WHY "stdio writes and reads the kernel's socket"

const struct test_case cases_move[] = {
	CASE("move/sendfile-large", "5 MB by sendfile", sendfile_large),
	CASE("move/sendfile-position", "sendfile without an offset moves the file's position", sendfile_position),
	CASE("move/sendfile-errors", "wrong arguments of sendfile", sendfile_errors),
	CASE("move/sendfile-nonblock", "sendfile until EAGAIN", sendfile_nonblock),
	CASE("move/sendfile-more", "MSG_MORE, then sendfile", sendfile_corked),
	CASE("move/splice-echo", "1 MB echoed by splice", splice_through),
	CASE("move/splice-proxy", "from one connection to another", splice_to_conn),
	CASE("move/splice-nonblock", "SPLICE_F_NONBLOCK is about the pipe alone", splice_nonblock_flag),
	CASE("move/splice-full-pipe", "splice into a full pipe loses nothing", splice_full_pipe),
	CASE("move/splice-errors", "wrong arguments of splice", splice_errors),
	CASE("move/splice-no-reader", "splice into a pipe that nobody reads", splice_no_reader),
	CASE_RETURNS("move/splice-syscall", "syscall(SYS_splice)", splice_syscall, PAST_LIBRARY),
	CASE_RETURNS("move/sendfile-syscall", "syscall(SYS_sendfile)", sendfile_syscall, PAST_LIBRARY),
	CASE("move/tee", "tee", tee_pipe),
	CASE("move/vmsplice", "vmsplice", vmsplice_out),
	CASE("move/copy-file-range", "copy_file_range is not for sockets", copy_range),
	CASE("move/fstat", "fstat, stat, fchmod", fstat_conn),
	CASE_RETURNS("stdio/write", "fdopen, fprintf, fclose", stdio_write, STDIO_WHY),
	CASE_RETURNS("stdio/read", "fgets to the end", stdio_read, STDIO_WHY),
	CASE_RETURNS("stdio/both", "one stream for both directions", stdio_both, STDIO_WHY),
	CASE_RETURNS("stdio/dprintf", "dprintf", stdio_dprintf, STDIO_WHY),
	CASE_RETURNS("stdio/getline", "getline blocks", stdio_getline, STDIO_WHY),
	CASE_RETURNS("stdio/fread", "1 MB by fread", stdio_fread_large, STDIO_WHY),
	CASE_RETURNS("stdio/fclose", "fclose without a byte", stdio_fclose, STDIO_WHY),
	CASE_RETURNS("stdio/freopen", "freopen closes the connection", stdio_freopen, STDIO_WHY),
	CASE_RETURNS("stdio/mixed", "send and fprintf in turn keep their order", stdio_mixed, STDIO_WHY),
	CASE_RETURNS("stdio/standard", "scanf and printf as inetd's children do", stdio_standard, STDIO_WHY),
	CASE_RETURNS("stdio/perror", "perror and psignal to a connection", stdio_perror, STDIO_WHY),
	{.name = NULL},
};
