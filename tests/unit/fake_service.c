/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A service that only pretends: it speaks the control protocol and moves an adopted
 * connection's bytes between the buffers and a duplicate of its kernel socket. With it the
 * library can be tested with any program over loopback, without privileges or a NIC.
 *
 *	fake_service SOCKET-PATH [adopt_after_exchanges [refuse_every [delay_ms [retries]]]]
 *
 * Every refuse_every-th adoption is refused (RACE); answers are delayed by delay_ms. A process that
 * asks for a connection that is another one's is told so many times to ask again (RETRY), just after its context
 * was rung for something else; then the connection is taken from the other one. On
 * SIGTERM it prints its counts and ends. One thread. Known limit: a shutdown() reaches the
 * kernel socket at once, so bytes still in the transmit buffer then are lost; the real service
 * sends them first.
 */
/* links: service/ipc/msg.c service/ipc/reason.c service/ipc/record.c */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "service/base/clock.h"
#include "service/base/compiler.h"
#include "service/ipc/abi.h"
#include "service/ipc/msg.h"

#define CLIENTS 64
#define FLOWS 4096
#define BUF 65536u
#define BUFFERS (256ull << 20)

struct client {
	int sock, shm_fd, buf_fd, doorbell, context_fd[IPC_CONTEXTS];
	struct ipc_app *shm;
	uint8_t *buf;
	bool gone;
	uint32_t flows;
};

struct flow {
	struct client *c;
	uint32_t slot;
	int fd;
	uint64_t snd_sent, answer_ns;
	uint32_t retried;
	bool refuse, answered, eof, failed, returning;
};

static struct client clients[CLIENTS];
static struct flow flows[FLOWS];
static uint32_t nflows; /* highest used + 1 */
static struct ipc_page *page;
static int page_fd, words_fd, listen_fd;
static uint32_t after = 2, refuse_every, delay_ms, retries, adopts;
static uint64_t adopted, refused, returned, retry, rx_bytes, tx_bytes, wakes;
static volatile sig_atomic_t stop;

static void on_term(int sig)
{
	(void)sig;
	stop = 1;
}

static int memory(size_t len, void **map)
{
	int fd = memfd_create("fake", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)len))
		exit(1);
	if (map)
		*map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	return fd;
}

static void notify(struct client *c, uint32_t slot)
{
	uint32_t i = atomic_load(&c->shm->slot[slot].context) % IPC_CONTEXTS;
	uint64_t one = 1;

	bell_ring(&c->shm->context[i].bell, slot);
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_exchange(&c->shm->context[i].armed, 0) && c->context_fd[i] >= 0) {
		wakes++;
		(void)!write(c->context_fd[i], &one, sizeof(one));
	}
}

static void flow_end(struct flow *f)
{
	close(f->fd);
	atomic_store(&f->c->shm->slot[f->slot].status, IPC_DEAD);
	f->c->flows--;
	f->c = NULL;
}

static void answer(struct flow *f)
{
	struct ipc_slot *s = &f->c->shm->slot[f->slot];

	f->answered = true;
	if (f->refuse) {
		struct client *c = f->c;

		refused++;
		atomic_store(&s->reason, IPC_REASON_RACE);
		atomic_store(&s->status, IPC_REFUSED);
		notify(c, f->slot);
		close(f->fd);
		c->flows--;
		f->c = NULL;
		return;
	}
	adopted++;
	s->rx_off = (uint64_t)f->slot % (BUFFERS / (2 * BUF)) * 2 * BUF;
	s->tx_off = s->rx_off + BUF;
	s->rx_size = s->tx_size = BUF;
	s->flow_id = f->slot;
	s->thread = 0;
	s->local = 0;
	atomic_store(&s->rcv_end, 0);
	atomic_store(&s->snd_acked, 0);
	atomic_store(&s->snd_sent, 0);
	atomic_store(&s->error, 0);
	atomic_store(&s->status, IPC_FAST);
	notify(f->c, f->slot);
}

