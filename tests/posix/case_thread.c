// SPDX-License-Identifier: GPL-2.0-or-later
/* Threads and signals on one connection, and large transfers. */
#include <pthread.h>
#include <setjmp.h>
#include <sys/epoll.h>
#include <sys/time.h>
#include <sys/uio.h>

#include "tests/asleep.h"
#include "tests/posix/process.h"

static char buf[200000];

#define RETURNED "another buffer was asked for"

struct task {
	struct conn *c;
	const char *call;
	long ret;
	int err;
	int64_t total;
	uint64_t hash;
	pthread_t t;
	_Atomic pid_t tid;
	_Atomic bool over;
};

static void *blocked(void *arg)
{
	struct task *k = arg;
	struct pollfd p = {.fd = k->c->fd, .events = POLLIN};
	char in[100];

	k->tid = gettid();
	if (!strcmp(k->call, "poll"))
		k->ret = poll(&p, 1, 1500);
	else if (!strcmp(k->call, "send"))
		k->ret = send(k->c->fd, buf, 100, MSG_NOSIGNAL);
	else
		k->ret = recv(k->c->fd, in, sizeof(in), 0);
	k->err = errno;
	k->over = true;
	return NULL;
}

/* A thread that is blocked in @call when this returns. */
static void start(struct task *k, struct conn *c, const char *call)
{
	*k = (struct task){.c = c, .call = call};
	pthread_create(&k->t, NULL, blocked, k);
	for (int n = 0; n < 3000 && !(k->tid && is_asleep(k->tid)); n++)
		pause_ms(1);
	pause_ms(10);
}

static void finish(struct task *k)
{
	pthread_join(k->t, NULL);
	errno = k->err;
	tell(k->ret, "blocked %s", k->call);
}

static void recv_and_shutdown(void)
{
	struct conn *c = conn_open();
	struct task k;

	start(&k, c, "recv");
	tell(shutdown(c->fd, (int)this_case->a), "shutdown");
	finish(&k);
}

static void recv_and_shutdown_wr(void)
{
	struct conn *c = conn_open();
	struct task k;

	start(&k, c, "recv");
	tell(shutdown(c->fd, SHUT_WR), "shutdown(WR)");
	peer_drain_say(c);
	peer_text(c, "still");
	finish(&k);
}

static void poll_and_shutdown(void)
{
	struct conn *c = conn_open();
	struct task k;

	start(&k, c, "poll");
	tell(shutdown(c->fd, SHUT_RDWR), "shutdown");
	finish(&k);
}

/* The thread holds the open file: Linux lets it wait for data that then arrive. */
static void recv_and_close(void)
{
	struct conn *c = conn_open();
	struct task k;

	start(&k, c, "recv");
	tell(close(c->fd), "close");
	peer_text(c, "after close");
	finish(&k);
	peer_drain_say(c);
}

static void recv_and_dup2(void)
{
	struct conn *c = conn_open();
	struct task k;
	int p[2];

	if (pipe(p))
		fatal("pipe");
	start(&k, c, "recv");
	tell(dup2(p[0], c->fd) == c->fd, "dup2 over it");
	peer_text(c, "after dup2");
	finish(&k);
}

static void recv_and_send(void)
{
	struct conn *c = conn_open();
	struct task k;

	start(&k, c, "recv");
	tell(send(c->fd, "question", 8, 0), "send");
	peer_recv_say(c, 8);
	peer_text(c, "answer");
	finish(&k);
}

static void recv_and_reset(void)
{
	struct conn *c = conn_open();
	struct task k;

	start(&k, c, "recv");
	peer(PEER_RESET, c, 0, 0);
	finish(&k);
}

static void send_and_shutdown(void)
{
	struct conn *c = conn_open();
	struct task k;

	fill_up(c->fd);
	start(&k, c, "send");
	tell(shutdown(c->fd, SHUT_WR), "shutdown");
	finish(&k);
}

static void send_and_reset(void)
{
	struct conn *c = conn_open();
	struct task k;

	fill_up(c->fd);
	start(&k, c, "send");
	peer(PEER_RESET, c, 0, 0);
	finish(&k);
}

static void two_receivers(void)
{
	struct conn *c = conn_open();
	struct task k[2];

	start(&k[0], c, "recv");
	start(&k[1], c, "recv");
	peer_text(c, "x");
	while (!k[0].over && !k[1].over)
		pause_ms(1);
	peer_text(c, "y");
	finish(&k[0]);
	finish(&k[1]);
}

