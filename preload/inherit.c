/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Connections and processes. A connection is FAST in one process; another one that holds the
 * same socket has it in SOCK_AWAY. Not in a packet's way; any thread.
 *
 * A forked child, or a new image that was told by INHERIT_ENV, takes a connection over at its
 * first use: it asks for an adoption, and the service moves the flow into the child's memory,
 * whole, or, if the other process goes on with the other direction, the half that this use needs
 * (IPC_ST_*_AWAY). If the process that lost it uses it again, it asks for the connection to be
 * Linux's, where both may use it, or first for a half that the other one has never used. Nothing
 * happens to what nobody uses: the usual child closes or executes.
 *
 * A connection that was Linux's at the fork, or at exec, may be adopted by any process that holds
 * it, but not while another one uses it: see share.c. What is given to an image that does not load
 * the library counts as used.
 */
#define _GNU_SOURCE 1
#include "preload/inherit.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "preload/local.h"
#include "preload/share.h"
#include "preload/standard.h"
#include "service/base/clock.h"

#define NOTES 32
#define ASK_NS (20 * NS_PER_MS) /* between two requests of which one may have come too early */

_Atomic uint32_t inherit_generation;

/* ---- fork ---- */

void inherit_forked(void)
{
	atomic_fetch_add_explicit(&inherit_generation, 1, memory_order_seq_cst);
}

/* From here on the service can tell which halves of a connection this process still uses. */
static void mark(struct sock *s)
{
	if (sock_state(s) != SOCK_FAST)
		return;
	stream_mark(&s->st);
	if (s->err_taken) /* the kernel's socket, which others ask, may have got it after that */
		local_error_take(s);
}

static void mark_all(void)
{
	struct sock *s;

	for (int fd = -1; (s = sock_next(&fd)); sock_put(s))
		mark(s);
}

/* Threads that enter the kernel from here on say so themselves (share.c); those that are in it cannot. */
static void fork_prepare(void)
{
	inherit_forked();
	/* full fence: pairs with brief_begin() */
	atomic_thread_fence(memory_order_seq_cst);
	share_fork();
	mark_all();
}

void inherit_start(void)
{
	static _Atomic bool started;

	if (!atomic_exchange(&started, true))
		pthread_atfork(fork_prepare, NULL, NULL);
}

void inherit_child(struct sock *s)
{
	uint32_t state = sock_state(s);

	s->lock.owner = s->tx_lock.owner = 0;
	s->items = NULL; /* `first`, if it was used, stays as it was: see lend_use() */
	if (state == SOCK_FAST || state == SOCK_ADOPTING)
		s->heir_of = s->core;
	else if (state != SOCK_AWAY)
		s->heir_of = NULL;
	if (s->heir_of)
		s->heir_of->heirs++;
	s->slot = SLOT_NONE;
	s->core = s->st.core = NULL;
	s->offer = NULL;   /* in memory that only the parent has */
	s->marked = false; /* the parent's */
	s->outside = 0;
	s->brief_calls = 0;
	s->need = 0;
	s->asked = false;
	s->listener_asked = s->listener_asking = false;
	s->listen_core = NULL;
	if (state != SOCK_FAST && state != SOCK_ADOPTING)
		return;
	s->claim = CLAIM_TAKE;
	s->state = SOCK_AWAY;
}

bool inherit_is_taken(int fd)
{
	socklen_t len = 0;
	uint64_t hint = 0;

	if (!libc()->getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, NULL, &len) && len > 0)
		return true;
	return !syscall(SYS_fcntl, fd, F_GET_RW_HINT, &hint) && hint == IPC_TAKEN_HINT;
}

void inherit_let_go(int fd)
{
	uint64_t hint = RWH_WRITE_LIFE_NOT_SET;
	int none = 0;

	libc()->setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof(none));
	if (inherit_is_taken(fd))
		syscall(SYS_fcntl, fd, F_SET_RW_HINT, &hint);
}

/* It is Linux's, and who waits for it in an epoll instance waits there. s->lock held. */
static void claim_over(struct sock *s)
{
	atomic_store_explicit(&s->state, SOCK_LINUX, memory_order_release);
	ep_items_to_kernel(s);
}

/*
 * The service cannot be reached: a child that has changed its root or user, or may open no descriptor. It can still ask
 * by its parent's control socket. The answer is to be seen at the socket itself: it is marked, so nobody adopts it, and
 * once it is the connection it stays so. False: there is no service. s->lock held.
 */
