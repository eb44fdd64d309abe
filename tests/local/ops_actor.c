// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A process that is played with: it takes orders from its channel, one at a time, until the
 * director closes that. It can fork, exec itself with its descriptors, pass them on, and let a
 * second thread do an order that sleeps. An alarm ends it if an order takes for ever.
 */
#include "tests/asleep.h"
#include "tests/local/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ALARM_S 20
#define ASLEEP_MS 500
#define JOIN_MS (ANSWER_MS / 2)

int actor_fds[ENDS][COPIES];
static int channel;
static __thread uint8_t *room;

/* The thread that does an order that sleeps; one at a time. */
static struct {
	pthread_t thread;
	struct order order;
	struct answer answer;
	_Atomic int tid;   /* pairs with actor_start() */
	_Atomic bool done; /* pairs with actor_join() */
} worker;
static __thread volatile sig_atomic_t pipes; /* SIGPIPE that came to this thread */

/* ---- small things ---- */

void say(struct answer *a, const char *format, ...)
{
	size_t len = strlen(a->text);
	va_list ap;

	va_start(ap, format);
	vsnprintf(a->text + len, sizeof a->text - len, format, ap);
	va_end(ap);
}

void say_result(struct answer *a, int64_t r)
{
	int error = errno;

	a->r = r;
	a->error = r < 0 ? error : 0;
	if (r < 0)
		say(a, " = %ld %s", (long)r, strerrorname_np(error));
	else
		say(a, " = %ld", (long)r);
}

void *actor_room(void)
{
	if (!room)
		room = malloc(LONGEST);
	return room;
}

struct timespec timespec_ms(int ms)
{
	return (struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
}

int64_t clock_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000LL + ts.tv_nsec / 1000;
}

int channel_send(int s, const void *msg, size_t n, int fd)
{
	struct iovec v = {(void *)msg, n};
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof fd)];
	} control = {.head = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)}};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};

	if (fd >= 0) {
		m.msg_control = &control;
		m.msg_controllen = sizeof control;
		memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
	}
	return sendmsg(s, &m, MSG_NOSIGNAL) == (ssize_t)n ? 0 : -1;
}

ssize_t channel_recv(int s, void *msg, size_t n, int *fd)
{
	struct iovec v = {msg, n};
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof *fd)];
	} control;
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	struct cmsghdr *c;
	ssize_t r;

	do {
		r = recvmsg(s, &m, 0);
	} while (r < 0 && errno == EINTR);
	c = CMSG_FIRSTHDR(&m);
	*fd = -1;
	if (r > 0 && c && c->cmsg_type == SCM_RIGHTS)
		memcpy(fd, CMSG_DATA(c), sizeof *fd);
	return r;
}

static void on_pipe(int sig)
{
	(void)sig;
	pipes++;
}

static void on_signal(int sig)
{
	(void)sig;
}

static void handle(int sig, void (*handler)(int), int flags)
{
	struct sigaction sa = {.sa_handler = handler, .sa_flags = flags};

	sigaction(sig, &sa, NULL);
}

/* ---- the second thread ---- */

static void carry_out(const struct order *o, struct answer *a)
{
	pipes = 0;
	if (!io_order(o, a) && !events_order(o, a))
		state_order(o, a);
	if (pipes)
		say(a, ", SIGPIPE");
}

static void *worker_main(void *arg)
{
	(void)arg;
	worker.tid = (int)syscall(SYS_gettid);
	carry_out(&worker.order, &worker.answer);
	free(room);
	room = NULL;
	worker.done = true;
	return NULL;
}

/* The order is with the thread, and that sleeps, or is about to. */
static void actor_start(const struct order *o)
{
	int64_t end = clock_us() + ASLEEP_MS * 1000;

	memset(&worker.answer, 0, sizeof worker.answer);
	worker.order = *o;
	worker.tid = 0;
	worker.done = false;
	pthread_create(&worker.thread, NULL, worker_main, NULL);
	for (int seen = 0; seen < 2 && clock_us() < end && !worker.done; usleep(300))
		seen = worker.tid && is_asleep(worker.tid) ? seen + 1 : 0;
}