static void *idle(void *arg)
{
	for (;;)
		pause();
	return arg;
}

/* A connection that was accelerated, and is Linux's for now, where another thread might have it adopted again. */
static struct conn *conn_of_linux(void)
{
	struct conn *c = conn_open();
	int size = 100000;
	pthread_t t;

	pthread_create(&t, NULL, idle, NULL);
	tell(setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)), "SO_RCVBUF");
	return c;
}

static void recv_below_lowat(void)
{
	struct conn *c = conn_of_linux();
	int low = 100;

	tell(setsockopt(c->fd, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof(low)), "SO_RCVLOWAT 100");
	peer_text(c, "little");
	await_in(c->fd, 6);
	tell_data(recv(c->fd, buf, 3, 0), buf, "recv(3)");
	tell_data(recv(c->fd, buf, 3, 0), buf, "recv(3)");
}

static void *cancelled(void *arg)
{
	struct task *k = arg;
	char in[10];

	recv(k->c->fd, in, sizeof(in), 0);
	return NULL;
}

static void cancel_recv(void)
{
	struct conn *c = conn_open();
	struct task k = {.c = c};
	void *ret;

	pthread_create(&k.t, NULL, cancelled, &k);
	pause_ms(40);
	tell(pthread_cancel(k.t), "pthread_cancel");
	pthread_join(k.t, &ret);
	say("cancelled: %s", ret == PTHREAD_CANCELED ? "yes" : "no");
	peer_text(c, "goes on");
	await_in(c->fd, 7);
	tell_data(recv(c->fd, buf, 100, 0), buf, "recv");
}

static void *cancelled_wait(void *arg)
{
	struct task *k = arg;
	struct epoll_event e;

	epoll_wait((int)k->total, &e, 1, -1);
	return NULL;
}

static void cancel_epoll(void)
{
	struct conn *c = conn_open();
	struct epoll_event e = {.events = EPOLLIN};
	struct task k = {.c = c, .total = epoll_create1(0)};
	void *ret;

	epoll_ctl((int)k.total, EPOLL_CTL_ADD, c->fd, &e);
	pthread_create(&k.t, NULL, cancelled_wait, &k);
	pause_ms(40);
	tell(pthread_cancel(k.t), "pthread_cancel");
	pthread_join(k.t, &ret);
	say("cancelled: %s", ret == PTHREAD_CANCELED ? "yes" : "no");
	peer_text(c, "x");
	tell(epoll_wait((int)k.total, &e, 1, 2000), "epoll_wait");
}

static void *cancelled_send(void *arg)
{
	struct task *k = arg;

	send(k->c->fd, buf, 1000, 0);
	return NULL;
}

static void cancel_send(void)
{
	struct conn *c = conn_open();
	struct task k = {.c = c};
	int64_t total = fill_up(c->fd);
	void *ret;

	pthread_create(&k.t, NULL, cancelled_send, &k);
	pause_ms(40);
	tell(pthread_cancel(k.t), "pthread_cancel");
	pthread_join(k.t, &ret);
	say("cancelled: %s", ret == PTHREAD_CANCELED ? "yes" : "no");
	peer(PEER_RECV, c, total, 0);
	tell(send(c->fd, "after", 5, 0), "send");
}

/* ---- signals ---- */

static sigjmp_buf escape;

static void on_jump(int sig)
{
	(void)sig;
	siglongjmp(escape, 1);
}

static void jump_out(void)
{
	struct conn *c = conn_open();
	struct itimerval t = {.it_value.tv_usec = 40000};

	signal(SIGALRM, on_jump);
	for (int i = 0; i < 3; i++) {
		if (!sigsetjmp(escape, 1)) {
			setitimer(ITIMER_REAL, &t, NULL);
			tell(recv(c->fd, buf, 10, 0), "recv");
		}
		say("jumped out of recv");
	}
	peer_text(c, "goes on");
	await_in(c->fd, 7);
	tell_data(recv(c->fd, buf, 100, 0), buf, "recv");
	tell(send(c->fd, "and on", 6, 0), "send");
	peer_recv_say(c, 6);
}

static struct conn *handler_conn;

static void on_send(int sig)
{
	int saved = errno;

	(void)sig;
	if (send(handler_conn->fd, "from the handler", 16, 0) != 16)
		say("handler: %s", err_name(errno));
	signals_seen++;
	errno = saved;
}

