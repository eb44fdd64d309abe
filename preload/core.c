/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Connection to the service. Any thread of the application. Place in a packet's way: none,
 * but core_ring(), by which every send reaches the fast thread.
 *
 * Invariants: one request at a time on the control socket (core->lock), its answer is waited
 * for at most REQUEST_MS; ADOPT has no answer there. Shared mappings are MADV_DONTFORK, so a
 * forked child cannot touch the parent's flows. The core's own descriptors live at high
 * numbers, close-on-exec, and are closed by system call, out of reach of interposition.
 */
#define _GNU_SOURCE 1
#include "preload/core.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>

#include "service/base/clock.h"
#include "service/ipc/msg.h"

#define HELLO_MS 1000
#define REQUEST_MS 500
#define PREPARE_NS (50 * NS_PER_MS) /* between two such requests */
#define HIGH_FD 1000u               /* own descriptors start here if the limit allows */
#define REGIONS_IDLE 8              /* memory of pairs that is kept mapped although nobody uses it */
#define SLOTS_IN_TURN 256u          /* while half of them are enough */

enum { FD_APP, FD_BUF, FD_PAGE, FD_WORDS, FD_DOORBELL, WELCOME_FDS };

__thread uint32_t lock_tid __attribute__((tls_model("initial-exec")));
void (*core_fd_hook)(int fd, bool own);

static void fd_close(int fd)
{
	if (fd < 0)
		return;
	if (core_fd_hook)
		core_fd_hook(fd, false);
	syscall(SYS_close, fd);
}

/* Move @fd out of the way of the application's numbers. Returns the new number, or @fd if there is no better one. */
static int fd_raise(int fd)
{
	struct rlimit limit = {.rlim_cur = 1024};
	int high;

	if (fd < 0)
		return fd;
	getrlimit(RLIMIT_NOFILE, &limit);
	high = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC,
			    (long)(limit.rlim_cur > HIGH_FD + 256 ? HIGH_FD : limit.rlim_cur - limit.rlim_cur / 4));
	if (high >= 0)
		syscall(SYS_close, fd);
	else
		high = fd;
	if (core_fd_hook)
		core_fd_hook(high, true);
	return high;
}

uint64_t core_cookie(int fd)
{
	uint64_t cookie = 0;
	socklen_t len = sizeof(cookie);

	return syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) ? 0 : cookie;
}

/* Send @m and wait for the answer of the same type; others are late answers to requests that timed out. */
static int core_request(int sock, struct ipc_msg *m, int type, const int *out_fds, int nout, int *fds, int *nfds,
			int ms)
{
	uint64_t until = clock_now_ns() + (uint64_t)ms * NS_PER_MS, arg0 = m->arg[0];
	int err = ipc_msg_send(sock, m, out_fds, nout);

	if (err < 0)
		return err;
	for (;;) {
		uint64_t now = clock_now_ns();
		struct timespec left = {.tv_nsec = (long)((until - now) % NS_PER_S),
					.tv_sec = (long)((until - now) / NS_PER_S)};
		struct pollfd p = {.fd = sock, .events = POLLIN};
		int n;

		if (now >= until)
			return -ETIMEDOUT;
		n = (int)syscall(SYS_ppoll, &p, 1, &left, NULL, 0);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n <= 0)
			continue;
		n = ipc_msg_recv(sock, m, fds, nfds, MSG_DONTWAIT);
		if (n == -EAGAIN || n == -EINTR)
			continue;
		if (n <= 0)
			return n ? n : -ECONNRESET;
		if (ipc_msg_check(m, (size_t)n, *nfds, false) == 0) {
			if (m->type == IPC_MSG_REFUSED)
				return m->arg[0] ? -(int)m->arg[0] : -EPERM;
			if (m->type == type &&
			    ((type != IPC_MSG_CONTEXT && type != IPC_MSG_REGION) || m->arg[0] == arg0))
				return 0;
		}
		while (*nfds > 0)
			syscall(SYS_close, fds[--*nfds]);
	}
}

