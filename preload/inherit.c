/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Connections and processes. A connection is FAST in one process; another one that holds the
 * same socket has it in SOCK_AWAY. Not in a packet's way; any thread.
 *
 * A forked child, or a new image that was told by INHERIT_ENV, takes a connection over at its
 * first use: it asks for an adoption, and the service moves the flow into the child's memory. If
 * the process that lost it uses it again, it asks for the connection to be Linux's, where both
 * may use it. Nothing happens to what nobody uses: the usual child closes or executes.
 *
 * A connection that was Linux's at the fork may be adopted by either. Whoever does says so in a
 * counter that relatives share; they see it before their next call on a socket that is older
 * than the fork, and look whether the shadow's filter is on it. A thread that blocks in the
 * kernel at that very moment stays there.
 */
#define _GNU_SOURCE 1
#include "preload/inherit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "service/base/clock.h"

uint32_t inherit_generation;
static _Atomic uint64_t nowhere;
static _Atomic uint64_t *adoptions = &nowhere; /* of sockets older than a fork; shared with relatives */

/* ---- fork ---- */

static void fork_prepare(void)
{
	if (adoptions == &nowhere) {
		void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

		if (p != MAP_FAILED)
			adoptions = p;
	}
}

void inherit_forked(void)
{
	inherit_generation++;
}

void inherit_start(void)
{
	static _Atomic bool started;

	if (!atomic_exchange(&started, true))
		pthread_atfork(fork_prepare, inherit_forked, NULL);
}

void inherit_child(struct sock *s)
{
	uint32_t state = sock_state(s);

	s->lock.owner = s->tx_lock.owner = 0;
	s->items = NULL; /* `first`, if it was used, stays as it was: see lend_use() */
	s->slot = SLOT_NONE;
	s->core = NULL;
	s->listener_asked = s->listener_asking = false;
	s->listen_core = NULL;
	if (state != SOCK_FAST && state != SOCK_ADOPTING)
		return;
	s->claim = CLAIM_TAKE;
	s->state = SOCK_AWAY;
}

/* The shadow's filter, or one of the application's: something that is not there on an ordinary socket. */
static bool has_filter(int fd)
{
	socklen_t len = 0;

	return !libc()->getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, NULL, &len) && len > 0;
}

bool inherit_changed(struct sock *s)
{
	uint64_t n = atomic_load_explicit(adoptions, memory_order_acquire); /* pairs with inherit_announce() */
	bool away = false;
	int saved = errno;

	if (s->relatives_seen == n)
		return false;
	s->relatives_seen = n;
	if (has_filter(s->fd) && lock_take(&s->lock)) {
		if (sock_state(s) == SOCK_LINUX) {
			s->claim = CLAIM_RETURN;
			atomic_store_explicit(&s->state, SOCK_AWAY, memory_order_release);
			away = true;
		}
		lock_drop(&s->lock);
	}
	errno = saved;
	return away;
}

void inherit_announce(struct sock *s)
{
	if (s->generation != inherit_generation)
		/* release: pairs with the acquire in inherit_changed() */
		s->relatives_seen = atomic_fetch_add_explicit(adoptions, 1, memory_order_acq_rel) + 1;
}

/* No service to ask: if it left orderly the socket is Linux's, else nobody knows the stream any more. */
static void claim_alone(struct sock *s)
{
	if (has_filter(s->fd)) {
		libc()->shutdown(s->fd, SHUT_RDWR);
		s->try_at = NEVER;
	}
	atomic_store_explicit(&s->state, SOCK_LINUX, memory_order_release);
}

void inherit_claim(struct sock *s)
{
	struct core *c = sock_service();
	int slot, context;

	if (!c) {
		if (!sock_service_busy())
			claim_alone(s);
		return;
	}
	context = wait_context(c);
	if (context < 0)
		return;
	if (s->slot == SLOT_NONE || s->core != c) {
		slot = core_slot_take(c, s);
		if (slot < 0) {
			core_context_put(c, (uint32_t)context);
			return;
		}
		s->slot = (uint32_t)slot;
		s->core = c;
		s->context = (uint32_t)context;
	} else {
		core_context_put(c, (uint32_t)context); /* its old slot, its old context */
	}
	sock_claim_start(s);
}

/* ---- exec ---- */

static bool env_is(const char *entry, const char *name)
{
	size_t n = strlen(name);

	return !strncmp(entry, name, n) && entry[n] == '=';
}

/* Connections of the image before this one. */
__attribute__((constructor)) static void inherit_image(void)
{
	const char *p = getenv(INHERIT_ENV);

	while (p && *p) {
		unsigned long long cookie;
		char *end;
		long fd = strtol(p, &end, 10);
		struct sock *s;

		if (*end != ':')
			return;
		cookie = strtoull(end + 1, &end, 16);
		if (*end && *end != ',')
			return;
		p = *end ? end + 1 : end;
		if (fd < 0 || fd >= FD_MAX || file_get_any((int)fd) || !cookie || sock_cookie((int)fd) != cookie)
			continue;
		s = sock_track((int)fd, libc()->fcntl((int)fd, F_GETFL) & O_NONBLOCK);
		if (!s)
			return;
		s->claim = CLAIM_TAKE;
		atomic_store_explicit(&s->state, SOCK_AWAY, memory_order_release);
		sock_put(s);
	}
}

bool inherit_library_in(char *const envp[])
{
	for (size_t i = 0; envp && envp[i]; i++)
		if (env_is(envp[i], "LD_PRELOAD") && strstr(envp[i], "libtapas-preload"))
			return true;
	return false;
}

size_t inherit_list(char *text, size_t size, bool give_back)
{
	int top = fd_top();
	size_t len = 0;

	for (int fd = 0; fd <= top; fd++) {
		struct sock *s = file_get_any(fd) ? sock_get(fd) : NULL;
		int n;

		if (!s)
			continue;
		if (sock_state(s) != SOCK_LINUX && !(libc()->fcntl(fd, F_GETFD) & FD_CLOEXEC)) {
			n = give_back ? 0
				      : snprintf(text + len, size - len, "%s%d:%llx", len ? "," : "", fd,
						 (unsigned long long)sock_cookie(fd));
			if (n > 0 && (size_t)n < size - len)
				len += (size_t)n;
			else
				sock_return(s, fd, true);
		}
		sock_put(s);
	}
	text[len] = 0;
	return len;
}