static void handler_sends(void)
{
	struct sigaction sa = {.sa_handler = on_send};

	handler_conn = conn_open();
	sigaction(SIGUSR1, &sa, NULL);
	raise(SIGUSR1);
	peer_recv_say(handler_conn, 16);
}

static void handler_in_recv(void)
{
	struct sigaction sa = {.sa_handler = on_send, .sa_flags = SA_RESTART};
	struct itimerval t = {.it_value.tv_usec = 30000};

	handler_conn = conn_open();
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &t, NULL);
	peer_text_later(80, handler_conn, "the awaited");
	tell_data(recv(handler_conn->fd, buf, 100, 0), buf, "recv");
	peer_wait();
	peer_recv_say(handler_conn, 16);
}

static bool is_child;

static void on_fork(int sig)
{
	pid_t pid = child_new();

	(void)sig;
	is_child = !pid;
	if (is_child)
		return;
	peer_text(handler_conn, "for the child");
	child_end(pid);
	peer_text(handler_conn, "for the parent");
}

/* Both go on with the call that was interrupted. */
static void handler_forks(void)
{
	struct sigaction sa = {.sa_handler = on_fork, .sa_flags = SA_RESTART};
	struct itimerval t = {.it_value.tv_usec = 40000};

	handler_conn = conn_of_linux();
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &t, NULL);
	tell_data(recv(handler_conn->fd, buf, 100, 0), buf, "recv");
	if (!is_child)
		return;
	tell(send(handler_conn->fd, "from the child", 14, 0), "send");
	tell(close(handler_conn->fd), "close");
	tell(send(handler_conn->fd, "x", 1, 0), "send");
	_exit(0);
}

static void on_close(int sig)
{
	(void)sig;
	close(handler_conn->fd);
}

static void handler_closes(void)
{
	struct sigaction sa = {.sa_handler = on_close};
	struct itimerval t = {.it_value.tv_usec = 30000};

	handler_conn = conn_open();
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &t, NULL);
	tell(recv(handler_conn->fd, buf, 100, 0), "recv");
	tell(recv(handler_conn->fd, buf, 100, 0), "recv");
	peer_drain_say(handler_conn);
}

static void timeout_and_signal(void)
{
	struct conn *c = conn_open();
	struct timeval t = {.tv_sec = 1};

	/* with SO_RCVTIMEO a call is never restarted */
	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	alarm_start(SA_RESTART);
	tell(recv(c->fd, buf, 10, 0), "recv");
	alarm_stop();
}

static void send_timeout_and_signal(void)
{
	struct conn *c = conn_open();
	struct timeval t = {.tv_sec = 1};

	fill_up(c->fd);
	setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
	alarm_start(SA_RESTART);
	tell(send(c->fd, buf, 10, 0), "send");
	alarm_stop();
}

static void many_signals(void)
{
	struct conn *c = conn_open();
	struct itimerval t = {{0, 300}, {0, 300}}, off = {0};
	uint64_t hash = HASH_START;
	int64_t n = 0;

	signal_count(SIGALRM, SA_RESTART);
	setitimer(ITIMER_REAL, &t, NULL);
	peer_later(0, PEER_SEND, c, 2000003, 9);
	while (n < 2000003) {
		ssize_t k = recv(c->fd, buf, 3001, 0);

		if (k <= 0) {
			tell(k, "recv");
			break;
		}
		hash = pattern_hash(hash, buf, (size_t)k);
		n += k;
	}
	setitimer(ITIMER_REAL, &off, NULL);
	say("%lld bytes under signals, right: %s", (long long)n,
	    hash == pattern_stream_hash(9, 2000003) ? "yes" : "no");
	peer_wait();
}

static void sigstop(void)
{
	struct conn *c = conn_open();
	pid_t pid = getpid(), child = fork();

	if (!child) {
		pause_ms(60);
		kill(pid, SIGCONT);
		_exit(0);
	}
	kill(pid, SIGSTOP);
	peer_text(c, "woken up");
	await_in(c->fd, 8);
	tell_data(recv(c->fd, buf, 100, 0), buf, "recv");
}

/* ---- large transfers ---- */

