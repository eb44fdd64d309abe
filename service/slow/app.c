/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Applications: the memory the service shares with each, its buffers, its contexts, and its
 * end. An application ends when its process does (pidfd) or when it breaks the protocol; what
 * it has written is still sent and its flows end as Linux closes their descriptors. Its memory
 * goes when the last flow has gone and every fast thread has let go.
 */
#include "service/slow/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "service/base/log.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

int app_memory(const char *name, uint64_t size, void **map)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

	if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
		fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
		int err = errno;

		close(fd);
		return -err;
	}
	*map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (*map == MAP_FAILED) {
		int err = errno;

		*map = NULL;
		close(fd);
		return -err;
	}
	return fd;
}

static void app_free(struct app *a)
{
	if (a->shm)
		munmap(a->shm, sizeof *a->shm);
	if (a->buf)
		munmap(a->buf, a->buf_size);
	if (a->shm_fd >= 0)
		close(a->shm_fd);
	if (a->buf_fd >= 0)
		close(a->buf_fd);
	if (a->doorbell_fd >= 0)
		close(a->doorbell_fd);
	if (a->pidfd >= 0)
		close(a->pidfd);
	for (uint32_t i = 0; i < IPC_CONTEXTS; i++)
		if (a->context_fd[i] >= 0)
			close(a->context_fd[i]);
	for (size_t i = 0; i < ARRAY_SIZE(a->free_bufs); i++)
		free(a->free_bufs[i].off);
	free(a->slot_conn);
	free(a->parked);
	free(a);
}

static void app_process_ended(void *ctx, int revents);

struct app_watch {
	struct slow *slow;
	uint32_t index;
};

/* The watch's context is the application's place in the table: stable, unlike the struct. */
static struct app_watch app_watches[FAST_APPS];

static int app_open(struct slow *s, struct app *a)
{
	int fd;

	a->slot_conn = malloc(IPC_SLOTS * sizeof *a->slot_conn);
	if (!a->slot_conn)
		return -ENOMEM;
	memset(a->slot_conn, 0xff, IPC_SLOTS * sizeof *a->slot_conn);
	a->buf_size = s->cfg->app_memory;
	fd = app_memory("tapas-app", sizeof *a->shm, (void **)&a->shm);
	if (fd < 0)
		return fd;
	a->shm_fd = fd;
	fd = app_memory("tapas-buffers", a->buf_size, (void **)&a->buf);
	if (fd < 0)
		return fd;
	a->buf_fd = fd;
	a->doorbell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (a->doorbell_fd < 0)
		return -errno;
	a->pidfd = (int)syscall(SYS_pidfd_open, a->pid, 0);
	if (a->pidfd < 0)
		return -errno;
	a->shm->magic = IPC_MAGIC;
	a->shm->version = IPC_ABI_VERSION;
	a->shm->slots = IPC_SLOTS;
	a->shm->threads = fast_threads(s->env.fast);
	app_watches[a->index] = (struct app_watch){s, a->index};
	a->pidfd_watch = loop_watch(s->env.loop, a->pidfd, app_process_ended, &app_watches[a->index]);
	return a->pidfd_watch < 0 ? a->pidfd_watch : 0;
}

static void app_announce(struct slow *s, const struct app *a)
{
	struct fast_app f = {
		.app = a->index,
		.shm = a->shm,
		.buf = a->buf,
		.buf_size = a->buf_size,
		.doorbell_fd = a->doorbell_fd,
	};

	memcpy(f.context_fd, a->context_fd, sizeof f.context_fd);
	for (uint32_t t = 0; t < fast_threads(s->env.fast); t++)
		down_send(s, t, CMD_APP_ADD, &f, sizeof f);
}

struct app *app_new(struct slow *s, struct client *cl, const char *command, int *err)
{
	uint32_t index = 0;
	struct app *a;

	while (index < FAST_APPS && s->apps[index])
		index++;
	if (index >= FAST_APPS || s->napps >= s->cfg->max_apps) {
		*err = -EUSERS;
		return NULL;
	}
	a = calloc(1, sizeof *a);
	if (!a) {
		*err = -ENOMEM;
		return NULL;
	}
	a->index = index;
	a->client = cl;
	a->pid = cl->pid;
	a->uid = cl->uid;
	a->shm_fd = a->buf_fd = a->doorbell_fd = a->pidfd = a->pidfd_watch = -1;
	for (uint32_t i = 0; i < IPC_CONTEXTS; i++)
		a->context_fd[i] = -1;
	memccpy(a->command, command, 0, sizeof a->command - 1);
	*err = app_open(s, a);
	if (*err) {
		app_free(a);
		return NULL;
	}
	s->apps[index] = a;
	s->napps++;
	counter_add(&s->counters, CNT_APP_CONNECTED, 1);
	app_announce(s, a);
	log_debug("application %u: pid %d (%s)", index, (int)a->pid, a->command);
	return a;
}