/* Returns true if something moved. */
static bool receive(struct flow *f)
{
	struct ipc_slot *s = &f->c->shm->slot[f->slot];
	uint64_t end = atomic_load(&s->rcv_end), room = BUF - (end - atomic_load(&s->rcv_read)), at = end % BUF;
	ssize_t n;

	if (f->eof || f->failed || !room)
		return false;
	n = recv(f->fd, f->c->buf + s->rx_off + at, MIN(room, BUF - at), MSG_DONTWAIT);
	if (n < 0 && errno == EAGAIN)
		return false;
	if (n > 0) {
		rx_bytes += (uint64_t)n;
		atomic_store(&s->rcv_end, end + (uint64_t)n);
	} else if (n == 0) {
		f->eof = true;
		atomic_fetch_or(&s->status, IPC_ST_FIN);
	} else {
		f->failed = true;
		atomic_store(&s->error, (uint32_t)errno);
		atomic_fetch_or(&s->status, IPC_ST_ERROR);
	}
	notify(f->c, f->slot);
	return n > 0;
}

static void tell_space(struct flow *f)
{
	struct ipc_slot *s = &f->c->shm->slot[f->slot];

	atomic_thread_fence(memory_order_seq_cst);
	if ((atomic_load(&s->want) & IPC_WANT_SPACE) && atomic_load(&s->snd_end) - f->snd_sent <= BUF - BUF / 3)
		notify(f->c, f->slot);
}

static bool transmit(struct flow *f)
{
	struct ipc_slot *s = &f->c->shm->slot[f->slot];
	uint64_t end = atomic_load(&s->snd_end), at = f->snd_sent % BUF;
	ssize_t n;

	if (end == f->snd_sent || f->failed)
		return false;
	n = send(f->fd, f->c->buf + s->tx_off + at, MIN(end - f->snd_sent, BUF - at), MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && errno == EAGAIN)
		return false;
	if (n < 0) {
		f->failed = true;
		atomic_store(&s->error, errno == EPIPE ? ECONNRESET : (uint32_t)errno);
		atomic_fetch_or(&s->status, IPC_ST_ERROR);
		notify(f->c, f->slot);
		return false;
	}
	tx_bytes += (uint64_t)n;
	f->snd_sent += (uint64_t)n;
	atomic_store(&s->snd_sent, f->snd_sent);
	atomic_store(&s->snd_acked, f->snd_sent);
	tell_space(f);
	return true;
}

/*
 * Give a flow back: the kernel socket has been the connection all along. Bytes that the
 * application has not read cannot be put back without privileges, so it waits until there are none.
 */
static bool give_back(struct flow *f)
{
	struct client *c = f->c;
	struct ipc_slot *s = &c->shm->slot[f->slot];
	struct ipc_record rec;

	if (atomic_load(&s->snd_end) != f->snd_sent || atomic_load(&s->rcv_end) != atomic_load(&s->rcv_read))
		return false;
	atomic_store(&s->status, IPC_PAUSED);
	ipc_record_freeze(s, &rec);
	if (rec.snd_end != f->snd_sent) /* written in that moment: this socket has room */
		(void)!send(f->fd, c->buf + s->tx_off + f->snd_sent % BUF,
			    MIN(rec.snd_end - f->snd_sent, BUF - f->snd_sent % BUF), MSG_NOSIGNAL);
	returned++;
	atomic_store(&s->status, IPC_RETURNED);
	notify(c, f->slot);
	close(f->fd);
	c->flows--;
	f->c = NULL;
	return true;
}

static void give_back_slot(struct client *c, uint32_t slot)
{
	for (struct flow *f = flows; f < flows + nflows; f++)
		if (f->c == c && f->slot == slot && f->answered)
			f->returning = true;
}

static uint64_t cookie_of(int fd)
{
	uint64_t cookie = 0;
	socklen_t len = sizeof(cookie);

	return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) ? 0 : cookie;
}

/* Another process has it: to be asked for again. Its context is rung for something else just before the answer. */
static void answer_retry(struct client *c, uint32_t slot)
{
	struct ipc_slot *s = &c->shm->slot[slot];
	uint32_t i = atomic_load(&s->context) % IPC_CONTEXTS;
	uint64_t one = 1, until;

	retry++;
	atomic_store(&c->shm->context[i].armed, 0);
	if (c->context_fd[i] >= 0)
		(void)!write(c->context_fd[i], &one, sizeof(one));
	until = clock_now_ns() + (uint64_t)(rand() % 60000);
	while (clock_now_ns() < until)
		;
	atomic_store(&s->reason, IPC_REASON_RETRY);
	atomic_store(&s->status, IPC_REFUSED);
	notify(c, slot);
}