static void *map_shared(int fd, size_t len, int prot)
{
	void *p = mmap(NULL, len, prot, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		return NULL;
	madvise(p, len, MADV_DONTFORK);
	return p;
}

static int core_map(struct core *c, const struct ipc_msg *m, const int *fds)
{
	struct stat st;

	if (m->arg[0] != IPC_ABI_VERSION)
		return -EPROTONOSUPPORT;
	if (fstat(fds[FD_APP], &st) || (size_t)st.st_size < sizeof(struct ipc_app))
		return -EPROTO;
	if (fstat(fds[FD_BUF], &st) || (uint64_t)st.st_size < m->arg[1] || !m->arg[1])
		return -EPROTO;
	c->buf_size = m->arg[1];
	c->shm = map_shared(fds[FD_APP], sizeof(struct ipc_app), PROT_READ | PROT_WRITE);
	c->buf = map_shared(fds[FD_BUF], c->buf_size, PROT_READ | PROT_WRITE);
	c->page = map_shared(fds[FD_PAGE], sizeof(struct ipc_page), PROT_READ);
	if (!c->shm || !c->buf || !c->page)
		return -ENOMEM;
	if (c->shm->magic != IPC_MAGIC || c->shm->version != IPC_ABI_VERSION)
		return -EPROTO;
	if (m->arg[3]) {
		c->words = map_shared(fds[FD_WORDS], m->arg[3] * sizeof(uint64_t), PROT_READ);
		c->words_count = c->words ? (uint32_t)m->arg[3] : 0;
	}
	c->threads = MIN((uint32_t)m->arg[2], (uint32_t)IPC_THREADS);
	c->policy = (struct core_policy){.accelerate = true, .exchanges = (uint32_t)m->arg[4], .bytes = m->arg[5]};
	c->app_id = m->arg[6];
	return 0;
}

static void core_unmap(struct core *c)
{
	if (c->shm)
		munmap(c->shm, sizeof(struct ipc_app));
	if (c->buf)
		munmap(c->buf, c->buf_size);
	if (c->page)
		munmap((void *)(uintptr_t)c->page, sizeof(struct ipc_page));
	for (uint32_t i = 0; i < CORE_REGIONS; i++)
		if (c->region[i].id)
			munmap(c->region[i].map, c->region[i].size);
	if (c->words)
		munmap((void *)(uintptr_t)c->words, c->words_count * sizeof(uint64_t));
	munmap(c, sizeof(*c));
}

static int core_hello(struct core *c)
{
	struct ipc_msg m = {.magic = IPC_MAGIC, .type = IPC_MSG_HELLO, .arg = {IPC_ABI_VERSION}};
	int fds[IPC_MSG_FDS], nfds = 0, err;

	prctl(PR_GET_NAME, m.text);
	err = core_request(c->sock, &m, IPC_MSG_WELCOME, NULL, 0, fds, &nfds, HELLO_MS);
	if (err < 0)
		return err;
	if (nfds < WELCOME_FDS) {
		err = -EPROTO;
	} else {
		err = core_map(c, &m, fds);
		if (!err) {
			c->doorbell = fd_raise(fds[FD_DOORBELL]);
			fds[FD_DOORBELL] = -1;
		}
	}
	while (nfds > 0)
		if (fds[--nfds] >= 0)
			syscall(SYS_close, fds[nfds]);
	return err;
}

int core_open(const struct ipc_places *places, struct core **out)
{
	const struct ipc_place *where;
	struct core *c = mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int err, sock;

	if (c == MAP_FAILED)
		return -ENOMEM;
	for (int i = 0; i < IPC_CONTEXTS; i++)
		atomic_init(&c->context[i].fd, -1);
	c->doorbell = c->news = -1;
	sock = ipc_places_connect(places, &where);
	if (sock < 0) {
		munmap(c, sizeof(*c));
		return sock;
	}
	c->sock = fd_raise(sock);
	c->sock_cookie = core_cookie(c->sock);
	err = core_hello(c);
	if (!err) {
		int flags = (int)syscall(SYS_fcntl, c->sock, F_GETFL);

		syscall(SYS_fcntl, c->sock, F_SETFL, (long)(flags | O_NONBLOCK));
		c->news = fd_raise((int)syscall(SYS_epoll_create1, EPOLL_CLOEXEC)); /* without one they stay Linux's */
		*out = c;
		return 0;
	}
	fd_close(c->sock);
	fd_close(c->doorbell);
	core_unmap(c);
	return err;
}

/* Dead and without flows: give the memory and the descriptors back; the (empty) mappings stay. */
static void core_release(struct core *c)
{
	madvise(c->buf, c->buf_size, MADV_REMOVE);
	for (uint32_t i = 0; i < IPC_CONTEXTS; i++)
		fd_close(atomic_exchange_explicit(&c->context[i].fd, -1, memory_order_acq_rel));
	fd_close(c->doorbell);
	fd_close(c->news);
	c->doorbell = c->news = -1;
}

/* What of local connections has been written and read until now is all; see survive.c. */
static void core_close_records(struct core *c)
{
	for (uint32_t i = 0; i < IPC_SLOTS; i++) {
		struct ipc_slot *s = &c->shm->slot[i];
		uint32_t status = atomic_load_explicit(&s->status, memory_order_acquire);

		if (!atomic_load_explicit(&c->slot_used[i], memory_order_relaxed) || IPC_STATE(status) != IPC_FAST ||
		    !s->local || status & IPC_ST_ERROR)
			continue;
		atomic_fetch_or_explicit(&s->snd_end, IPC_FROZEN, memory_order_acq_rel);
		atomic_fetch_or_explicit(&s->rcv_read, IPC_FROZEN, memory_order_acq_rel);
		atomic_store_explicit(&s->status, (status & ~0xffu) | IPC_PAUSED, memory_order_release);
	}
}

void core_kill(struct core *c)
{
	/* pairs with the acquire in core_is_dead() */
	if (atomic_exchange_explicit(&c->dead, 1, memory_order_acq_rel))
		return;
	fd_close(c->sock);
	c->sock = -1;
	core_close_records(c);
	/* sleepers find out: every context is woken */
	for (uint32_t i = 0; i < IPC_CONTEXTS; i++)
		core_context_wake(c, i);
	if (!atomic_load_explicit(&c->slots_used, memory_order_relaxed))
		core_release(c);
}

bool core_check(struct core *c)
{
	struct pollfd p = {.fd = c->sock};
	struct timespec none = {0};
	int n;

	if (core_is_dead(c))
		return true;
	n = (int)syscall(SYS_ppoll, &p, 1, &none, NULL, 0);
	if (n > 0 && (p.revents & (POLLHUP | POLLERR | POLLNVAL)))
		core_kill(c);
	return core_is_dead(c);
}

bool core_fd_move(struct core *c, int fd)
{
	int to;

	if (fd != c->sock && fd != c->doorbell && fd != c->news) {
		for (uint32_t i = 0; i < IPC_CONTEXTS; i++)
			if (core_context_fd(c, i) == fd) {
				to = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, fd + 1L);
				if (to < 0)
					return false;
				atomic_store_explicit(&c->context[i].fd, to, memory_order_release);
				goto moved;
			}
		return false;
	}
	to = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, fd + 1L);
	if (to < 0)
		return false;
	if (fd == c->sock)
		c->sock = to;
	else if (fd == c->doorbell)
		c->doorbell = to;
	else
		c->news = to;
