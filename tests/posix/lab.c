// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What cases stand on: the peer's control connection, connections and their warm-up, and the
 * proof that the fast path carries them.
 *
 * The proof: the kernel counts the payload of its own socket (TCP_INFO, asked past the library).
 * An exchange that the program had with its peer and that the kernel's socket has no byte of was
 * carried by the service. It is looked for in the warm-up, and once more at the end of the case.
 */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>

#include "tests/posix/posix.h"

#define CTL_FD 200 /* out of the way of cases that look at descriptor numbers */
#define PROOF_FD 202
#define WARM_LINUX 4  /* exchanges without a service */
#define WARM_MOST 400 /* with one: adoption may be refused for the moment, and is tried again */
#define WAIT_MS 3000

static struct conn conns[PEER_CONNS];
static int conns_used, ids_used;

/* ---- the peer ---- */

static int ctl_fd(void)
{
	static bool opened; /* a child shares its parent's: one of them speaks at a time */
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	const char *path = getenv("POSIX_CTL");
	int fd;

	if (opened)
		return CTL_FD;
	opened = true;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path ? path : "");
	if (connect(fd, (struct sockaddr *)&un, sizeof(un)) || dup3(fd, CTL_FD, O_CLOEXEC) < 0)
		fatal("no peer at %s: %s", un.sun_path, strerror(errno));
	close(fd);
	return CTL_FD;
}

static void peer_give(struct peer_cmd *c)
{
	if (send(ctl_fd(), c, sizeof(*c), MSG_NOSIGNAL) != sizeof(*c))
		fatal("the peer has gone");
}

struct peer_answer peer_wait(void)
{
	struct peer_answer a = {0};
	ssize_t n;

	do
		n = recv(ctl_fd(), &a, sizeof(a), 0);
	while (n < 0 && errno == EINTR);
	if (n != sizeof(a))
		fatal("the peer has gone");
	return a;
}

int64_t peer_id(int cmd, int id, int64_t a, int64_t b)
{
	struct peer_cmd c = {.cmd = (uint32_t)cmd, .conn = (uint32_t)id, .a = a, .b = b};
	struct peer_answer r;

	peer_give(&c);
	r = peer_wait();
	if (r.err)
		say("peer command %d: %s", cmd, err_name(r.err));
	return r.ret;
}

int64_t peer(int cmd, const struct conn *c, int64_t a, int64_t b)
{
	return peer_id(cmd, c->id, a, b);
}

void peer_later(int delay_ms, int cmd, const struct conn *conn, int64_t a, int64_t b)
{
	struct peer_cmd c = {
		.cmd = (uint32_t)cmd, .conn = (uint32_t)conn->id, .a = a, .b = b, .delay_ms = (uint32_t)delay_ms};

	peer_give(&c);
}

static void text_give(int delay_ms, const struct conn *conn, const char *text, int flags)
{
	struct peer_cmd c = {.cmd = PEER_TEXT, .conn = (uint32_t)conn->id, .a = flags, .delay_ms = (uint32_t)delay_ms};

	c.len = (uint32_t)strlen(text);
	if (c.len > sizeof(c.data))
		fatal("text too long");
	memcpy(c.data, text, c.len);
	peer_give(&c);
}

void peer_text_flags(const struct conn *conn, const char *text, int flags)
{
	struct peer_answer a;

	text_give(0, conn, text, flags);
	a = peer_wait();
	if (a.err)
		say("peer sends: %s", err_name(a.err));
}

void peer_text(const struct conn *conn, const char *text)
{
	peer_text_flags(conn, text, 0);
}

void peer_text_later(int delay_ms, const struct conn *conn, const char *text)
{
	text_give(delay_ms, conn, text, 0);
}

static void peer_got(const struct peer_answer *a, bool drained)
{
	char end[40] = "";

	if (a->err || drained)
		snprintf(end, sizeof(end), ", then %s", a->err ? err_name(a->err) : "end");
	if (a->ret <= (int64_t)sizeof(a->data))
		say("peer got %lld \"%.*s\"%s", (long long)a->ret, (int)a->len, a->data, end);
	else
		say("peer got %lld #%08x%s", (long long)a->ret, (unsigned)a->hash, end);
}

void peer_recv_say(const struct conn *c, size_t n)
{
	struct peer_answer a;

	peer_later(0, PEER_RECV, c, (int64_t)n, 0);
	a = peer_wait();
	peer_got(&a, a.ret < (int64_t)n);
}

void peer_drain_say(const struct conn *c)
{
	struct peer_answer a;

	peer_later(0, PEER_DRAIN, c, 0, 0);
	a = peer_wait();
	peer_got(&a, true);
}

/* ---- the proof ---- */

/* libc's own syscall(), whatever a library in front of it does. */
static long raw_getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
	static long (*real)(long, ...);

	if (!real) {
		void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);

		real = libc ? (long (*)(long, ...))dlsym(libc, "syscall") : NULL;
		if (!real)
			fatal("no syscall() in libc.so.6");
	}
	return real(SYS_getsockopt, (long)fd, (long)level, (long)name, value, len);
}

