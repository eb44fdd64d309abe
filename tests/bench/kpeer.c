/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kpeer - ordinary epoll programs over kernel TCP, for comparison with xload.
 *   kpeer echo PORT            server: echo
 *   kpeer close PORT N         server: reads N bytes, echoes them, closes
 *   kpeer http PORT N          server: N-byte body, keep-alive (or Connection: close)
 *   kpeer sink PORT            server: reads and discards
 *   kpeer source PORT          server: sends without end
 *   kpeer client IP PORT CONNS BYTES SECONDS      client: closed-loop echo
 *   kpeer cclient IP PORT CONNS BYTES SECONDS     client: short connections
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/hist.h"

#define MAXFD 1000000
static int ep, nreq;
static char buf[256 << 10], out[64 << 10];
static struct fdstate {
	int got, pend;
	char *hold;
	uint64_t t0;
} * fds; /* pend: bytes echo could not write yet */

static void die(const char *s)
{
	perror(s);
	exit(2);
}
static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
static void watch(int fd, uint32_t ev, int op)
{
	struct epoll_event e = {.events = ev, .data.fd = fd};
	if (epoll_ctl(ep, op, fd, &e))
		die("epoll_ctl");
}
static void drop(int fd)
{
	free(fds[fd].hold);
	memset(&fds[fd], 0, sizeof fds[fd]);
	close(fd);
}

/* Send n bytes; what does not fit is held until EPOLLOUT. */
static int put(int fd, const char *p, int n)
{
	ssize_t w = send(fd, p, (size_t)n, MSG_NOSIGNAL);
	if (w < 0 && errno != EAGAIN)
		return -1;
	if (w < 0)
		w = 0;
	if (w < n) {
		fds[fd].hold = malloc((size_t)(n - w));
		memcpy(fds[fd].hold, p + w, (size_t)(n - w));
		fds[fd].pend = n - (int)w;
		watch(fd, EPOLLOUT, EPOLL_CTL_MOD);
	}
	return 0;
}

static int serve(int fd, char kind)
{
	struct fdstate *s = &fds[fd];
	if (s->pend) {
		char *h = s->hold;
		int n = s->pend;
		s->hold = NULL;
		s->pend = 0;
		watch(fd, EPOLLIN, EPOLL_CTL_MOD);
		int r = put(fd, h, n);
		free(h);
		return r;
	}
	if (kind == 'o') /* source */
		return send(fd, buf, sizeof buf, MSG_NOSIGNAL) < 0 && errno != EAGAIN ? -1 : 0;
	ssize_t n = recv(fd, buf, kind == 'i' ? sizeof buf : 64 << 10, 0);
	if (n <= 0)
		return n < 0 && errno == EAGAIN ? 0 : -1;
	if (kind == 'i') /* sink */
		return 0;
	if (kind == 'h') { /* http: pipelined requests are answered one by one */
		int bye = memmem(buf, (size_t)n, "Connection: close", 17) != NULL;
		for (char *p = buf, *e; (e = memmem(p, (size_t)(buf + n - p), "\r\n\r\n", 4)); p = e + 4) {
			int h = sprintf(out, "HTTP/1.1 200 OK\r\nServer: kpeer\r\nContent-Length: %d\r\n\r\n", nreq);
			memset(out + h, 'x', (size_t)nreq);
			if (put(fd, out, h + nreq))
				return -1;
		}
		return bye && !s->pend ? -1 : 0;
	}
	if (put(fd, buf, (int)n))
		return -1;
	s->got += (int)n;
	return kind == 'c' && s->got >= nreq ? -1 : 0;
}

static void server(char kind, int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	struct epoll_event ev[256];
	int one = 1, l = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(l, (void *)&a, sizeof a) || listen(l, 4096))
		die("listen");
	watch(l, EPOLLIN, EPOLL_CTL_ADD);
	for (;;) {
		int n = epoll_wait(ep, ev, 256, -1);
		for (int i = 0; i < n; i++) {
			int fd = ev[i].data.fd;
			if (fd != l) {
				if (serve(fd, kind))
					drop(fd);
				continue;
			}
			for (int k = 0; k < 64 && (fd = accept4(l, NULL, NULL, SOCK_NONBLOCK)) >= 0; k++) {
				setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
				watch(fd, kind == 'o' ? EPOLLOUT : EPOLLIN, EPOLL_CTL_ADD);
			}
		}
	}
}

static struct hist h;
static struct sockaddr_in dst;