static bool adopt_taken(struct client *c, uint32_t slot, int fd)
{
	uint64_t cookie = retries ? cookie_of(fd) : 0;

	for (struct flow *f = flows; cookie && f < flows + nflows; f++) {
		if (!f->c || f->c == c || cookie_of(f->fd) != cookie)
			continue;
		f->returning = f->retried++ >= retries;
		answer_retry(c, slot);
		return true;
	}
	return false;
}

static void adopt(struct client *c, const struct ipc_msg *m, int fd)
{
	struct flow *f = flows;

	while (f < flows + FLOWS && f->c)
		f++;
	if (f == flows + FLOWS || m->arg[0] >= IPC_SLOTS || adopt_taken(c, (uint32_t)m->arg[0], fd)) {
		close(fd);
		return;
	}
	nflows = MAX(nflows, (uint32_t)(f - flows) + 1);
	*f = (struct flow){.c = c,
			   .slot = (uint32_t)m->arg[0],
			   .fd = fd,
			   .answer_ns = clock_now_ns() + delay_ms * NS_PER_MS,
			   .refuse = refuse_every && ++adopts % refuse_every == 0};
	c->flows++;
}

static void welcome(struct client *c)
{
	struct ipc_msg m = {.magic = IPC_MAGIC,
			    .type = IPC_MSG_WELCOME,
			    .arg = {IPC_ABI_VERSION, BUFFERS, 1, IPC_SLOTS, after, 1 << 20, 1}};
	int fds[5];

	c->shm_fd = memory(sizeof(struct ipc_app), (void **)&c->shm);
	c->buf_fd = memory(BUFFERS, (void **)&c->buf);
	c->doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	c->shm->magic = IPC_MAGIC;
	c->shm->version = IPC_ABI_VERSION;
	c->shm->slots = IPC_SLOTS;
	c->shm->threads = 1;
	memcpy(fds, (int[]){c->shm_fd, c->buf_fd, page_fd, words_fd, c->doorbell}, sizeof(fds));
	ipc_msg_send(c->sock, &m, fds, 5);
}

static void client_message(struct client *c)
{
	struct ipc_msg m;
	int fds[IPC_MSG_FDS], nfds = 0, n = ipc_msg_recv(c->sock, &m, fds, &nfds, MSG_DONTWAIT);

	if (n == -EAGAIN || n == -EINTR)
		return;
	if (n <= 0 || ipc_msg_check(&m, (size_t)n, nfds, true)) {
		if (n > 0)
			fprintf(stderr, "fake_service: bad message type %u\n", m.type);
		close(c->sock);
		c->sock = -1;
		c->gone = true;
		return;
	}
	if (m.type == IPC_MSG_HELLO) {
		welcome(c);
	} else if (m.type == IPC_MSG_CONTEXT && m.arg[0] < IPC_CONTEXTS) {
		int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

		c->context_fd[m.arg[0]] = fd;
		ipc_msg_send(c->sock, &m, &fd, 1);
	} else if (m.type == IPC_MSG_ADOPT && nfds) {
		adopt(c, &m, fds[0]);
		nfds = 0;
	} else if (m.type == IPC_MSG_RETURN) {
		give_back_slot(c, (uint32_t)m.arg[0]);
	} else if (m.type == IPC_MSG_LISTEN) {
		m.arg[0] = 1;
		m.arg[1] = after;
		m.arg[2] = 1 << 20;
		ipc_msg_send(c->sock, &m, NULL, 0);
	}
	while (nfds > 0)
		close(fds[--nfds]);
}

static void client_new(void)
{
	struct client *c = clients;
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	while (c < clients + CLIENTS && (c->sock > 0 || c->flows))
		c++;
	if (fd < 0 || c == clients + CLIENTS) {
		close(fd);
		return;
	}
	if (c->shm) {
		munmap(c->shm, sizeof(struct ipc_app));
		munmap(c->buf, BUFFERS);
		close(c->shm_fd);
		close(c->buf_fd);
		close(c->doorbell);
		for (int i = 0; i < IPC_CONTEXTS; i++)
			if (c->context_fd[i] >= 0)
				close(c->context_fd[i]);
	}
	*c = (struct client){.sock = fd};
	memset(c->context_fd, -1, sizeof(c->context_fd));
}

static void dirty(struct client *c, uint32_t slot)
{
	for (struct flow *f = flows; f < flows + nflows; f++)
		if (f->c == c && f->slot == slot && f->answered)
			tell_space(f);
}

