/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * load - an ordinary client program over sockets, for comparing Linux and tapas when both ends are on one host.
 *   load ask ADDR PORT CONNS SECONDS REQUEST ANSWER   closed loop by epoll: REQUEST, whole ANSWER, which is compared
 *   load push ADDR PORT SECONDS                       one connection, blocking: sends
 *   load pull ADDR PORT SECONDS                       one connection, blocking: receives
 *   load hold ADDR PORT                               connections that idle: see hold()
 *
 * What is measured begins with the line "start" (WARM_NS after the first request, when connections are adopted) and
 * ends with a line of JSON; the program then stays until its standard input ends. So the caller may look at what
 * processes use at both moments, and neither start nor end of a program is in its figures.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/hist.h"

#define WARM_NS 500000000u
#define BLOCK (256 << 10)
#define BATCH 256
#define HOLD_MAX 100000
#define HOLD_BYTES 64

struct peer {
	int fd;
	size_t got; /* bytes of the answer */
	uint64_t asked_ns;
};

static struct sockaddr_in to;
static struct hist took;
static uint64_t start_ns, end_ns;
static uint64_t done, total; /* requests or bytes: since "start", and of all time */
static bool warm;            /* "start" has been said */
static char block[BLOCK];

static void die(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, errno ? strerror(errno) : "not what was expected");
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void say(const char *line)
{
	puts(line);
	fflush(stdout);
}

/* Returns whether there is more to do. */
static bool clock_turn(uint64_t now, double seconds)
{
	if (!warm && now >= start_ns) {
		warm = true;
		say("start");
		start_ns = now_ns();
		end_ns = start_ns + (uint64_t)(seconds * 1e9);
		done = 0;
		memset(&took, 0, sizeof took);
		return true;
	}
	return !warm || now < end_ns;
}

static void report(uint64_t now)
{
	double seconds = (double)(now - start_ns) / 1e9;

	printf("{\"seconds\": %.6f, \"done\": %llu, \"total\": %llu, \"rate\": %.1f, \"p50_us\": %.3f, \"p99_us\": "
	       "%.3f, "
	       "\"max_us\": %.3f}\n",
	       seconds, (unsigned long long)done, (unsigned long long)total, (double)done / seconds,
	       hist_q(&took, 50) / 1e3, hist_q(&took, 99) / 1e3, (double)took.max / 1e3);
	fflush(stdout);
	while (read(0, block, sizeof block) > 0)
		;
}

static int dial(void)
{
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (connect(fd, (void *)&to, sizeof to))
		die("connect");
	return fd;
}

/* ---- closed loop ---- */

static const char *request, *answer;
static size_t request_len, answer_len;

static void ask(struct peer *p)
{
	p->got = 0;
	p->asked_ns = now_ns();
	if (send(p->fd, request, request_len, MSG_NOSIGNAL) != (ssize_t)request_len)
		die("send");
}

/* True: the answer is whole. */
static bool answered(struct peer *p)
{
	ssize_t n = recv(p->fd, block, sizeof block, 0);

	if (n < 0 && errno == EAGAIN)
		return false;
	errno = n < 0 ? errno : 0;
	if (n <= 0 || (size_t)n > answer_len - p->got || memcmp(block, answer + p->got, (size_t)n))
		die("answer");
	p->got += (size_t)n;
	return p->got == answer_len;
}

static void ask_all(int conns, double seconds)
{
	struct peer *peers = calloc((size_t)conns, sizeof *peers);
	struct epoll_event ready[BATCH];
	int ep = epoll_create1(EPOLL_CLOEXEC);
	uint64_t now = now_ns();

	for (int i = 0; i < conns; i++) {
		struct epoll_event e = {.events = EPOLLIN, .data.ptr = &peers[i]};

		peers[i].fd = dial();
		fcntl(peers[i].fd, F_SETFL, O_NONBLOCK);
		if (epoll_ctl(ep, EPOLL_CTL_ADD, peers[i].fd, &e))
			die("epoll_ctl");
	}
	for (int i = 0; i < conns; i++)
		ask(&peers[i]);
	for (start_ns = now_ns() + WARM_NS; clock_turn(now, seconds); now = now_ns()) {
		int n = epoll_wait(ep, ready, BATCH, 100);

		for (int i = 0; i < n; i++) {
			struct peer *p = ready[i].data.ptr;

			if (!answered(p))
				continue;
			hist_add(&took, now_ns() - p->asked_ns);
			done++;
			total++;
			ask(p);
		}
	}
	report(now);
}