static bool claim_as_heir(struct sock *s)
{
	uint64_t now = clock_now_ns();
	int err;

	share_mark(s);
	if (share_is_whole(s->fd)) {
		claim_over(s);
		return true;
	}
	if (s->heir_asked_ns && now - s->heir_asked_ns < ASK_NS)
		return true;
	s->heir_asked_ns = now;
	err = core_return_heir(s->heir_of, s->fd);
	return !err || err == -EAGAIN || err == -ETOOMANYREFS;
}

/* No service to ask: if it left orderly the socket is Linux's, else nobody knows the stream any more. */
static void claim_alone(struct sock *s)
{
	if (inherit_is_taken(s->fd)) {
		libc()->shutdown(s->fd, SHUT_RDWR);
		s->try_at = NEVER;
	} else if (s->items) {
		share_mark(s); /* as whoever uses it */
	}
	claim_over(s);
}

void inherit_claim(struct sock *s)
{
	struct core *c = sock_service();
	int slot, context;

	if (!c) {
		if (!sock_service_busy() && !(s->heir_of && claim_as_heir(s)) && !sock_service_slow())
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

/* One of them: FAST where it comes from, or Linux's. */
static void inherit_one(int fd, uint64_t cookie, bool is_linux)
{
	struct sock *s;

	if (fd < 0 || fd >= FD_MAX || file_get_any(fd) || !cookie || core_cookie(fd) != cookie)
		return;
	s = share_track(fd, cookie);
	if (!s)
		return;
	share_unmark(s); /* what was here before exec used it, or was made for us */
	if (!is_linux) {
		s->claim = CLAIM_TAKE;
		atomic_store_explicit(&s->state, SOCK_AWAY, memory_order_release);
	}
	if (fd < STANDARD_FDS)
		standard_take(fd);
	sock_put(s);
}

/* Connections of the image before this one. */
__attribute__((constructor)) static void inherit_image(void)
{
	const char *p = getenv(INHERIT_ENV);

	while (p && *p) {
		unsigned long long cookie;
		bool is_linux;
		char *end;
		long fd = strtol(p, &end, 10);

		if (*end != ':' || fd > INT_MAX)
			return;
		cookie = strtoull(end + 1, &end, 16);
		is_linux = *end == '-';
		end += is_linux;
		if (*end && *end != ',')
			return;
		p = *end ? end + 1 : end;
		inherit_one((int)fd, cookie, is_linux);
	}
}

bool inherit_library_in(char *const envp[])
{
	for (size_t i = 0; envp && envp[i]; i++)
		if (env_is(envp[i], "LD_PRELOAD") && strstr(envp[i], "libtapas-preload"))
			return true;
	return false;
}

/* ---- what the new image has under which number ---- */

/* Descriptors that are made for it where the table cannot know them. */
static struct note {
	uintptr_t key; /* a process id, or the address of file actions */
	int from, to;
	uint64_t cookie;
} notes[NOTES]; /* notes_lock */
static uint32_t notes_next;
static struct lock notes_lock;

/* A list that is being written. */
struct list {
	char *text;
	size_t len, size;
	enum inherit_how how;
	uintptr_t key;
	bool loads;
	struct inherit_undo *undo;
};

static uintptr_t note_key(const void *key)
{
	return key ? (uintptr_t)key : (uintptr_t)syscall(SYS_getpid);
}

/* Threads of the parent's that are in the kernel on @s cannot be told in a child that works in its memory. */
static bool is_busy(struct sock *s)
{
	return fd_maybe_vfork() && (s->items || sock_is_inside(s));
}

void inherit_dup(struct sock *s, int from, int to, const void *key)
{
	int saved = errno;

	share_note(s);
	if (sock_state(s) != SOCK_LINUX && sock_state(s) != SOCK_AWAY)
		sock_return(s, from, false);
	if (!key)
		share_mark_fd(to); /* the child's; an image that knows the connection drops it */
	if (!is_busy(s) && lock_take(&notes_lock)) {
		notes[notes_next++ % NOTES] = (struct note){note_key(key), from, to, core_cookie(from)};
		lock_drop(&notes_lock);
	}
	errno = saved;
}

/* The @i-th note, if it is of @key. */
static bool note_get(uint32_t i, uintptr_t key, struct note *out)
{
	if (!lock_take(&notes_lock))
		return false;
	*out = notes[i];
	lock_drop(&notes_lock);
	return out->cookie && out->key == key;
}

/* The next connection from descriptor *@fd on that a new image inherits, as sock_next(). */
static struct sock *heir_next(int *fd)
{
	struct sock *s;

	while ((s = sock_next(fd))) {
		int flags = s->listener ? FD_CLOEXEC : libc()->fcntl(*fd, F_GETFD);

		if (flags >= 0 && !(flags & FD_CLOEXEC))
			break;
		sock_put(s);
	}
	return s;
}

size_t inherit_count(const void *key)
{
	int saved = errno;
	struct note note;
	struct sock *s;
	size_t n = 0;

	for (uint32_t i = 0; i < NOTES; i++)
		n += note_get(i, note_key(key), &note);
	for (int fd = -1; (s = heir_next(&fd)); sock_put(s))
		n++;
	errno = saved;
	return n;
}

/* False: there is no room. */
static bool list_add(struct list *l, int fd, uint64_t cookie, bool is_linux)
{
	int n = snprintf(l->text + l->len, l->size - l->len, "%s%d:%llx%s", l->len ? "," : "", fd,
			 (unsigned long long)cookie, is_linux ? "-" : "");

	if (n <= 0 || (size_t)n >= l->size - l->len)
		return false;
	l->len += (size_t)n;
	return true;
}

/* Is @fd closed by exec, and the socket of @cookie? Then it is closed now. */
static void twin_close(struct list *l, int fd, int same, uint64_t cookie)
{
	int flags = fd == same ? 0 : (int)syscall(SYS_fcntl, fd, F_GETFD);

	if (flags < 0 || !(flags & FD_CLOEXEC) || l->undo->n == INHERIT_TWINS || core_cookie(fd) != cookie)
		return;
	l->undo->twin[l->undo->n].fd = fd;
	l->undo->twin[l->undo->n++].same = same;
	syscall(SYS_close, fd);
}

/*
 * The image that comes uses the connection in the kernel, and cannot say so. A mark goes when any descriptor of the
 * socket is closed, also by exec: so those go first.
 */
static void mark_for_image(struct list *l, int fd, uint64_t cookie)
{
	int top = fd_top();
	struct note n;

	for (int i = 0; i <= top; i++)
		if (file_get_any(i) && !fd_is_own(i))
			twin_close(l, i, fd, cookie);
	for (uint32_t i = 0; i < NOTES; i++)
		if (note_get(i, l->key, &n))
			twin_close(l, n.to, fd, cookie);
	share_mark_fd(fd);
}

void inherit_failed(const struct inherit_undo *undo)
{
	int saved = errno;

	for (uint32_t i = 0; i < undo->n; i++)
		syscall(SYS_dup3, undo->twin[i].same, undo->twin[i].fd, O_CLOEXEC);
	errno = saved;
}

/*
 * A new image has @s as @fd. What it does not know as a connection it uses in the kernel: nobody adopts it. The standard
 * streams are Linux's to begin with, as only the image can tell whether its stdio goes by the library (standard.c).
 */
static void list_heir(struct list *l, struct sock *s, int fd)
{
	uint64_t cookie = core_cookie(fd);
	bool knows = l->loads && !is_busy(s) && !s->passed;

	if (!cookie)
		return;
	share_note(s);
	mark(s);
	if (sock_state(s) != SOCK_LINUX) {
		if (l->loads && fd > 2 && list_add(l, fd, cookie, false))
			return;
		sock_return(s, fd, l->how == INHERIT_SPAWN && !l->loads);
	}
	if (knows && list_add(l, fd, cookie, true))
		return;
	if (l->how == INHERIT_EXEC) {
		mark_for_image(l, fd, cookie);
		return;
	}
	s->keep_linux = true; /* there is nobody to do that in the child */
	s->try_at = NEVER;
}

static void list_note(struct list *l, const struct note *n)
{
	struct sock *s;

	if (l->how == INHERIT_EXEC) { /* it is there already */
		if (core_cookie(n->to) == n->cookie && !((int)syscall(SYS_fcntl, n->to, F_GETFD) & FD_CLOEXEC) &&
		    !(l->loads && list_add(l, n->to, n->cookie, true)))
			mark_for_image(l, n->to, n->cookie);
		return;
	}
	s = sock_get(n->from);
	if (!s)
		return;
	if (core_cookie(n->from) == n->cookie) {
		bool told = l->loads && !s->passed && list_add(l, n->to, n->cookie, true);

		sock_return(s, n->from, !told);
		if (!told)
			s->try_at = NEVER;
	}
	sock_put(s);
}

size_t inherit_list(char *text, size_t size, enum inherit_how how, const void *key, bool loads,
		    struct inherit_undo *undo)
{
	struct list l = {.text = text, .size = size, .how = how, .key = note_key(key), .loads = loads, .undo = undo};
	int saved = errno;
	struct sock *s;
	struct note n;

	for (int fd = -1; (s = heir_next(&fd)); sock_put(s))
		list_heir(&l, s, fd);
	for (uint32_t i = 0; i < NOTES; i++)
		if (note_get(i, l.key, &n))
			list_note(&l, &n);
	text[l.len] = 0;
	errno = saved;
	return l.len;
}