/* Everything once. Returns true if something moved. */
static bool turn(void)
{
	bool moved = false;

	for (struct client *c = clients; c < clients + CLIENTS; c++) {
		uint32_t out[64], cursor = 0, n = 64;

		while (c->shm && n == 64) {
			n = bell_take(&c->shm->dirty[0], out, 64, &cursor);
			for (uint32_t i = 0; i < n; i++)
				dirty(c, out[i]);
		}
	}
	for (struct flow *f = flows; f < flows + nflows; f++) {
		bool closed, sent;

		if (f->c && !f->answered && clock_now_ns() >= f->answer_ns)
			answer(f);
		if (!f->c || !f->answered)
			continue;
		closed = f->c->gone || !atomic_load(&f->c->shm->slot[f->slot].fd_plus1);
		sent = transmit(f);
		moved |= sent;
		if (f->returning && !sent && !f->eof && !f->failed && give_back(f))
			continue;
		if (closed && !sent)
			flow_end(f);
		else if (!closed && !f->returning)
			moved |= receive(f);
	}
	return moved;
}

static void sleep_until_work(bool can_sleep)
{
	struct pollfd p[2 * CLIENTS + FLOWS + 1];
	struct client *who[2 * CLIENTS + FLOWS + 1];
	struct timespec t = {.tv_nsec = can_sleep ? 20 * (long)NS_PER_MS : 0};
	nfds_t n = 0;
	uint64_t count;

	p[n++] = (struct pollfd){.fd = listen_fd, .events = POLLIN};
	for (struct client *c = clients; c < clients + CLIENTS; c++) {
		if (c->sock <= 0)
			continue;
		who[n] = c;
		p[n++] = (struct pollfd){.fd = c->sock, .events = POLLIN};
		who[n] = NULL;
		if (c->shm)
			p[n++] = (struct pollfd){.fd = c->doorbell, .events = POLLIN};
	}
	for (struct flow *f = flows; can_sleep && f < flows + nflows; f++) {
		who[n] = NULL;
		if (f->c && !f->answered)
			t.tv_nsec = 100 * 1000;
		if (f->c && f->answered && !f->eof && !f->failed) {
			struct ipc_slot *s = &f->c->shm->slot[f->slot];
			bool room = atomic_load(&s->rcv_end) - atomic_load(&s->rcv_read) < BUF;

			p[n++] = (struct pollfd){.fd = f->fd,
						 .events = (short)((room ? POLLIN : 0) |
								   (atomic_load(&s->snd_end) != f->snd_sent ? POLLOUT
													    : 0))};
		}
	}
	ppoll(p, n, &t, NULL);
	if (p[0].revents)
		client_new();
	for (nfds_t i = 1; i < n; i++) {
		if (p[i].revents && who[i])
			client_message(who[i]);
	}
	for (struct client *c = clients; c < clients + CLIENTS; c++)
		if (c->shm && c->sock > 0)
			(void)!read(c->doorbell, &count, sizeof(count));
}

int main(int argc, char **argv)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	if (argc < 2)
		return 2;
	after = argc > 2 ? (uint32_t)atoi(argv[2]) : 2;
	refuse_every = argc > 3 ? (uint32_t)atoi(argv[3]) : 0;
	delay_ms = argc > 4 ? (uint32_t)atoi(argv[4]) : 0;
	retries = argc > 5 ? (uint32_t)atoi(argv[5]) : 0;
	signal(SIGTERM, on_term);
	signal(SIGINT, on_term);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", argv[1]);
	unlink(a.sun_path);
	page_fd = memory(sizeof(*page), (void **)&page);
	atomic_store(&page->ready, 1);
	words_fd = memory(IPC_SLOTS * sizeof(uint64_t), NULL);
	listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (bind(listen_fd, (struct sockaddr *)&a, sizeof(a)) || listen(listen_fd, 16)) {
		perror(argv[1]);
		return 1;
	}
	while (!stop) {
		bool moved = turn();

		if (!moved) {
			atomic_store(&page->thread[0].armed, 1);
			atomic_thread_fence(memory_order_seq_cst);
			moved = turn();
		}
		sleep_until_work(!moved);
		atomic_store(&page->thread[0].armed, 0);
	}
	printf("adopted %llu refused %llu retry %llu returned %llu rx %llu tx %llu wakes %llu\n",
	       (unsigned long long)adopted, (unsigned long long)refused, (unsigned long long)retry,
	       (unsigned long long)returned, (unsigned long long)rx_bytes, (unsigned long long)tx_bytes,
	       (unsigned long long)wakes);
	unlink(a.sun_path);
	return 0;
}