static void *bulk_receive(void *arg)
{
	struct task *k = arg;
	static char in[150000];

	k->hash = HASH_START;
	while (k->ret < k->total) {
		size_t want = 1 + (size_t)(k->ret * 7919 % 65521);
		ssize_t n =
			recv(k->c->fd, in, want < (size_t)(k->total - k->ret) ? want : (size_t)(k->total - k->ret), 0);

		if (n <= 0) {
			k->err = n ? errno : ENODATA;
			break;
		}
		k->hash = pattern_hash(k->hash, in, (size_t)n);
		k->ret += n;
	}
	return NULL;
}

/* Both directions at once, in odd sizes. */
static void both_ways(void)
{
	struct conn *c = conn_open();
	struct task k = {.c = c, .total = this_case->a};
	struct peer_answer a;
	int64_t sent = 0;

	peer_later(0, PEER_PUMP, c, this_case->a, this_case->b);
	pthread_create(&k.t, NULL, bulk_receive, &k);
	while (sent < this_case->b) {
		size_t n = 1 + (size_t)(sent * 6271 % 90001);

		if (n > (size_t)(this_case->b - sent))
			n = (size_t)(this_case->b - sent);
		pattern_fill(buf, n, 2, (uint64_t)sent);
		if (send(c->fd, buf, n, 0) != (ssize_t)n) {
			tell(-1, "send");
			break;
		}
		sent += (int64_t)n;
	}
	pthread_join(k.t, NULL);
	a = peer_wait();
	say("received %ld, right: %s", k.ret, k.hash == pattern_stream_hash(1, (uint64_t)this_case->a) ? "yes" : "no");
	say("peer received %lld %s, right: %s", (long long)a.ret, err_name(a.err),
	    a.hash == pattern_stream_hash(2, (uint64_t)this_case->b) ? "yes" : "no");
}

static void one_byte(void)
{
	struct conn *c = conn_open();
	struct peer_answer a;

	peer_later(0, PEER_RECV, c, 2000, 0);
	for (int i = 0; i < 2000; i++) {
		pattern_fill(buf, 1, 2, (uint64_t)i);
		if (send(c->fd, buf, 1, 0) != 1)
			tell(-1, "send");
	}
	a = peer_wait();
	say("2000 single bytes, right: %s", a.hash == pattern_stream_hash(2, 2000) ? "yes" : "no");
}

static void scattered(void)
{
	struct conn *c = conn_open();
	struct iovec v[7];
	uint64_t hash = HASH_START;
	int64_t n = 0;

	peer_later(0, PEER_SEND, c, 1500007, 6);
	while (n < 1500007) {
		char *at = buf;
		ssize_t k, left;

		for (int i = 0; i < 7; i++) {
			v[i] = (struct iovec){at, (size_t)((n + i * 101) % 997)};
			at += v[i].iov_len;
		}
		if (at == buf)
			v[0].iov_len = 1;
		k = readv(c->fd, v, 7);
		if (k <= 0) {
			tell(k, "readv");
			break;
		}
		left = k;
		for (int i = 0; i < 7 && left > 0; i++) {
			size_t m = v[i].iov_len < (size_t)left ? v[i].iov_len : (size_t)left;

			hash = pattern_hash(hash, v[i].iov_base, m);
			left -= (ssize_t)m;
		}
		n += k;
	}
	say("%lld bytes, right: %s", (long long)n, hash == pattern_stream_hash(6, 1500007) ? "yes" : "no");
	peer_wait();
}

/* An event loop: non-blocking, edge-triggered, both directions. */
static void event_loop(void)
{
	struct conn *c = conn_nonblock();
	const int64_t size = 3000017;
	int64_t in = 0, out = 0;
	uint64_t hash = HASH_START;
	int ep = epoll_create1(0), idle = 0;
	struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLET};
	struct peer_answer a;

	epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
	peer_later(0, PEER_PUMP, c, size, size);
	while ((in < size || out < size) && idle < 4) {
		ssize_t n;

		if (epoll_wait(ep, &e, 1, 500) != 1) {
			idle++;
			continue;
		}
		while (in < size && (n = recv(c->fd, buf, sizeof(buf), 0)) > 0) {
			hash = pattern_hash(hash, buf, (size_t)n);
			in += n;
		}
		while (out < size) {
			size_t k = size - out < 40009 ? (size_t)(size - out) : 40009;

			pattern_fill(buf, k, 2, (uint64_t)out);
			n = send(c->fd, buf, k, 0);
			if (n <= 0)
				break;
			out += n;
		}
	}
	say("out of %d rounds, %s was idle", idle < 4 ? 4 : idle, idle < 4 ? "none for long" : "each");
	say("in %lld right: %s; out %lld", (long long)in, hash == pattern_stream_hash(1, (uint64_t)size) ? "yes" : "no",
	    (long long)out);
	a = peer_wait();
	say("peer right: %s", a.hash == pattern_stream_hash(2, (uint64_t)size) ? "yes" : "no");
}