moved:
	if (core_fd_hook) {
		core_fd_hook(fd, false);
		core_fd_hook(to, true);
	}
	return true;
}

/* Ask the service for the eventfd of context @i. core->lock held. */
static int core_context_make(struct core *c, uint32_t i)
{
	struct ipc_msg m = {.magic = IPC_MAGIC, .type = IPC_MSG_CONTEXT, .arg = {i}};
	int fds[IPC_MSG_FDS], nfds = 0;
	int err = core_request(c->sock, &m, IPC_MSG_CONTEXT, NULL, 0, fds, &nfds, REQUEST_MS);

	if (err < 0)
		return err;
	if (nfds < 1)
		return -EPROTO;
	while (nfds > 1)
		syscall(SYS_close, fds[--nfds]);
	/* pairs with the acquire in core_context_fd() */
	atomic_store_explicit(&c->context[i].fd, fd_raise(fds[0]), memory_order_release);
	return 0;
}

int core_context_get(struct core *c)
{
	uint32_t best = 0, users = UINT32_MAX;
	int cancel, ret;

	if (core_is_dead(c))
		return -ECONNRESET;
	if (!lock_take(&c->lock))
		return -EDEADLK;
	for (uint32_t i = 0; i < IPC_CONTEXTS; i++) {
		uint32_t n = atomic_load_explicit(&c->context[i].users, memory_order_relaxed);

		if (n < users) {
			users = n;
			best = i;
		}
		if (!n)
			break;
	}
	atomic_fetch_add_explicit(&c->context[best].users, 1, memory_order_relaxed);
	ret = (int)best;
	if (core_context_fd(c, best) < 0) {
		int err;

		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
		err = core_context_make(c, best);
		pthread_setcancelstate(cancel, NULL);
		if (err < 0) {
			atomic_fetch_sub_explicit(&c->context[best].users, 1, memory_order_relaxed);
			ret = err;
		}
	}
	lock_drop(&c->lock);
	return ret;
}

