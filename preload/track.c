/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which sockets are tracked, and the service that may adopt them: reaching it, a socket from its
 * first descriptor to its last, a fork's child. Not in a packet's way. Any thread.
 *
 * Invariants: a socket's memory is used again for sockets alone, so that a stale pointer may
 * look at its `file`. The service is looked for by one thread at a time, and nobody waits.
 */
#define _GNU_SOURCE 1
#include "preload/sock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#include "preload/brief.h"
#include "preload/local.h"
#include "preload/share.h"
#include "preload/user.h"
#include "preload/wait.h"
#include "service/base/clock.h"

#define RETRY_NS (2 * NS_PER_S) /* between attempts to reach the service */

_Atomic(struct core *) sock_core;
static struct ipc_places service_places; /* written once */
bool sock_verbose;
_Atomic bool sock_stay;

/* each begins a cache line */
static struct pool sock_pool = {.size = (sizeof(struct sock) + 63) & ~(size_t)63};
static struct lock service_lock;
static _Atomic uint64_t service_next_ns;
static struct core *parents;      /* in a forked child: the parent's core, and older ones that sockets still name */
static _Atomic bool service_slow; /* it did not answer the last attempt in time, or a signal ended that */
static pthread_once_t service_once = PTHREAD_ONCE_INIT;

/* ---- the service ---- */

static void own_fd(int fd, bool is_own)
{
	if (is_own)
		fd_set_file(fd, NULL);
	else
		fd_forget(fd);
}

static void forked(void)
{
	sock_child(true);
}

static void service_init(void)
{
	const char *v = getenv("TAPAS_VERBOSE");

	/* kept: servers such as nginx wipe the environment before their workers get here */
	ipc_places_find(&service_places, getauxval(AT_SECURE) != 0);
	sock_verbose = v && *v && *v != '0';
	core_fd_hook = own_fd;
	fd_start();
	inherit_start();
	pthread_atfork(NULL, NULL, forked);
}

/* What is of processes before the parent, and of no use any more, goes. The parent's own may still be on our stack. */
static void parents_drop(struct core *own)
{
	struct core **link = own ? &own->older : &parents, *c;

	while ((c = *link)) {
		if (c->heirs) {
			link = &c->older;
			continue;
		}
		*link = c->older;
		core_disown(c);
	}
}

void sock_child(bool at_fork)
{
	struct core *c = atomic_exchange(&sock_core, NULL);

	if (c) {
		c->older = parents;
		parents = c;
	}
	for (struct core *p = parents; p; p = p->older)
		p->heirs = 0;
	inherit_forked();
	share_child();
	shell_child();
	sock_pool.lock.owner = 0;
	fd_child(at_fork);
	atomic_store(&service_next_ns, 0);
	service_lock.owner = 0;
	ep_child();
	wait_child();
	if (!at_fork)
		return;
	if (c && c->heirs)
		fd_forget(c->sock);
	fd_close_own();
	if (!user_is_confined())
		parents_drop(c);
}

bool sock_service_busy(void)
{
	return clock_now_ns() >= atomic_load_explicit(&service_next_ns, memory_order_relaxed) ||
	       atomic_load_explicit(&service_lock.owner, memory_order_relaxed);
}

bool sock_service_slow(void)
{
	return atomic_load_explicit(&service_slow, memory_order_relaxed);
}

struct core *sock_service(void)
{
	struct core *c = atomic_load_explicit(&sock_core, memory_order_acquire);
	uint64_t now;
	int saved;

	if (c && !core_is_dead(c))
		return c;
	saved = errno;
	now = clock_now_ns();
	if (now < atomic_load_explicit(&service_next_ns, memory_order_relaxed) || !lock_try(&service_lock))
		return NULL;
	c = atomic_load_explicit(&sock_core, memory_order_acquire);
	if (!c || core_is_dead(c)) {
		int cancel, err;

		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
		c = NULL;
		err = core_open(&service_places, &c);
		if (err < 0)
			c = NULL;
		atomic_store_explicit(&service_slow, err == -ETIMEDOUT || err == -EINTR, memory_order_relaxed);
		/* pairs with the acquire loads above */
		atomic_store_explicit(&sock_core, c, memory_order_release);
		atomic_store_explicit(&service_next_ns, clock_now_ns() + RETRY_NS, memory_order_relaxed);
		pthread_setcancelstate(cancel, NULL);
	}
	lock_drop(&service_lock);
	errno = saved;
	return c;
}

/* ---- tracking ---- */

struct sock *sock_new(int fd, bool nonblock)
{
	struct sock *s;

