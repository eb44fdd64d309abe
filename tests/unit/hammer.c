/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The interposition library under many threads, linked in, so that a sanitizer sees it and its
 * user as one program.
 *
 *	hammer FAKE-SERVICE [seconds]
 *
 * chaos: threads open, close, duplicate, register, send, receive, poll and wait on shared
 * descriptors and epoll instances at random, each closing what others use. echo: servers wait
 * on shared instances, level-triggered, edge-triggered and ONESHOT, clients check every byte of
 * the answers; an answer that does not come is a lost wake-up. Both fail if nothing was adopted.
 */
#define _GNU_SOURCE 1
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "preload/libc.h"
#include "preload/epoll.h"
#include "service/base/clock.h"

#define THREADS 24
#define FDS 48
#define EPS 8
#define SERVERS 10
#define CLIENTS (THREADS - SERVERS)
#define ANSWER_MS 20000

struct libc libc_table;

/* In place of preload/libc.c: libc's own functions, not the sanitizer's around them, which would report every close. */
void libc_resolve(void)
{
	void *c = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);

#define X(type, name, args) *(void **)(void *)&libc_table.name = dlsym(c, #name);
	LIBC_LIST(X)
#undef X
	if (!libc_table.fcntl64)
		libc_table.fcntl64 = libc_table.fcntl;
	libc_table.ready = true;
}

static _Atomic int fds[FDS], eps[EPS];
static _Atomic uint64_t rounds, answers;
static _Atomic bool stop, failed;
static _Atomic int clients_left; /* servers stay until they have their answers */
static int listener;
static struct sockaddr_in address = {.sin_family = AF_INET};

static uint32_t roll(uint64_t *seed, uint32_t n)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(*seed >> 33) % n;
}

static void die(const char *what)
{
	fprintf(stderr, "hammer: %s: %s\n", what, strerror(errno));
	_exit(1);
}

static int timed_recv(int fd, void *buf, size_t len)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	if (poll(&p, 1, ANSWER_MS) != 1)
		return -1;
	return (int)recv(fd, buf, len, 0);
}