static void actor_join(struct answer *a)
{
	int64_t end = clock_us() + JOIN_MS * 1000;

	while (!worker.done && clock_us() < end)
		usleep(50);
	if (!worker.done) {
		say(a, "the thread sleeps for ever");
		return;
	}
	pthread_join(worker.thread, NULL);
	*a = worker.answer;
}

/* Without SA_RESTART, until the call has ended: the signal might come just before the call. */
static void actor_signal(const struct order *o, struct answer *a)
{
	int64_t end = clock_us() + JOIN_MS * 1000;

	handle(SIGUSR1, on_signal, o->how ? SA_RESTART : 0);
	say(a, "signal%s", o->how ? " with SA_RESTART" : "");
	do {
		pthread_kill(worker.thread, SIGUSR1);
		usleep(2000);
	} while (!o->how && !worker.done && clock_us() < end);
}

/* ---- processes ---- */

/* Becomes a new image with the same descriptors; the epoll instance is closed by it. */
static void actor_exec(int ctl)
{
	char table[1024] = "", number[16], *p = table;
	char *argv[] = {"ops", "actor", number, table, (char *)net_to, (char *)net_from, NULL};

	for (unsigned int i = 0; i < ENDS * COPIES; i++)
		if (actor_fds[i / COPIES][i % COPIES] >= 0)
			p += sprintf(p, "%u=%d,", i, actor_fds[i / COPIES][i % COPIES]);
	snprintf(number, sizeof number, "%d", ctl);
	execv("/proc/self/exe", argv);
	_exit(99);
}

static void actor_fork(const struct order *o, struct answer *a, int child_channel)
{
	static const char *const names[] = {"fork", "fork, exec", "fork, exec outside"};
	pid_t pid = fork();

	if (!pid) {
		close(channel);
		channel = child_channel;
		events_forget();
		alarm(ALARM_S);
		if (o->how == FORK_OUTSIDE)
			unsetenv("LD_PRELOAD");
		if (o->how != FORK_FORK)
			actor_exec(channel);
		return;
	}
	close(child_channel);
	say(a, "%s", names[o->how]);
	a->r = pid;
}

static void actor_pass(const struct order *o, struct answer *a, int s)
{
	char byte = 0;
	int fd;

	if (o->op == DO_PASS) {
		say(a, "SCM_RIGHTS");
		say_result(a, channel_send(s, &byte, 1, actor_fds[o->end][o->copy]));
	} else {
		a->r = channel_recv(s, &byte, 1, &fd);
		actor_fds[o->end][o->copy] = fd;
	}
	close(s);
}

/* Returns false in the child of a fork, whose parent answers. */
static bool actor_order(const struct order *o, struct answer *a, int fd)
{
	switch (o->op) {
	case DO_FORK:
		actor_fork(o, a, fd);
		return a->r != 0;
	case DO_EXEC:
		actor_exec(channel);
		break;
	case DO_PASS:
	case DO_GET:
		actor_pass(o, a, fd);
		break;
	case DO_JOIN:
		actor_join(a);
		break;
	case DO_SIGNAL:
		actor_signal(o, a);
		break;
	case DO_EXIT:
		exit(0);
	default:
		carry_out(o, a);
	}
	return true;
}

int actor_main(int ctl, const char *table)
{
	struct order o;
	struct answer a;
	unsigned int i;
	int fd, used;

	channel = ctl;
	memset(actor_fds, -1, sizeof actor_fds);
	for (; sscanf(table, "%u=%d,%n", &i, &fd, &used) == 2 && i < ENDS * COPIES; table += used)
		actor_fds[i / COPIES][i % COPIES] = fd;
	handle(SIGPIPE, on_pipe, SA_RESTART);
	handle(SIGCHLD, SIG_IGN, 0);
	while (channel_recv(channel, &o, sizeof o, &fd) == sizeof o) {
		alarm(ALARM_S);
		memset(&a, 0, sizeof a);
		if (o.thread)
			actor_start(&o);
		else if (!actor_order(&o, &a, fd))
			continue;
		if (channel_send(channel, &a, sizeof a, -1))
			break;
	}
	return 0;
}