static void dial(int lasting)
{
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | (lasting ? 0 : SOCK_NONBLOCK), 0);
	struct linger lg = {1, 0};
	if (fd < 0)
		die("socket");
	uint64_t t = now_ns();
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (!lasting) /* RST at close, so that the client does not run out of ports */
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &lg, sizeof lg);
	if (connect(fd, (void *)&dst, sizeof dst) && errno != EINPROGRESS)
		die("connect");
	fds[fd] = (struct fdstate){.t0 = t, .pend = !lasting};
	fcntl(fd, F_SETFL, O_NONBLOCK);
	watch(fd, lasting ? EPOLLIN : EPOLLOUT, EPOLL_CTL_ADD);
}

static void client(char **v, int lasting)
{
	int conns = atoi(v[2]), size = atoi(v[3]);
	struct epoll_event ev[256];
	struct rusage r0, r1;
	uint64_t t, end, reqs = 0, start, warm;
	dst = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(v[1]))};
	inet_aton(v[0], &dst.sin_addr);
	for (int i = 0; i < conns; i++)
		dial(lasting);
	if (lasting)
		for (int fd = 0; fd < conns + 16; fd++)
			if (fds[fd].t0) {
				fds[fd].t0 = now_ns();
				send(fd, out, (size_t)size, 0);
			}
	t = start = now_ns();
	warm = start + 500000000u;
	end = warm + (uint64_t)(atof(v[4]) * 1e9);
	getrusage(RUSAGE_SELF, &r0);
	while (t < end) {
		int n = epoll_wait(ep, ev, 256, 100);
		for (int i = 0; i < n; i++) {
			int fd = ev[i].data.fd;
			struct fdstate *s = &fds[fd];
			if (s->pend) { /* connected */
				s->pend = 0;
				watch(fd, EPOLLIN, EPOLL_CTL_MOD);
				send(fd, out, (size_t)size, MSG_NOSIGNAL);
				continue;
			}
			ssize_t k = recv(fd, buf, sizeof buf, 0);
			if (k <= 0)
				die("recv");
			if ((s->got += (int)k) < size)
				continue;
			t = now_ns();
			hist_add(&h, t - s->t0);
			reqs++;
			s->got = 0;
			if (lasting) {
				s->t0 = t;
				send(fd, out, (size_t)size, MSG_NOSIGNAL);
			} else {
				drop(fd);
				dial(0);
			}
		}
		t = now_ns();
		if (warm && t >= warm) {
			warm = 0;
			start = t;
			reqs = 0;
			memset(&h, 0, sizeof h);
			getrusage(RUSAGE_SELF, &r0);
		}
	}
	getrusage(RUSAGE_SELF, &r1);
	double sec = (double)(t - start) / 1e9;
	double cpu =
		(double)(r1.ru_utime.tv_sec - r0.ru_utime.tv_sec + r1.ru_stime.tv_sec - r0.ru_stime.tv_sec) +
		(double)(r1.ru_utime.tv_usec - r0.ru_utime.tv_usec + r1.ru_stime.tv_usec - r0.ru_stime.tv_usec) / 1e6;
	printf("{\"mode\":\"%s\",\"conns\":%d,\"rps\":%.1f,\"cpu_pct\":%.1f,\"p50\":%.3f,\"p99\":%.3f,\"max\":%.3f}\n",
	       lasting ? "kclient" : "kcclient", conns, (double)reqs / sec, cpu / sec * 100, hist_q(&h, 50) / 1e3,
	       hist_q(&h, 99) / 1e3, (double)h.max / 1e3);
}

int main(int argc, char **argv)
{
	struct rlimit rl = {MAXFD, MAXFD};
	if (setrlimit(RLIMIT_NOFILE, &rl))
		getrlimit(RLIMIT_NOFILE, &rl);
	fds = calloc(MAXFD, sizeof *fds);
	ep = epoll_create1(0);
	signal(SIGPIPE, SIG_IGN);
	if (argc >= 3 && argc <= 4) {
		nreq = argc == 4 ? atoi(argv[3]) : 64;
		if (nreq < 0 || nreq > 60000)
			return 2;
		server(!strcmp(argv[1], "sink") ? 'i' : !strcmp(argv[1], "source") ? 'o' : argv[1][0], atoi(argv[2]));
	} else if (argc == 7)
		client(argv + 2, argv[1][1] == 'l');
	else
		fprintf(stderr, "usage: see the head of kpeer.c\n");
	return argc == 7 ? 0 : 2;
}