/* ---- bulk ---- */

static void bulk(bool push, double seconds)
{
	int fd = dial();
	uint64_t now = now_ns();

	for (start_ns = now + WARM_NS; clock_turn(now, seconds); now = now_ns()) {
		ssize_t n = push ? send(fd, block, sizeof block, MSG_NOSIGNAL) : recv(fd, block, sizeof block, 0);

		errno = n < 0 ? errno : 0;
		if (n <= 0)
			die(push ? "send" : "recv");
		done += (uint64_t)n;
		total += (uint64_t)n;
	}
	report(now);
}

/* ---- connections that idle ---- */

/* One exchange on each, one after the other. */
static void exchange(const int *fds, int n)
{
	char text[HOLD_BYTES];

	for (int i = 0; i < n; i++) {
		if (send(fds[i], request, HOLD_BYTES, MSG_NOSIGNAL) != HOLD_BYTES)
			die("send");
		if (recv(fds[i], text, sizeof text, MSG_WAITALL) != HOLD_BYTES || memcmp(text, request, HOLD_BYTES))
			die("recv");
	}
}

/*
 * Reads commands, answers each with "ok":
 *   open N    N connections more to an echo server
 *   ask N     N exchanges on each of them
 * At the end of its input all are reset, so that no TIME_WAIT is left.
 */
static void hold(void)
{
	struct linger reset = {.l_onoff = 1};
	static int fds[HOLD_MAX];
	int held = 0, n;
	char line[64];

	while (fgets(line, sizeof line, stdin)) {
		if (sscanf(line, "open %d", &n) == 1 && n >= 0 && n <= HOLD_MAX - held) {
			while (n--)
				fds[held++] = dial();
		} else if (sscanf(line, "ask %d", &n) == 1) {
			while (n-- > 0)
				exchange(fds, held);
		} else {
			errno = EINVAL;
			die(line);
		}
		say("ok");
	}
	for (int i = 0; i < held; i++) {
		setsockopt(fds[i], SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		close(fds[i]);
	}
}

static int usage(void)
{
	fputs("usage: load ask ADDR PORT CONNS SECONDS REQUEST ANSWER\n"
	      "       load push|pull ADDR PORT SECONDS\n"
	      "       load hold ADDR PORT\n",
	      stderr);
	return 2;
}

int main(int argc, char **argv)
{
	struct rlimit files = {HOLD_MAX + 64, HOLD_MAX + 64};
	const char *mode = argc > 1 ? argv[1] : "";

	if (argc < 4 || inet_pton(AF_INET, argv[2], &to.sin_addr) != 1)
		return usage();
	to.sin_family = AF_INET;
	to.sin_port = htons((uint16_t)atoi(argv[3]));
	setrlimit(RLIMIT_NOFILE, &files); /* matters to hold alone, whose sockets would say so */
	request = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
	if (!strcmp(mode, "ask") && argc == 8 && atoi(argv[4]) > 0) {
		request = argv[6];
		answer = argv[7];
		request_len = strlen(request);
		answer_len = strlen(answer);
		ask_all(atoi(argv[4]), atof(argv[5]));
	} else if (argc == 5 && (!strcmp(mode, "push") || !strcmp(mode, "pull"))) {
		bulk(mode[2] == 's', atof(argv[4]));
	} else if (argc == 4 && !strcmp(mode, "hold")) {
		hold();
	} else {
		return usage();
	}
	return 0;
}