static void many_at_once(void)
{
	struct conn *c[8];
	struct task k[8];

	for (int i = 0; i < 8; i++)
		c[i] = conn_open();
	for (int i = 0; i < 8; i++) {
		k[i] = (struct task){.c = c[i], .total = 100003};
		peer(PEER_SEND, c[i], 100003, 1);
		pthread_create(&k[i].t, NULL, bulk_receive, &k[i]);
		pthread_join(k[i].t, NULL);
		say("%d: %ld right: %s", i, k[i].ret, k[i].hash == pattern_stream_hash(1, 100003) ? "yes" : "no");
	}
}

const struct test_case cases_thread[] = {
	{.name = "thread/recv-shutdown-rd",
	 .text = "recv blocked, another thread shuts down reading",
	 .run = recv_and_shutdown,
	 .a = SHUT_RD},
	{.name = "thread/recv-shutdown",
	 .text = "recv blocked, another thread shuts down",
	 .run = recv_and_shutdown,
	 .a = SHUT_RDWR},
	CASE("thread/recv-shutdown-wr", "recv blocked, another thread shuts down writing", recv_and_shutdown_wr),
	CASE("thread/poll-shutdown", "poll blocked, another thread shuts down", poll_and_shutdown),
	CASE("thread/recv-close", "recv blocked, another thread closes", recv_and_close),
	CASE("thread/recv-dup2", "recv blocked, another thread replaces the descriptor", recv_and_dup2),
	CASE("thread/recv-send", "recv blocked, another thread sends", recv_and_send),
	CASE("thread/recv-reset", "recv blocked, the peer resets", recv_and_reset),
	CASE("thread/send-shutdown", "send blocked, another thread shuts down", send_and_shutdown),
	CASE("thread/send-reset", "send blocked, the peer resets", send_and_reset),
	CASE("thread/two-receivers", "two threads receive one byte each", two_receivers),
	CASE_RETURNS("thread/recv-lowat", "recv of less than SO_RCVLOWAT", recv_below_lowat, RETURNED),
	CASE("thread/cancel-recv", "pthread_cancel in recv", cancel_recv),
	CASE("thread/cancel-epoll", "pthread_cancel in epoll_wait", cancel_epoll),
	CASE("thread/cancel-send", "pthread_cancel in send", cancel_send),
	CASE("signal/jump", "siglongjmp out of recv, three times", jump_out),
	CASE("signal/handler-sends", "a handler sends", handler_sends),
	CASE("signal/handler-in-recv", "a handler sends while recv is blocked", handler_in_recv),
	CASE_RETURNS("signal/handler-forks", "a handler forks while recv is blocked", handler_forks, RETURNED),
	CASE("signal/handler-closes", "a handler closes while recv is blocked", handler_closes),
	CASE("signal/rcvtimeo", "SO_RCVTIMEO and SA_RESTART: EINTR all the same", timeout_and_signal),
	CASE("signal/sndtimeo", "SO_SNDTIMEO and SA_RESTART: EINTR all the same", send_timeout_and_signal),
	CASE("signal/many", "2 MB under 3000 signals a second", many_signals),
	CASE("signal/stop", "SIGSTOP and SIGCONT", sigstop),
	{.name = "bulk/both-ways",
	 .text = "3 MB in and 2 MB out at once, odd sizes",
	 .run = both_ways,
	 .a = 3000017,
	 .b = 2000003},
	{.name = "bulk/in", .text = "4 MB in", .run = both_ways, .a = 4000037, .b = 1},
	{.name = "bulk/out", .text = "4 MB out", .run = both_ways, .a = 1, .b = 4000037},
	CASE("bulk/one-byte", "2000 writes of a byte", one_byte),
	CASE("bulk/scattered", "1.5 MB into seven pieces of odd sizes", scattered),
	CASE("bulk/event-loop", "3 MB each way, edge-triggered", event_loop),
	CASE("bulk/eight", "eight connections", many_at_once),
	{.name = NULL},
};
