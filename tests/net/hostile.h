/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the hostile applications of the tests have in common: a registered application and its
 * adopted connections, made without the library. Included by their one source file.
 *
 *   NAME SOCKET IP PORT MODE [SECONDS [SEED]]
 *
 * At IP:PORT is an echo server; PORT + 1 closes what it accepts, PORT + 2 never reads. If IP is a
 * loopback address the echo is a program with the library, on this host: the connections are local.
 * Each thing that was tried is printed as a line "NAME RESULT", and "end" at the end. Nothing here
 * decides whether the service did right: the test does.
 */
#ifndef TESTS_NET_HOSTILE_H
#define TESTS_NET_HOSTILE_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "service/ipc/abi.h"
#include "service/ipc/msg.h"

#define CONNS 4
#define ANY 0

struct app {
	int ctl, fds[5]; /* app memory, buffers, page, words, doorbell */
	struct ipc_app *shm;
	uint8_t *buf;
	uint64_t buf_size;
	uint32_t threads, words;
	int context_fd;
};

/* A FAST connection, with what its slot said at first: the slot itself may be scribbled over. */
struct conn {
	int fd;
	uint32_t slot, thread, tx_size, flow_id;
	uint64_t tx_off, rx_off, snd_end;
};

static const char *socket_path;
static struct sockaddr_in server;
static uint64_t rnd;
static double seconds = 1;
static atomic_bool stop;

static inline void die(const char *what)
{
	printf("failed %s: %s\n", what, strerror(errno));
	exit(2);
}

static inline void say(const char *name, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	printf("%s ", name);
	vprintf(fmt, ap);
	putchar('\n');
	fflush(stdout);
	va_end(ap);
}

static inline uint64_t random64(uint64_t *s) /* splitmix64 */
{
	uint64_t z = (*s += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static inline double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- the control socket ---- */

static inline int ctl_open(void)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(sa.sun_path, sizeof sa.sun_path, "%s", socket_path);
	for (int i = 0; fd >= 0 && i < 200; i++) {
		if (!connect(fd, (struct sockaddr *)&sa, sizeof sa))
			return fd;
		usleep(5000); /* its queue is full */
	}
	die("connect to the service");
	return -1;
}

/* @len bytes of @m with descriptors, as they are. False if the service has hung up. */
static inline bool ctl_send(int ctl, const void *m, size_t len, const int *fds, int nfds)
{
	char control[CMSG_SPACE(253 * sizeof(int))] = {0};
	struct iovec v = {(void *)(uintptr_t)m, len};
	struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1};

	if (nfds) {
		struct cmsghdr *c = (struct cmsghdr *)control;

		h.msg_control = control;
		h.msg_controllen = CMSG_SPACE((size_t)nfds * sizeof(int));
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN((size_t)nfds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, (size_t)nfds * sizeof(int));
	}
	return sendmsg(ctl, &h, MSG_NOSIGNAL) >= 0;
}

/* One answer and its descriptors within a second. Returns its length, 0 at the end, -1 if there is none. */
static inline int ctl_recv(int ctl, struct ipc_msg *m, int *fds, int *nfds)
{
	char control[CMSG_SPACE(IPC_MSG_FDS * sizeof(int))];
	struct iovec v = {m, sizeof *m};
	struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct pollfd p = {.fd = ctl, .events = POLLIN};
	struct cmsghdr *c;
	ssize_t n;

	*nfds = 0;
	if (poll(&p, 1, 1000) <= 0)
		return -1;
	n = recvmsg(ctl, &h, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN ? -1 : 0;
	c = CMSG_FIRSTHDR(&h);
	if (c && c->cmsg_type == SCM_RIGHTS) {
		*nfds = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(c), (size_t)*nfds * sizeof(int));
	}
	return (int)n;
}

static inline struct ipc_msg message(uint16_t type, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3)
{
	return (struct ipc_msg){.magic = IPC_MAGIC, .type = type, .arg = {a0, a1, a2, a3}};
}

static inline bool request(int ctl, uint16_t type, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, int fd)
{
	struct ipc_msg m = message(type, a0, a1, a2, a3);

	return ctl_send(ctl, &m, sizeof m, &fd, fd >= 0);
}

/* Did the service hang up? What it says is read and dropped until it is quiet for @ms. */
static inline bool ctl_closed(int ctl, int ms)
{
	struct pollfd p = {.fd = ctl, .events = POLLIN};

	for (int i = 0; i < 100 && poll(&p, 1, ms) > 0; i++) {
		struct ipc_msg m;
		int fds[IPC_MSG_FDS], n, got = ctl_recv(ctl, &m, fds, &n);

		while (n > 0)
			close(fds[--n]);
		if (got <= 0)
			return true;
	}
	return false;
}