static int client_connect(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	if (fd < 0 || syscall(SYS_connect, fd, &address, sizeof(address)))
		die("connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

/* ---- chaos ---- */

static void replace(_Atomic int *place, int fd)
{
	int old = atomic_exchange(place, fd);

	if (old >= 0)
		close(old);
}

/* Both ends of a new connection. */
static void chaos_open(uint64_t *seed)
{
	int c = client_connect(), s = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
	char b[8];

	if (s < 0)
		die("accept");
	fcntl(c, F_SETFL, O_NONBLOCK);
	for (int i = (int)roll(seed, 5); i; i--) { /* others meet it before its first exchange, or later */
		(void)!send(c, "x", 1, MSG_NOSIGNAL);
		(void)!recv(s, b, sizeof(b), 0);
		(void)!send(s, "y", 1, MSG_NOSIGNAL);
		(void)!recv(c, b, sizeof(b), 0);
	}
	replace(&fds[roll(seed, FDS)], c);
	replace(&fds[roll(seed, FDS)], s);
}

static void chaos_ctl(uint64_t *seed, int fd, int ep)
{
	static const uint32_t flags[] = {0, EPOLLET, EPOLLONESHOT, EPOLLET | EPOLLONESHOT, EPOLLEXCLUSIVE};
	struct epoll_event e = {.events = EPOLLIN | flags[roll(seed, 5)], .data.u64 = *seed};
	int inner = atomic_load(&eps[roll(seed, EPS)]);

	if (roll(seed, 3) == 0 && !(e.events & EPOLLEXCLUSIVE))
		e.events |= EPOLLOUT | EPOLLRDHUP;
	epoll_ctl(ep, 1 + (int)roll(seed, 3), roll(seed, 12) ? fd : inner, &e);
}

static void chaos_wait(uint64_t *seed, int fd, int ep)
{
	struct pollfd p[6];
	struct epoll_event e[8];
	struct timeval t = {.tv_usec = roll(seed, 2000)};
	fd_set r;

	switch (roll(seed, 6)) {
	case 0:
		for (int i = 0; i < 6; i++)
			p[i] = (struct pollfd){.fd = atomic_load(&fds[roll(seed, FDS)]), .events = POLLIN};
		p[5].fd = ep;
		poll(p, 6, (int)roll(seed, 3));
		break;
	case 1:
		FD_ZERO(&r);
		if (fd >= 0 && fd < FD_SETSIZE)
			FD_SET(fd, &r);
		select(FD_SETSIZE, &r, NULL, NULL, &t);
		break;
	default:
		epoll_wait(ep, e, 1 + (int)roll(seed, 8), (int)roll(seed, 5));
	}
}

static void chaos_once(uint64_t *seed)
{
	int fd = atomic_load(&fds[roll(seed, FDS)]), ep = atomic_load(&eps[roll(seed, EPS)]), d;
	static const char zeros[3000];
	char b[3000];

	switch (roll(seed, 16)) {
	case 0:
		chaos_open(seed);
		break;
	case 1:
		replace(&fds[roll(seed, FDS)], -1);
		break;
	case 2:
		if (roll(seed, 4) == 0)
			replace(&eps[roll(seed, EPS)], epoll_create1(EPOLL_CLOEXEC));
		break;
	case 3:
		d = dup(fd);
		if (d >= 0) {
			chaos_ctl(seed, d, ep);
			replace(&fds[roll(seed, FDS)], d);
		}
		break;
	case 4:
		if (roll(seed, 8) == 0)
			shutdown(fd, (int)roll(seed, 3));
		break;
	case 5:
	case 6:
	case 7:
		(void)!send(fd, zeros, 1 + roll(seed, sizeof(zeros)), MSG_NOSIGNAL | MSG_DONTWAIT);
		break;
	case 8:
	case 9:
	case 10:
		(void)!recv(fd, b, sizeof(b), MSG_DONTWAIT);
		break;
	case 11:
	case 12:
		chaos_wait(seed, fd, ep);
		break;
	default:
		chaos_ctl(seed, fd, ep);
	}
}

static void *chaos_main(void *arg)
{
	uint64_t seed = (uintptr_t)arg * 7919 + 1;

	while (!atomic_load(&stop)) {
		chaos_once(&seed);
		atomic_fetch_add(&rounds, 1);
	}
	return NULL;
}

/* ---- echo ---- */

static int echo_ep[3];
static const uint32_t echo_flags[] = {0, EPOLLET, EPOLLONESHOT};

/* Serve one descriptor until it would block. One thread at a time, or any number: bytes are only counted for LT. */
static void echo_serve(int ep, int kind, struct epoll_event *e)
{
	struct epoll_event again = {.events = EPOLLIN | EPOLLRDHUP | echo_flags[kind], .data = e->data};
	int fd = (int)(uint32_t)e->data.u64;
	char b[4096];

	for (;;) {
		ssize_t n = recv(fd, b, sizeof(b), MSG_DONTWAIT), m = 0;

		if (!n || (n < 0 && errno != EAGAIN)) {
			close(fd);
			return;
		}
		if (n < 0)
			break;
		while (m < n) {
			ssize_t k = send(fd, b + m, (size_t)(n - m), MSG_NOSIGNAL);

			if (k < 0 && errno == EAGAIN)
				continue;
			if (k < 0)
				break;
			m += k;
		}
		if (kind == 0)
			break;
	}
	if (kind == 2)
		epoll_ctl(ep, EPOLL_CTL_MOD, fd, &again);
}

static void echo_accept(void)
{
	static _Atomic uint32_t next;
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK), kind = (int)(atomic_fetch_add(&next, 1) % 3), one = 1;
	struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | echo_flags[kind], .data.u64 = (uint32_t)fd};

	if (fd < 0)
		return;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (epoll_ctl(echo_ep[kind], EPOLL_CTL_ADD, fd, &e))
		die("epoll_ctl");
}