static bool kernel_count(int fd, uint64_t *rx, uint64_t *tx)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	if (raw_getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len))
		return false;
	*rx = info.tcpi_bytes_received;
	*tx = info.tcpi_bytes_sent; /* not those acknowledged: an ACK may come late */
	return true;
}

static bool expect_fast(void)
{
	const char *v = getenv("POSIX_FAST");

	return v && *v == '1';
}

static void prove(const char *fmt, ...)
{
	static bool opened;
	const char *path = getenv("POSIX_PROOF");
	char line[200];
	va_list ap;
	int n, fd;

	if (!opened) {
		fd = open(path ? path : "/dev/null", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
		if (fd < 0 || dup3(fd, PROOF_FD, O_CLOEXEC) < 0)
			fatal("proof: %s", strerror(errno));
		close(fd);
		opened = true;
	}
	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (write(PROOF_FD, line, (size_t)n) != n)
		fatal("proof: %s", strerror(errno));
}

bool conn_is_fast(const struct conn *c)
{
	uint64_t rx, tx;

	return c->fast && kernel_count(c->fd, &rx, &tx) && rx == c->seen_rx && tx == c->seen_tx;
}

void conn_report_end(void)
{
	int saved = errno;

	for (int i = 0; i < conns_used; i++) {
		struct conn *c = &conns[i];
		uint64_t rx, tx;

		if (!c->fast)
			continue;
		/* +1: a FIN may count as a byte. Less than before: a socket that was rebuilt starts at 0 */
		if (!kernel_count(c->fd, &rx, &tx))
			prove("end closed\n");
		else if (rx - c->seen_rx <= 1 && tx - c->seen_tx <= 1)
			prove("end fast\n");
		else
			prove("end linux %llu %llu\n", (unsigned long long)rx, (unsigned long long)tx);
	}
	errno = saved;
}

/* ---- warm-up ---- */

static bool exchange_awaits; /* it was shut down for reading: what is not there yet would be taken for the end */

static void exchange(int fd, char first)
{
	char out[ECHO_UNIT], in[ECHO_UNIT];
	size_t got = 0;

	memset(out, first, sizeof(out));
	if (send(fd, out, sizeof(out), MSG_NOSIGNAL) != sizeof(out))
		fatal("warm-up: send: %s", strerror(errno));
	if (exchange_awaits)
		await_in(fd, sizeof(in));
	while (got < sizeof(in)) {
		ssize_t n = recv(fd, in + got, sizeof(in) - got, 0);

		if (n <= 0)
			fatal("warm-up: recv %zd: %s", n, n ? strerror(errno) : "end");
		got += (size_t)n;
	}
	if (memcmp(in, out, sizeof(in)))
		fatal("warm-up: other bytes came back");
}

void conn_warm(struct conn *c)
{
	struct sockaddr_in own = {0};
	socklen_t len = sizeof(own);
	uint64_t rx = 0, tx = 0;
	int i;

	peer_later(0, PEER_ECHO, c, 0, 0);
	for (i = 0; i < (expect_fast() ? WARM_MOST : WARM_LINUX) && !c->fast; i++) {
		kernel_count(c->fd, &c->seen_rx, &c->seen_tx);
		exchange(c->fd, 'w');
		if (!kernel_count(c->fd, &rx, &tx))
			fatal("warm-up: TCP_INFO: %s", strerror(errno));
		c->fast = rx == c->seen_rx && tx == c->seen_tx;
		if (!c->fast && i > 20)
			pause_ms(5);
	}
	exchange(c->fd, 'E');
	peer_wait();
	getsockname(c->fd, (struct sockaddr *)&own, &len);
	prove("conn %d %s after %d\n", ntohs(own.sin_port), c->fast ? "fast" : "linux", i);
}

int next_id(void)
{
	if (ids_used >= PEER_CONNS)
		fatal("too many connections");
	return ids_used++;
}

struct conn *conn_adopt(int fd, int id)
{
	struct conn *c = &conns[conns_used];

	if (conns_used >= PEER_CONNS)
		fatal("too many connections");
	*c = (struct conn){.fd = fd, .id = id};
	conns_used++;
	conn_warm(c);
	return c;
}

struct conn *conn_adopt_shut(int fd, int id)
{
	struct conn *c;

	exchange_awaits = true;
	c = conn_adopt(fd, id);
	exchange_awaits = false;
	return c;
}

/* ---- connections ---- */

static struct in_addr host_addr(const char *var)
{
	struct in_addr a;
	const char *v = getenv(var);

	if (!v || inet_pton(AF_INET, v, &a) != 1)
		fatal("%s is not set", var);
	return a;
}

void peer_address(struct sockaddr_storage *to, int port)
{
	struct sockaddr_in *in = (struct sockaddr_in *)to;

	memset(to, 0, sizeof(*to));
	in->sin_family = AF_INET;
	in->sin_port = htons((uint16_t)port);
	in->sin_addr = host_addr("POSIX_PEER_ADDR");
}

int listener_open(int backlog, int flags)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr = host_addr("POSIX_ADDR")};
	int fd = socket(AF_INET, SOCK_STREAM | flags, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&in, sizeof(in)) || listen(fd, backlog))
		fatal("listener: %s", strerror(errno));
	return fd;
}