int app_context(struct slow *s, struct app *a, uint32_t index)
{
	struct cmd_app m = {.app = a->index, .index = index};

	if (a->context_fd[index] >= 0)
		return a->context_fd[index];
	m.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m.fd < 0)
		return -errno;
	a->context_fd[index] = m.fd;
	for (uint32_t t = 0; t < fast_threads(s->env.fast); t++)
		down_send(s, t, CMD_CONTEXT, &m, sizeof m);
	return m.fd;
}

void app_abort(struct slow *s, struct app *a)
{
	for (uint32_t i = 0; i < IPC_SLOTS; i++) {
		struct conn *c = a->slot_conn[i] == SLOW_NONE ? NULL : &s->conns[a->slot_conn[i]];

		if (c && c->state == CONN_FAST)
			conn_abort(s, c, ECONNABORTED);
	}
}

/* No more adoptions; listeners forgotten. Flows go on until Linux closes them. */
void app_dying(struct slow *s, struct app *a)
{
	if (a->dying)
		return;
	a->dying = true;
	for (uint32_t i = 0; i < SLOW_LISTENERS; i++)
		if (s->listeners[i].app == a)
			s->listeners[i].app = NULL;
	for (uint32_t i = 0; i < SLOW_LEFT; i++)
		if (s->left[i].app == a)
			s->left[i].app = NULL;
	local_forget(s, a);
	for (uint32_t i = 0; i < IPC_SLOTS && a->conns; i++) {
		struct conn *c = a->slot_conn[i] == SLOW_NONE ? NULL : &s->conns[a->slot_conn[i]];

		if (c && c->state == CONN_ADOPTING) {
			a->conns++; /* hold: the roll-back must not free the application under us */
			adopt_cancel(s, c, IPC_REASON_ERROR);
			a->conns--;
		}
	}
	app_release(s, a);
}

static void app_process_ended(void *ctx, int revents)
{
	struct app_watch *w = ctx;
	struct slow *s = w->slow;
	struct app *a = s->apps[w->index];

	(void)revents;
	if (!a || a->exited)
		return;
	a->exited = true;
	loop_unwatch(s->env.loop, a->pidfd_watch);
	a->pidfd_watch = -1;
	s->now_ns = loop_now_ns(s->env.loop);
	if (a->client)
		client_close(s, a->client);
	else
		app_dying(s, a);
	conn_sweep(s); /* descriptors that nobody else holds are orphans now */
}

void app_release(struct slow *s, struct app *a)
{
	struct cmd_app m = {.app = a->index};

	if (!a->dying || a->conns || a->deleted || a->client)
		return;
	a->deleted = true;
	a->gone_waiting = fast_threads(s->env.fast);
	for (uint32_t t = 0; t < fast_threads(s->env.fast); t++)
		down_send(s, t, CMD_APP_DEL, &m, sizeof m);
}

void app_gone(struct slow *s, uint32_t index)
{
	struct app *a = index < FAST_APPS ? s->apps[index] : NULL;

	if (!a || !a->deleted || --a->gone_waiting)
		return;
	for (uint32_t i = 0; i < IPC_SLOTS && a->nparked; i++)
		app_unpark(s, a, i);
	pairs_forget(s, a);
	if (a->pidfd_watch >= 0)
		loop_unwatch(s->env.loop, a->pidfd_watch);
	s->apps[index] = NULL;
	s->napps--;
	app_free(a);
}

void app_close_all(struct slow *s)
{
	for (uint32_t i = 0; i < FAST_APPS; i++) {
		struct app *a = s->apps[i];

		if (!a)
			continue;
		if (a->pidfd_watch >= 0)
			loop_unwatch(s->env.loop, a->pidfd_watch);
		s->apps[i] = NULL;
		app_free(a);
	}
}

bool app_buffers_ample(const struct app *a, uint32_t size)
{
	return a->free_bufs[__builtin_ctz(size)].count || a->buf_next <= a->buf_size / 2;
}

bool app_buffers_get(struct app *a, uint32_t size, uint64_t *off)
{
	unsigned k = (unsigned)__builtin_ctz(size);

	if (a->free_bufs[k].count) {
		*off = a->free_bufs[k].off[--a->free_bufs[k].count];
		return true;
	}
	if (a->buf_size - a->buf_next < size)
		return false;
	*off = a->buf_next;
	a->buf_next += size;
	return true;
}