/*
 * One thread waits level-triggered, as several would serve the same bytes; one edge-triggered,
 * for the same reason; all others share the ONESHOT instance.
 */
static void *server_main(void *arg)
{
	int me = (int)(uintptr_t)arg, kind = me < 2 ? me : 2;

	while (!atomic_load(&stop) || atomic_load(&clients_left)) {
		struct epoll_event e[4];
		int n = epoll_wait(echo_ep[kind], e, 4, 200);

		for (int i = 0; i < n; i++) {
			if ((int)(uint32_t)e[i].data.u64 == listener)
				echo_accept();
			else
				echo_serve(echo_ep[kind], kind, &e[i]);
		}
	}
	return NULL;
}

static bool client_once(uint64_t *seed, int fd)
{
	char out[3000], in[3000];
	int len = 1 + (int)roll(seed, sizeof(out)), got = 0;

	for (int i = 0; i < len; i++)
		out[i] = (char)roll(seed, 256);
	if (send(fd, out, (size_t)len, MSG_NOSIGNAL) != len)
		return false;
	while (got < len) {
		int n = timed_recv(fd, in + got, (size_t)(len - got));

		if (n <= 0)
			return false;
		got += n;
	}
	return !memcmp(in, out, (size_t)len);
}

/* What the kernel knows of an instance. */
static void dump_instance(int ep)
{
	char path[64], text[8192];
	long fd, n;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", ep);
	fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY);
	n = fd < 0 ? -1 : syscall(SYS_read, fd, text, sizeof(text));
	fprintf(stderr, "instance %d:\n%.*s", ep, (int)MAX(n, 0L), text);
	syscall(SYS_close, fd);
}

/* Something went wrong: what the library knows of every socket. Races with everybody; only for a human to read. */
static void dump(void)
{
	for (int fd = 0; fd <= fd_top(); fd++) {
		struct file *f = file_get(fd);
		struct sock *s;
		int kernel = -1;

		if (!f || f->type != FILE_SOCK)
			continue;
		s = container_of(f, struct sock, file);
		syscall(SYS_ioctl, fd, FIONREAD, &kernel);
		fprintf(stderr, "fd %d state %u refs %llx kernel %d", fd, sock_state(s), (unsigned long long)f->refs,
			kernel);
		if (sock_state(s) == SOCK_FAST)
			fprintf(stderr, " unread %llu unacked %llu status %x want %u context %u armed %u bell %d",
				(unsigned long long)stream_unread(&s->st), (unsigned long long)stream_unacked(&s->st),
				stream_status(&s->st), s->st.slot->want, s->context,
				s->core->shm->context[s->context].armed,
				bell_any(&s->core->shm->context[s->context].bell));
		for (struct item *it = s->items; it; it = it->sock_next)
			fprintf(stderr, " [ep %d fd %d events %x where %d queued %d disabled %d nready %u plain %u]",
				it->ep->epfd, it->fd, it->events, it->where, it->queued, it->disabled, it->ep->nready,
				it->ep->plain);
		if (s->items)
			fprintf(stderr, " tag %x", s->items->tag);
		fprintf(stderr, "\n");
	}
	for (int i = 0; i < 3; i++)
		dump_instance(echo_ep[i]);
}

static void *client_main(void *arg)
{
	uint64_t seed = (uintptr_t)arg * 104729 + 3;

	while (!atomic_load(&stop)) {
		int fd = client_connect(), n = 1 + (int)roll(&seed, 60);

		for (int i = 0; i < n; i++) {
			if (!client_once(&seed, fd)) {
				fprintf(stderr, "hammer: descriptor %d: no answer, or a wrong one (%s)\n", fd,
					strerror(errno));
				if (!atomic_exchange(&failed, true))
					dump();
				atomic_store(&stop, true);
				break;
			}
			atomic_fetch_add(&answers, 1);
		}
		close(fd);
	}
	atomic_fetch_sub(&clients_left, 1);
	return NULL;
}