void core_context_ref(struct core *c, uint32_t context)
{
	atomic_fetch_add_explicit(&c->context[context].users, 1, memory_order_relaxed);
}

void core_context_put(struct core *c, uint32_t context)
{
	atomic_fetch_sub_explicit(&c->context[context].users, 1, memory_order_release);
}

void core_context_wake(struct core *c, uint32_t context)
{
	int fd = core_context_fd(c, context);
	uint64_t one = 1;

	if (fd >= 0)
		(void)!syscall(SYS_write, fd, &one, sizeof(one));
}

/* Memory that is not used any more, but for a few, as they may be wanted again. core->lock held. */
static void region_free_some(struct core *c)
{
	uint32_t idle = 0;

	for (uint32_t i = 0; i < CORE_REGIONS; i++) {
		struct core_region *r = &c->region[i];

		/* pairs with the release in core_region_put() */
		if (!r->id || atomic_load_explicit(&r->users, memory_order_acquire) || ++idle <= REGIONS_IDLE)
			continue;
		munmap(r->map, r->size);
		*r = (struct core_region){.id = 0};
	}
}

/* core->lock held. */
static int region_map(struct core *c, struct core_region *r, uint32_t id)
{
	struct ipc_msg m = {.magic = IPC_MAGIC, .type = IPC_MSG_REGION, .arg = {id}};
	int fds[IPC_MSG_FDS], nfds = 0;
	int err = core_request(c->sock, &m, IPC_MSG_REGION, NULL, 0, fds, &nfds, REQUEST_MS);
	struct stat st;

	if (err < 0)
		return err;
	if (nfds < 1)
		return -EPROTO;
	r->map = NULL;
	if (!fstat(fds[0], &st) && m.arg[1] && (uint64_t)st.st_size >= m.arg[1])
		r->map = map_shared(fds[0], m.arg[1], PROT_READ | PROT_WRITE);
	while (nfds > 0)
		syscall(SYS_close, fds[--nfds]);
	if (!r->map)
		return -ENOMEM;
	r->id = id;
	r->size = m.arg[1];
	return 0;
}

static int region_find(struct core *c, uint32_t id)
{
	for (uint32_t i = 0; i < CORE_REGIONS; i++)
		if (c->region[i].id == id)
			return (int)i;
	return -ENOBUFS;
}

int core_region_get(struct core *c, uint32_t id)
{
	int place, cancel, err;

	if (core_is_dead(c))
		return -ECONNRESET;
	if (!lock_take(&c->lock))
		return -EDEADLK;
	place = region_find(c, id);
	if (place < 0) {
		region_free_some(c);
		place = region_find(c, 0);
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
		err = place < 0 ? place : region_map(c, &c->region[place], id);
		pthread_setcancelstate(cancel, NULL);
		place = err < 0 ? err : place;
	}
	if (place >= 0)
		atomic_fetch_add_explicit(&c->region[place].users, 1, memory_order_relaxed);
	lock_drop(&c->lock);
	return place;
}