	if (user_is_confined())
		return NULL;
	pthread_once(&service_once, service_init);
	if ((unsigned)fd >= FD_MAX)
		return NULL;
	s = pool_get(&sock_pool);
	if (!s)
		return NULL;
	/* the first bytes (file) are what a stale pointer may look at: refs goes last */
	memset(&s->lock, 0, offsetof(struct sock, first) - offsetof(struct sock, lock));
	/* and what a look without a reference may see (sock_peek_linux()) */
	atomic_store_explicit(&s->state, SOCK_LINUX, memory_order_relaxed);
	atomic_store_explicit(&s->tagged, false, memory_order_relaxed);
	atomic_store_explicit(&s->listener_asked, false, memory_order_relaxed);
	atomic_store_explicit(&s->brief, 0, memory_order_relaxed);
	atomic_store_explicit(&s->listen_core, NULL, memory_order_relaxed);
	atomic_store_explicit(&s->policy.is_known, false, memory_order_relaxed);
	if (s->file.type != FILE_SOCK) /* its memory is new */
		s->file.type = FILE_SOCK;
	s->slot = SLOT_NONE;
	/* nobody else sees them before refs */
	atomic_store_explicit(&s->fd, fd, memory_order_relaxed);
	atomic_store_explicit(&s->nonblock, nonblock, memory_order_relaxed);
	s->generation = atomic_load_explicit(&inherit_generation, memory_order_relaxed);
	return s;
}

void sock_set_policy(struct sock *s, const struct core_policy *p)
{
	atomic_store_explicit(&s->policy.accelerate, p->accelerate, memory_order_relaxed);
	atomic_store_explicit(&s->policy.exchanges, p->exchanges, memory_order_relaxed);
	atomic_store_explicit(&s->policy.bytes, p->bytes, memory_order_relaxed);
	/* pairs with sock_policy() */
	atomic_store_explicit(&s->policy.is_known, true, memory_order_release);
}

bool sock_policy(const struct sock *s, struct core_policy *p)
{
	/* pairs with sock_set_policy() */
	if (!atomic_load_explicit(&s->policy.is_known, memory_order_acquire))
		return false;
	p->accelerate = atomic_load_explicit(&s->policy.accelerate, memory_order_relaxed);
	p->exchanges = atomic_load_explicit(&s->policy.exchanges, memory_order_relaxed);
	p->bytes = atomic_load_explicit(&s->policy.bytes, memory_order_relaxed);
	return true;
}

struct sock *sock_track(int fd, bool nonblock)
{
	struct sock *s = sock_new(fd, nonblock);

	if (s)
		fd_set_new(fd, &s->file, 1);
	return s;
}

struct sock *sock_get(int fd)
{
	struct file *f = file_get(fd);

	if (!f)
		return NULL;
	if (f->type == FILE_SOCK)
		return container_of(f, struct sock, file);
	file_put(f);
	return NULL;
}

struct sock *sock_next(int *fd)
{
	int top = fd_top();

	while (++*fd <= top) {
		struct sock *s = file_get_any(*fd) ? sock_get(*fd) : NULL;

		if (s)
			return s;
	}
	return NULL;
}

void file_free(struct file *f)
{
	if (f->type == FILE_SOCK)
		sock_free(container_of(f, struct sock, file));
	else if (f->type == FILE_EPOLL)
		ep_free(f);
}

void file_closed(struct file *f)
{
	if (f->type == FILE_SOCK)
		sock_closed(container_of(f, struct sock, file));
	else if (f->type == FILE_EPOLL)
		ep_closed(f);
}

void sock_closed(struct sock *s)
{
	held_reap();
	if (s->listener_asked && s->listen_core)
		core_unlisten(s->listen_core, s->fd);
	if (!lock_take(&s->lock))
		return;
	/* the service may hold a duplicate for a moment, and with it Linux would go on to tell of a descriptor that is closed */
	if (s->slot != SLOT_NONE && !share_is(s))
		ep_items_forget(s);
	ep_items_remove(s);
	if (s->slot != SLOT_NONE)
		atomic_store_explicit(&core_slot(s->core, s->slot)->fd_plus1, s->late_fd ? (uint32_t)s->late_fd + 1 : 0,
				      memory_order_relaxed);
	lock_drop(&s->lock);
}

void slot_release(struct sock *s)
{
	if (s->slot == SLOT_NONE)
		return;
	atomic_store_explicit(&s->offer, NULL, memory_order_relaxed);
	stream_close(&s->st);
	core_slot_put(s->core, s->slot);
	core_context_put(s->core, s->context);
	s->slot = SLOT_NONE;
}

void sock_free(struct sock *s)
{
	if (s->items && lock_take(&s->lock)) { /* left by a close inside a signal handler */
		ep_items_remove(s);
		lock_drop(&s->lock);
	}
	slot_release(s);
	survive_free(s);
	if (!share_forget(s))
		return;
	if (s->late_fd) {
		fd_forget(s->late_fd);
		syscall(SYS_close, s->late_fd);
	}
	pool_put(&sock_pool, s);
}

void sock_listen(struct sock *s, int fd)
{
	struct core *c = sock_service();
	struct core_policy policy;
	int saved;

	if (!c || (s->listener_asked && s->listen_core == c) || atomic_exchange(&s->listener_asking, true))
		return;
	saved = errno;
	if (!core_listen(c, fd, &policy)) {
		sock_set_policy(s, &policy);
		s->brief = brief_policy(&policy);
	}
	s->listen_core = c;
	s->listener_asked = true;
	s->listener_asking = false;
	errno = saved;
}