void app_buffers_put(struct app *a, uint32_t size, uint64_t off)
{
	unsigned k = (unsigned)__builtin_ctz(size);

	if (a->free_bufs[k].count == a->free_bufs[k].room) {
		uint32_t room = a->free_bufs[k].room ? a->free_bufs[k].room * 2 : 64;
		uint64_t *p = realloc(a->free_bufs[k].off, room * sizeof *p);

		if (!p)
			return; /* this piece is lost to the application until it ends */
		a->free_bufs[k].off = p;
		a->free_bufs[k].room = room;
	}
	a->free_bufs[k].off[a->free_bufs[k].count++] = off;
}

static bool parked_any(const struct parked *p)
{
	return p->rx_size || p->tx_size || p->tx_ring;
}

void app_park(struct app *a, uint32_t slot, bool rx, uint64_t off, uint32_t size)
{
	struct parked *p;

	if (!a->parked)
		a->parked = calloc(IPC_SLOTS, sizeof *a->parked);
	if (!a->parked || !size)
		return; /* lost to the application until it ends */
	p = &a->parked[slot];
	a->nparked += !parked_any(p);
	if (rx) {
		p->rx_off = off;
		p->rx_size = size;
	} else {
		p->tx_off = off;
		p->tx_size = size;
	}
}

void app_park_ring(struct slow *s, struct app *a, uint32_t slot, struct ring *r)
{
	struct parked *p;

	if (!a->parked)
		a->parked = calloc(IPC_SLOTS, sizeof *a->parked);
	if (!a->parked)
		return; /* lost to the pair */
	p = &a->parked[slot];
	a->nparked += !parked_any(p);
	ring_put(s, p->tx_ring);
	p->tx_ring = r;
}

void app_unpark(struct slow *s, struct app *a, uint32_t slot)
{
	struct parked *p = a->parked ? &a->parked[slot] : NULL;

	if (!p || !parked_any(p))
		return;
	if (p->rx_size)
		app_buffers_put(a, p->rx_size, p->rx_off);
	if (p->tx_size)
		app_buffers_put(a, p->tx_size, p->tx_off);
	ring_put(s, p->tx_ring);
	*p = (struct parked){0};
	a->nparked--;
}

void app_unpark_all(struct slow *s, struct app *a)
{
	for (uint32_t i = 0; i < IPC_SLOTS && a->nparked; i++)
		if (parked_any(&a->parked[i]) &&
		    atomic_load_explicit(&a->shm->slot[i].fd_plus1, memory_order_relaxed) == 0)
			app_unpark(s, a, i);
}

/* Wake whoever sleeps there, after the news. */
static void app_context_wake(struct slow *s, struct app *a, uint32_t context)
{
	struct ipc_context *ctx = &a->shm->context[context];

	if (atomic_exchange_explicit(&ctx->armed, 0, memory_order_seq_cst) && a->context_fd[context] >= 0)
		waker_wake(&s->waker, a->context_fd[context]);
}

void app_watchers_wake(struct slow *s)
{
	atomic_thread_fence(
		memory_order_seq_cst); /* pairs with the watcher's fence after it counted itself and armed */
	for (uint32_t i = 0; i < FAST_APPS; i++) {
		struct app *a = s->apps[i];

		if (!a || !a->shm || !atomic_load_explicit(&a->shm->watchers, memory_order_relaxed))
			continue;
		for (uint32_t k = 0; k < IPC_CONTEXTS; k++)
			if (atomic_load_explicit(&a->shm->context[k].armed, memory_order_relaxed))
				app_context_wake(s, a, k);
	}
}

void app_slot_finish(struct slow *s, struct app *a, uint32_t slot, enum ipc_state state, uint32_t reason)
{
	struct ipc_slot *sl = &a->shm->slot[slot];
	uint32_t context = atomic_load_explicit(&sl->context, memory_order_relaxed);
	struct ipc_context *ctx = &a->shm->context[context % IPC_CONTEXTS];

	atomic_store_explicit(&sl->reason, reason, memory_order_relaxed);
	/* pairs with the library's acquire load of status */
	atomic_store_explicit(&sl->status, state, memory_order_release);
	bell_ring(&ctx->bell, slot);
	atomic_thread_fence(memory_order_seq_cst); /* pairs with the waiter's fence after it armed */
	app_context_wake(s, a, context % IPC_CONTEXTS);
}