int core_slot_take(struct core *c, void *owner)
{
	uint32_t slots = MIN(c->shm->slots, (uint32_t)IPC_SLOTS);
	uint32_t used = atomic_load_explicit(&c->slots_used, memory_order_relaxed);
	/* in turn, so that each rests for a while, but not so many that all their memory is touched some day */
	uint32_t first =
		atomic_fetch_add_explicit(&c->slot_next, 1, memory_order_relaxed) % MAX(2 * used, SLOTS_IN_TURN);

	for (uint32_t k = 0; k < slots; k++) {
		uint32_t i = (first + k) % slots;
		uint8_t free = 0;

		uint32_t state = IPC_STATE(atomic_load_explicit(&c->shm->slot[i].status, memory_order_acquire));

		if (state == IPC_FAST || state == IPC_ADOPTING || state == IPC_PAUSED)
			continue;
		/* pairs with the release in core_slot_put() */
		if (!atomic_compare_exchange_strong_explicit(&c->slot_used[i], &free, 1, memory_order_acquire,
							     memory_order_relaxed))
			continue;
		atomic_fetch_add_explicit(&c->slots_used, 1, memory_order_relaxed);
		atomic_store_explicit(&c->owner[i], owner, memory_order_release);
		return (int)i;
	}
	return -ENOBUFS;
}

void core_slot_put(struct core *c, uint32_t slot)
{
	atomic_store_explicit(&c->owner[slot], NULL, memory_order_relaxed);
	atomic_store_explicit(&c->shm->slot[slot].fd_plus1, 0, memory_order_relaxed);
	/* pairs with the acquire in core_slot_take() */
	atomic_store_explicit(&c->slot_used[slot], 0, memory_order_release);
	if (atomic_fetch_sub_explicit(&c->slots_used, 1, memory_order_relaxed) == 1 && core_is_dead(c))
		core_release(c);
}

int core_adopt(struct core *c, uint32_t slot, int fd, uint64_t cookie, uint32_t opts, uint32_t context, uint32_t halves)
{
	struct ipc_msg m = {.magic = IPC_MAGIC,
			    .type = IPC_MSG_ADOPT,
			    .arg = {slot, opts, context, (uint64_t)fd, halves, cookie}};
	struct ipc_slot *s = core_slot(c, slot);
	uint32_t before = atomic_load_explicit(&s->status, memory_order_relaxed);
	int cancel, err;

	if (core_is_dead(c))
		return -ECONNRESET;
	atomic_store_explicit(&s->snd_end, 0, memory_order_relaxed);
	atomic_store_explicit(&s->rcv_read, 0, memory_order_relaxed);
	atomic_store_explicit(&s->want, 0, memory_order_relaxed);
	atomic_store_explicit(&s->busy, 0, memory_order_relaxed);
	atomic_store_explicit(&s->invited, 0, memory_order_relaxed);
	atomic_store_explicit(&s->mark_snd, 0, memory_order_relaxed);
	atomic_store_explicit(&s->mark_read, 0, memory_order_relaxed);
	atomic_store_explicit(&s->opts, opts, memory_order_relaxed);
	atomic_store_explicit(&s->context, context, memory_order_relaxed);
	atomic_store_explicit(&s->fd_plus1, (uint32_t)fd + 1, memory_order_relaxed);
	/* the message that follows orders it before the service's answer */
	atomic_store_explicit(&s->status, IPC_ADOPTING, memory_order_release);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	err = ipc_msg_send(c->sock, &m, &fd, 1);
	pthread_setcancelstate(cancel, NULL);
	if (err >= 0)
		return 0;
	atomic_store_explicit(&s->status, before, memory_order_relaxed);
	atomic_store_explicit(&s->fd_plus1, 0, memory_order_relaxed);
	if (err == -EPIPE || err == -ECONNRESET || err == -ENOTCONN || err == -ENOTSOCK)
		core_kill(c);
	else if (err == -EBADF) /* @fd was closed meanwhile; or the control socket */
		core_check(c);
	return err;
}

bool core_prepare(struct core *c)
{
	struct ipc_msg m = {.magic = IPC_MAGIC, .type = IPC_MSG_PREPARE};
	uint64_t now_ns, last_ns;
	int cancel;

	/* pairs with the release store in demand_publish() */
	if (likely(atomic_load_explicit(&c->page->ready, memory_order_acquire)))
		return true;
	now_ns = clock_now_ns();
	last_ns = atomic_load_explicit(&c->prepared_ns, memory_order_relaxed);
	if (core_is_dead(c) || now_ns - last_ns < PREPARE_NS ||
	    !atomic_compare_exchange_strong_explicit(&c->prepared_ns, &last_ns, now_ns, memory_order_relaxed,
						     memory_order_relaxed))
		return false;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	ipc_msg_send(c->sock, &m, NULL, 0); /* if that fails: later */
	pthread_setcancelstate(cancel, NULL);
	return false;
}