static inline void app_open(struct app *a)
{
	struct ipc_msg m = message(IPC_MSG_HELLO, IPC_ABI_VERSION, 0, 0, 0);
	int fds[IPC_MSG_FDS], n;

	a->ctl = ctl_open();
	strcpy(m.text, "hostile");
	if (!ctl_send(a->ctl, &m, sizeof m, NULL, 0) || ctl_recv(a->ctl, &m, fds, &n) <= 0 ||
	    m.type != IPC_MSG_WELCOME || n != 5)
		die("hello");
	memcpy(a->fds, fds, sizeof a->fds);
	a->buf_size = m.arg[1];
	a->threads = (uint32_t)m.arg[2];
	a->words = (uint32_t)m.arg[3];
	a->shm = mmap(NULL, sizeof *a->shm, PROT_READ | PROT_WRITE, MAP_SHARED, a->fds[0], 0);
	a->buf = mmap(NULL, a->buf_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, a->fds[1], 0);
	if (a->shm == MAP_FAILED || a->buf == MAP_FAILED)
		die("mmap");
	if (!request(a->ctl, IPC_MSG_CONTEXT, 0, 0, 0, 0, -1) || ctl_recv(a->ctl, &m, fds, &n) <= 0 || n != 1)
		die("context");
	a->context_fd = fds[0];
}

static inline void app_close(struct app *a)
{
	munmap(a->shm, sizeof *a->shm);
	munmap(a->buf, a->buf_size);
	for (int i = 0; i < 5; i++)
		close(a->fds[i]);
	close(a->context_fd);
	close(a->ctl);
}

/* ---- connections ---- */

static inline int tcp_connect(int port_offset)
{
	struct sockaddr_in sa = server;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	sa.sin_port = htons((uint16_t)(ntohs(sa.sin_port) + port_offset));
	if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof sa))
		die("connect to the echo server");
	return fd;
}

/* The slot's state when it is @want or final; ANY: the first that is not ADOPTING. */
static inline uint32_t slot_wait(struct app *a, uint32_t slot, uint32_t want, double limit)
{
	double end = now() + limit;
	uint32_t state;

	do {
		state = IPC_STATE(atomic_load(&a->shm->slot[slot].status));
		if (want == ANY ? state != IPC_ADOPTING : state == want)
			return state;
		usleep(200);
	} while (now() < end);
	return state;
}

/* @cookie: of the socket that is meant; 0: whatever @fd is. */
static inline bool adopt_ask_for(struct app *a, uint32_t slot, int fd, uint64_t cookie)
{
	struct ipc_msg m = message(IPC_MSG_ADOPT, slot, 0, 0, (uint64_t)fd);
	struct ipc_slot *s = &a->shm->slot[slot];

	atomic_store(&s->snd_end, 0);
	atomic_store(&s->rcv_read, 0);
	atomic_store(&s->want, 0);
	atomic_store(&s->opts, 0);
	atomic_store(&s->context, 0);
	atomic_store(&s->fd_plus1, (uint32_t)fd + 1);
	atomic_store(&s->status, IPC_ADOPTING);
	m.arg[5] = cookie;
	return ctl_send(a->ctl, &m, sizeof m, &fd, 1);
}

static inline bool adopt_ask(struct app *a, uint32_t slot, int fd)
{
	return adopt_ask_for(a, slot, fd, 0);
}