/* ---- running ---- */

static void run(void *(*one)(void *), int nones, void *(*two)(void *), int seconds)
{
	pthread_t t[THREADS];

	atomic_store(&stop, false);
	for (intptr_t i = 0; i < THREADS; i++)
		if (pthread_create(&t[i], NULL, i < nones ? one : two, (void *)i))
			die("pthread_create");
	for (int i = 0; i < seconds * 10 && !atomic_load(&stop); i++)
		poll(NULL, 0, 100);
	atomic_store(&stop, true);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
}

static void chaos(int seconds)
{
	for (int i = 0; i < FDS; i++)
		atomic_store(&fds[i], -1);
	for (int i = 0; i < EPS; i++)
		atomic_store(&eps[i], epoll_create1(EPOLL_CLOEXEC));
	run(chaos_main, THREADS, chaos_main, seconds);
	for (int i = 0; i < FDS; i++)
		replace(&fds[i], -1);
	for (int i = 0; i < EPS; i++)
		replace(&eps[i], -1);
}

static void echo(int seconds)
{
	for (int i = 0; i < 3; i++) {
		struct epoll_event e = {.events = EPOLLIN, .data.u64 = (uint32_t)listener};

		echo_ep[i] = epoll_create1(EPOLL_CLOEXEC);
		if (epoll_ctl(echo_ep[i], EPOLL_CTL_ADD, listener, &e))
			die("epoll_ctl");
	}
	fcntl(listener, F_SETFL, O_NONBLOCK);
	atomic_store(&clients_left, CLIENTS);
	run(server_main, SERVERS, client_main, seconds);
}

static pid_t service_start(const char *program, char *path, int *out)
{
	int p[2];
	pid_t pid;

	if (pipe2(p, O_CLOEXEC))
		die("pipe");
	pid = fork();
	if (!pid) {
		dup2(p[1], 1);
		execl(program, program, path, "0", "7", (char *)NULL);
		_exit(127);
	}
	close(p[1]);
	*out = p[0];
	for (int i = 0; i < 200 && access(path, F_OK); i++)
		poll(NULL, 0, 20);
	return pid;
}

int main(int argc, char **argv)
{
	char dir[] = "/tmp/hammer.XXXXXX", path[64], line[256] = "";
	int seconds = argc > 2 ? atoi(argv[2]) : 5, out, status;
	unsigned long long count = 0;
	socklen_t len = sizeof(address);
	struct core *first, *service;
	pid_t pid;

	if (argc < 2 || !mkdtemp(dir))
		return 2;
	signal(SIGPIPE, SIG_IGN);
	snprintf(path, sizeof(path), "%s/sock", dir);
	setenv("TAPAS_SOCKET", path, 1);
	pid = service_start(argv[1], path, &out);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(listener, (struct sockaddr *)&address, len) || listen(listener, 512) ||
	    getsockname(listener, (struct sockaddr *)&address, &len))
		die("listen");
	first = sock_service();
	chaos(seconds);
	echo(seconds);
	service = atomic_load(&sock_core);
	if (service != first || core_is_dead(service)) { /* it never hangs up */
		fprintf(stderr, "hammer: the service was given up\n");
		failed = true;
	}
	kill(pid, SIGTERM);
	(void)!libc()->read(out, line, sizeof(line) - 1);
	waitpid(pid, &status, 0);
	rmdir(dir);
	sscanf(line, "adopted %llu", &count);
	printf("hammer: chaos %llu, echo %llu, %s", (unsigned long long)rounds, (unsigned long long)answers, line);
	if (!count || !answers || !rounds)
		fprintf(stderr, "hammer: nothing was tested\n");
	return failed || !count || !answers || !rounds;
}