int core_return(struct core *c, uint32_t slot, int fd, int number, bool fast)
{
	struct ipc_msg m = {.magic = IPC_MAGIC, .type = IPC_MSG_RETURN, .arg = {slot, (uint64_t)number, fast}};
	int cancel, err;

	if (core_is_dead(c))
		return -ECONNRESET;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	err = ipc_msg_send(c->sock, &m, &fd, 1);
	pthread_setcancelstate(cancel, NULL);
	return err < 0 ? err : 0;
}

int core_return_heir(const struct core *c, int fd)
{
	struct ipc_msg m = {.magic = IPC_MAGIC, .type = IPC_MSG_RETURN, .arg = {IPC_SLOT_NONE}};
	int cancel, err;

	if (core_is_dead(c) || !c->sock_cookie || core_cookie(c->sock) != c->sock_cookie)
		return -EBADF;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	if (core_fd_hook) /* or it would be a message of the application's */
		core_fd_hook(c->sock, true);
	err = ipc_msg_send(c->sock, &m, &fd, 1);
	if (core_fd_hook)
		core_fd_hook(c->sock, false);
	pthread_setcancelstate(cancel, NULL);
	return err;
}

int core_look(struct core *c, uint32_t slot)
{
	struct ipc_msg m = {.magic = IPC_MAGIC, .type = IPC_MSG_LOOK, .arg = {slot}};
	int cancel, err;

	if (core_is_dead(c))
		return -ECONNRESET;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	err = ipc_msg_send(c->sock, &m, NULL, 0);
	pthread_setcancelstate(cancel, NULL);
	if (err == -EPIPE || err == -ECONNRESET)
		core_kill(c);
	return err;
}

void core_disown(struct core *c)
{
	/* the cookie: its number may be the application's by now */
	if (!core_is_dead(c) && c->sock_cookie && core_cookie(c->sock) == c->sock_cookie)
		fd_close(c->sock);
	munmap(c, sizeof(*c));
}

int core_listen(struct core *c, int fd, struct core_policy *out)
{
	struct ipc_msg m = {.magic = IPC_MAGIC, .type = IPC_MSG_LISTEN, .arg = {(uint64_t)fd}};
	int fds[IPC_MSG_FDS], nfds = 0, cancel, err;

	if (core_is_dead(c))
		return -ECONNRESET;
	if (!lock_take(&c->lock))
		return -EDEADLK;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	err = core_request(c->sock, &m, IPC_MSG_LISTEN, &fd, 1, fds, &nfds, REQUEST_MS);
	pthread_setcancelstate(cancel, NULL);
	lock_drop(&c->lock);
	while (nfds > 0)
		syscall(SYS_close, fds[--nfds]);
	if (err < 0)
		return err;
	*out = (struct core_policy){.accelerate = m.arg[0] == 1, .exchanges = (uint32_t)m.arg[1], .bytes = m.arg[2]};
	return 0;
}

void core_unlisten(struct core *c, int fd)
{
	struct ipc_msg m = {.magic = IPC_MAGIC, .type = IPC_MSG_UNLISTEN, .arg = {(uint64_t)fd}};
	int cancel;

	if (core_is_dead(c))
		return;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	ipc_msg_send(c->sock, &m, NULL, 0);
	pthread_setcancelstate(cancel, NULL);
}

void core_ring(struct core *c, uint32_t slot, uint32_t thread)
{
	uint64_t one = 1;

	bell_ring(&c->shm->dirty[thread], slot);
	/*
	 * bell_ring() is a full barrier: either this load sees the sleeper's flag, or the sleeper
	 * sees the bell in its second look.
	 */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&c->page->thread[thread].armed, memory_order_relaxed)) {
		int saved = errno;

		(void)!syscall(SYS_write, c->doorbell, &one, sizeof(one));
		errno = saved;
	}
}