int listener_port(int fd)
{
	struct sockaddr_in in;
	socklen_t len = sizeof(in);

	if (getsockname(fd, (struct sockaddr *)&in, &len))
		fatal("getsockname: %s", strerror(errno));
	return ntohs(in.sin_port);
}

int peer_listener(void)
{
	return (int)peer_id(PEER_LISTEN, 0, 0, 0);
}

struct conn *conn_accept(void)
{
	return conn_accept_by(listener_open(8, 0));
}

struct conn *conn_accept_by(int l)
{
	int id = next_id(), fd;

	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	fd = accept(l, NULL, NULL);
	if (fd < 0)
		fatal("accept: %s", strerror(errno));
	close(l);
	return conn_adopt(fd, id);
}

struct conn *conn_connect(void)
{
	struct sockaddr_storage to;
	int fd = socket(AF_INET, SOCK_STREAM, 0), id = next_id();

	peer_address(&to, peer_listener());
	if (connect(fd, (struct sockaddr *)&to, sizeof(struct sockaddr_in)))
		fatal("connect: %s", strerror(errno));
	peer_id(PEER_ACCEPT, id, 0, 0);
	return conn_adopt(fd, id);
}

struct conn *conn_open(void)
{
	return pattern_hash(HASH_START, this_case->name, strlen(this_case->name)) >> 7 & 1 ? conn_accept()
											   : conn_connect();
}

struct conn *conn_nonblock(void)
{
	struct conn *c = conn_open();

	if (fcntl(c->fd, F_SETFL, O_NONBLOCK))
		fatal("O_NONBLOCK: %s", strerror(errno));
	return c;
}

/* ---- waiting ---- */

double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void pause_ms(int ms)
{
	struct timespec t = {ms / 1000, ms % 1000 * 1000000L};

	while (nanosleep(&t, &t) && errno == EINTR)
		continue;
}

void await_in(int fd, int bytes)
{
	double end = seconds() + WAIT_MS / 1e3;
	int n = 0, saved = errno;

	while (ioctl(fd, FIONREAD, &n) || n < bytes) {
		if (seconds() > end) {
			say("waiting for %d bytes: only %d", bytes, n);
			break;
		}
		pause_ms(1);
	}
	errno = saved;
}

void await_poll(int fd, int events)
{
	struct pollfd p = {.fd = fd, .events = (short)events};
	int saved = errno;

	if (poll(&p, 1, WAIT_MS) != 1)
		say("waiting for %s: nothing", event_names((uint32_t)events));
	errno = saved;
}

void await_reset(int fd)
{
	await_poll(fd, 0);
}

bool peer_is_full(int fd)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);
	int saved = errno;
	bool full = getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) || !info.tcpi_snd_wnd;

	errno = saved;
	return full;
}

int64_t fill_up(int fd)
{
	static char block[30000];
	int64_t total = 0;
	int stuck = 0, open = 0;

	memset(block, 'f', sizeof(block));
	while (stuck < 13) {
		ssize_t n = send(fd, block, stuck ? 1 : sizeof(block), MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n > 0) {
			total += n;
			stuck = open = 0;
			continue;
		}
		/* what is under way may still make room, and the peer delays its ACK */
		pause_ms(20);
		/* while the window is open, nobody has come to send it yet */
		stuck = peer_is_full(fd) || ++open > WAIT_MS / 20 ? stuck + 1 : 1;
	}
	return total;
}

/* ---- signals ---- */

_Atomic int signals_seen;

static void on_signal(int sig)
{
	(void)sig;
	signals_seen++;
}

void signal_count(int sig, int sa_flags)
{
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = sa_flags};

	sigaction(sig, &sa, NULL);
}

void signal_pending(sigset_t *block, sigset_t *none)
{
	signal_count(SIGUSR1, 0);
	sigemptyset(none);
	sigemptyset(block);
	sigaddset(block, SIGUSR1);
	sigprocmask(SIG_BLOCK, block, NULL);
	raise(SIGUSR1);
}

void alarm_start(int sa_flags)
{
	struct itimerval t = {{0, 25000}, {0, 25000}};

	signal_count(SIGALRM, sa_flags);
	setitimer(ITIMER_REAL, &t, NULL);
}

void alarm_stop(void)
{
	struct itimerval t = {0};
	int saved = errno;

	setitimer(ITIMER_REAL, &t, NULL);
	errno = saved;
}