static inline bool is_local(void)
{
	return ntohl(server.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
}

/* One exchange through the kernel; the answer may come by memory already. False: there is none within a second. */
static inline bool conn_exchange(struct app *a, struct conn *c)
{
	struct ipc_slot *s = &a->shm->slot[c->slot];
	char bytes[64] = {0};
	double end = now() + 1;

	if (send(c->fd, bytes, sizeof bytes, MSG_NOSIGNAL) < 0)
		return false;
	for (size_t got = 0; got < sizeof bytes && now() < end;) {
		struct pollfd p = {.fd = c->fd, .events = POLLIN};
		ssize_t n = poll(&p, 1, 1) > 0 ? recv(c->fd, bytes, sizeof bytes - got, MSG_DONTWAIT) : 0;
		bool fast = IPC_STATE(atomic_load(&s->status)) == IPC_FAST;
		uint64_t memory = fast ? atomic_load(&s->rcv_end) - atomic_load(&s->rcv_read) : 0;

		got += n > 0 ? (size_t)n : 0;
		if (memory && memory <= sizeof bytes) { /* else its words have been forged */
			atomic_fetch_add(&s->rcv_read, memory);
			got += memory;
		}
		if (got >= sizeof bytes)
			return true;
	}
	return false;
}

/* Exchanges and requests until both ends are FAST: the other one asks by itself. */
static inline bool conn_pair(struct app *a, struct conn *c)
{
	struct ipc_slot *s = &a->shm->slot[c->slot];

	for (int i = 0; i < 2000; i++) {
		uint32_t status = atomic_load(&s->status), state = IPC_STATE(status);

		if (state == IPC_FAST && status & IPC_ST_PAIRED)
			return true;
		if (i > 4 && state != IPC_FAST && state != IPC_ADOPTING && state != IPC_PAUSED &&
		    !adopt_ask(a, c->slot, c->fd))
			return false;
		if (!conn_exchange(a, c))
			return false;
	}
	return false;
}

static inline void conn_know(struct app *a, struct conn *c)
{
	struct ipc_slot *s = &a->shm->slot[c->slot];

	c->thread = s->thread;
	c->tx_off = s->tx_off;
	c->rx_off = s->rx_off;
	c->tx_size = s->tx_size;
	c->flow_id = s->flow_id;
	c->snd_end = atomic_load(&s->snd_end);
}

static inline void conn_open(struct app *a, struct conn *c, uint32_t slot)
{
	struct ipc_slot *s = &a->shm->slot[slot];
	bool fast;

	c->fd = tcp_connect(0);
	c->slot = slot;
	fast = is_local() ? conn_pair(a, c) : adopt_ask(a, slot, c->fd) && slot_wait(a, slot, ANY, 3) == IPC_FAST;
	if (!fast) {
		printf("failed adoption: state %u, %u\n", atomic_load(&s->status), atomic_load(&s->reason));
		exit(2);
	}
	conn_know(a, c);
}

static inline void app_ring(struct app *a, const struct conn *c)
{
	uint64_t one = 1;

	bell_ring(&a->shm->dirty[c->thread], c->slot);
	if (write(a->fds[4], &one, sizeof one) < 0)
		return; /* it is full: the thread is awake */
}

/* Take what came, send what fits (at most 4 KiB). Returns the bytes taken. */
static inline uint64_t conn_carry(struct app *a, struct conn *c)
{
	struct ipc_slot *s = &a->shm->slot[c->slot];
	uint64_t end = atomic_load(&s->rcv_end), read = atomic_load(&s->rcv_read), acked = atomic_load(&s->snd_acked);
	uint64_t room = acked <= c->snd_end ? c->tx_size - (c->snd_end - acked) : 0;

	if (room > c->tx_size)
		room = 0;
	for (uint64_t i = 0; i < room && i < 4096; i++)
		a->buf[c->tx_off + ((c->snd_end + i) & (c->tx_size - 1))] = (uint8_t)random64(&rnd);
	c->snd_end += room < 4096 ? room : 4096;
	atomic_store(&s->snd_end, c->snd_end);
	if (end > read)
		atomic_store(&s->rcv_read, end);
	app_ring(a, c);
	return end > read ? end - read : 0;
}

/* Carry data for some time. Returns how many bytes came back. */
static inline uint64_t carry(struct app *a, struct conn *c, int n, double limit)
{
	double end = now() + limit;
	uint64_t got = 0;

	while (now() < end && !atomic_load(&stop))
		for (int i = 0; i < n; i++)
			got += conn_carry(a, &c[i]);
	return got;
}

static inline void app_start(struct app *a, struct conn *c, int n)
{
	app_open(a);
	for (int i = 0; i < n; i++)
		conn_open(a, &c[i], (uint32_t)i);
	if (!carry(a, c, n, 0.05) && !carry(a, c, n, 1.0))
		die("no byte came back on the fast path");
}

struct mode {
	const char *name;
	void (*run)(void);
};

static inline int hostile_main(int argc, char **argv, const struct mode *modes, int n)
{
	if (argc < 5)
		return 2;
	socket_path = argv[1];
	server.sin_family = AF_INET;
	server.sin_port = htons((uint16_t)atoi(argv[3]));
	if (inet_pton(AF_INET, argv[2], &server.sin_addr) != 1)
		return 2;
	seconds = argc > 5 ? atof(argv[5]) : 1;
	rnd = argc > 6 ? strtoull(argv[6], NULL, 0) : 1;
	signal(SIGPIPE, SIG_IGN);
	for (int i = 0; i < n; i++) {
		if (strcmp(argv[4], modes[i].name))
			continue;
		modes[i].run();
		say("end", "");
		return 0;
	}
	return 2;
}

#endif
