/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Brief connections (brief.h). Place in a packet's way: calls on a connection in its first exchanges begin and end here,
 * and go to the kernel. Any thread, also from signal handlers.
 *
 * Invariants: all that is decided about a brief connection is decided by an exchange of its word, which says how many
 * calls are inside the kernel. Growing takes that number along (brief_calls), and a socket is not adopted while it is
 * not 0. A word is told from a later one under the same descriptor by its serial number. Its registration in an
 * epoll instance, which has the application's own data, is noted in `briefs` while no other call is inside.
 */
#define _GNU_SOURCE 1
#include "preload/brief.h"

#include <errno.h>

#include "preload/epoll.h"
#include "preload/inherit.h"
#include "preload/user.h"

#define BRIEF_FDS 65536 /* higher ones are tracked at once */

/* the word, from below: the bit that makes it one, and ... */
#define W_REGISTERED (1ull << 1) /* in one epoll instance */
#define W_FIRST_SHIFT 2          /* direction of the first and of the latest call that moved bytes: 0, IO_IN, IO_OUT */
#define W_LAST_SHIFT 4
#define W_DIR 3ull
#define W_CALL (1ull << 6) /* calls inside: 4 bits */
#define W_CALLS (15 * W_CALL)
#define W_POLICY_SHIFT 10 /* 4 bits */
#define W_POLICY 15ull
#define W_EXCHANGE (1ull << 14) /* 4 bits */
#define W_EXCHANGES 15ull
#define W_BYTE (1ull << 18) /* 24 bits */
#define W_BYTES ((1ull << 24) - 1)
#define W_SERIAL (1ull << 42) /* 22 bits */
#define W_SERIALS (~0ull << 42)

static_assert(sizeof(void *) == sizeof(uint64_t), "a word takes the place of a pointer");
static_assert((IO_IN | IO_OUT) == W_DIR, "two bits");

/* What does not fit into the word. */
struct brief {
	_Atomic uint32_t serial, generation; /* written by accept() */
	/* valid with W_REGISTERED */
	_Atomic uint32_t events, life; /* life: which one of the instance, as its memory is used again */
	_Atomic uint64_t data;
	struct ep *_Atomic ep;
};

struct policy {
	struct core_policy policy;
	bool is_known;
};

static struct brief briefs[BRIEF_FDS];
static struct policy policies[W_POLICY + 1] = {{.policy = {.bytes = FIRST_LOOK_BYTES - 1}}}; /* the first: unknown */
static uint32_t policies_count = 1;                                                          /* policies_lock */
static struct lock policies_lock;

static inline uint64_t word_load(int fd)
{
	/* pairs with the release in word_swap() and fd_set_brief() */
	return (uintptr_t)atomic_load_explicit(&fd_table[fd], memory_order_acquire);
}

static inline bool word_swap(int fd, uint64_t word, uint64_t with)
{
	struct file *old = (void *)word;

	/* full fence: a call that counts itself pairs with brief_grow() */
	return atomic_compare_exchange_strong_explicit(&fd_table[fd], &old, (void *)with, memory_order_seq_cst,
						       memory_order_relaxed);
}

static inline bool word_is(uint64_t word)
{
	return word & BRIEF_BIT;
}

/* What tells a word from those of other connections, and from a pointer. */
static inline uint64_t word_id(uint64_t word)
{
	return word & (W_SERIALS | BRIEF_BIT);
}

static inline const struct policy *word_policy(uint64_t word)
{
	return &policies[word >> W_POLICY_SHIFT & W_POLICY];
}

/* ---- the beginning ---- */

uint8_t brief_policy(const struct core_policy *policy)
{
	uint32_t i;

	if (!policy)
		return 1;
	if (!lock_take(&policies_lock))
		return 0;
	for (i = 1; i < policies_count; i++)
		if (policies[i].policy.accelerate == policy->accelerate &&
		    policies[i].policy.exchanges == policy->exchanges && policies[i].policy.bytes == policy->bytes)
			break;
	if (i == policies_count && i <= W_POLICY) {
		policies[i] = (struct policy){.policy = *policy, .is_known = true};
		policies_count++;
	}
	lock_drop(&policies_lock);
	return i <= W_POLICY ? (uint8_t)(i + 1) : 0;
}

bool brief_begin(int fd, uint8_t policy)
{
	struct brief *b;
	uint32_t serial, generation;

	if (!policy || (unsigned)fd >= BRIEF_FDS || user_is_confined())
		return false;
	b = &briefs[fd];
	serial = atomic_load_explicit(&b->serial, memory_order_relaxed) + 1;
	atomic_store_explicit(&b->serial, serial, memory_order_relaxed);
	generation = atomic_load_explicit(&inherit_generation, memory_order_relaxed);
	atomic_store_explicit(&b->generation, generation, memory_order_relaxed);
	fd_set_brief(fd, BRIEF_BIT | (uint64_t)(policy - 1) << W_POLICY_SHIFT | serial * W_SERIAL);
	/* full fence before: a fork raises it and then grows what is in the table (fork_prepare()), or we see that here */
	if (unlikely(atomic_load_explicit(&inherit_generation, memory_order_seq_cst) != generation))
		brief_grow(fd);
	return true;
}

/* ---- calls ---- */

uint64_t brief_enter_slow(int fd)
{
	uint64_t word = word_load(fd);

	/* a child that no fork handler has seen, and one call too many, go the long way */
	if (unlikely(!atomic_load_explicit(fd_here, memory_order_relaxed)))
		return 0;
	while (word_is(word) && (word & W_CALLS) != W_CALLS) {
		if (likely(word_swap(fd, word, word + W_CALL)))
			return word + W_CALL;
		word = word_load(fd);
	}
	return 0;
}

/* As count() of sock.c. A sum that is too large is so large that the connection grows. */
static inline uint64_t word_count(uint64_t word, int dir, ssize_t n)
{
	uint64_t first = word >> W_FIRST_SHIFT & W_DIR, last = word >> W_LAST_SHIFT & W_DIR, to = (uint64_t)dir;
	uint64_t bytes = word / W_BYTE & W_BYTES;

	if (!first)
		word |= to << W_FIRST_SHIFT;
	else if (to != last && to != first)
		word += W_EXCHANGE;
	if (to != last)
		word = (word & ~(W_DIR << W_LAST_SHIFT)) | to << W_LAST_SHIFT;
	return word + MIN((uint64_t)n, W_BYTES - bytes) * W_BYTE;
}

/* Might it be adopted now, or cannot be counted on? */
static inline bool word_is_over(uint64_t word)
{
	uint64_t exchanges = word / W_EXCHANGE & W_EXCHANGES, bytes = word / W_BYTE & W_BYTES;
	const struct policy *p = word_policy(word);

	return exchanges > p->policy.exchanges || bytes > p->policy.bytes || exchanges == W_EXCHANGES ||
	       bytes == W_BYTES;
}

/* The socket that the connection of @token has become, with a reference; or NULL: it was closed, or is not tracked. */
static struct sock *grown(int fd, uint64_t token)
{
	struct sock *s;

	if (word_is(word_load(fd)))
		return NULL; /* another one */
	s = sock_get(fd);
	if (!s || (s->brief_fd == fd && s->brief_serial == (token & W_SERIALS)))
		return s;
	sock_put(s);
	return NULL;
}

/* A call that began on a brief connection is over. None is counted where a handler has forked on top of it. */
static void call_over(struct sock *s)
{
	uint32_t n = atomic_load_explicit(&s->brief_calls, memory_order_relaxed);

	/* pairs with the look at it in adopt_locked() */
	while (n && !atomic_compare_exchange_weak_explicit(&s->brief_calls, &n, n - 1, memory_order_seq_cst,
							   memory_order_relaxed))
		;
}

/* A call ends on what has grown meanwhile, or grows now. */
static void leave_grown(int fd, uint64_t token, int dir, ssize_t n)
{
	int saved = errno;
	struct sock *s;

	if (word_id(word_load(fd)) == word_id(token))
		brief_grow(fd);
	s = grown(fd, token);
	errno = saved;
	if (!s)
		return;
	call_over(s);
	if (dir)
		sock_moment(s, fd, dir, n);
	sock_put(s);
	errno = saved;
}

void brief_leave(int fd, uint64_t token, int dir, ssize_t n)
{
	uint64_t word, next;

	do {
		word = word_load(fd);
		next = n > 0 && dir ? word_count(word - W_CALL, dir, n) : word - W_CALL;
		if (unlikely(word_id(word) != word_id(token) || word_is_over(next))) {
			leave_grown(fd, token, dir, n);
			return;
		}
	} while (unlikely(!word_swap(fd, word, next)));
}

uint64_t brief_id(int fd)
{
	uint64_t word = (unsigned)fd < FD_MAX ? word_load(fd) : 0;

	return word_is(word) ? word_id(word) : 0;
}

/* ---- epoll ---- */

/* The instance of @epfd, if nothing is special about it. Without a reference: its memory keeps its type. */
static struct ep *instance(int epfd)
{
	struct file *f = (unsigned)epfd < FD_MAX ? atomic_load_explicit(&fd_table[epfd], memory_order_acquire) : NULL;
	struct ep *ep;

	if (!f || fd_is_brief(f) || f->type != FILE_EPOLL)
		return NULL;
	ep = container_of(f, struct ep, file);
	return atomic_load_explicit(&ep->share, memory_order_relaxed) || ep->alone || ep->lent ? NULL : ep;
}

static uint32_t life_of(struct ep *ep)
{
	return atomic_load_explicit(&ep->life, memory_order_relaxed);
}

/* Is it @ep, in its present life, that @fd is registered in? */
static bool is_registered(int fd, struct ep *ep)
{
	return atomic_load_explicit(&briefs[fd].ep, memory_order_relaxed) == ep &&
	       atomic_load_explicit(&briefs[fd].life, memory_order_relaxed) == life_of(ep);
}

/* The same for what the connection has become meanwhile; @life: of the instance. */
static void registered_grown(int fd, uint64_t token, struct ep *ep, uint32_t life, const struct epoll_event *ev)
{
	struct sock *s = grown(fd, token);

	if (s && file_hold(&ep->file)) {
		if (life_of(ep) == life)
			ep_item_note(s, ep, fd, ev);
		file_put(&ep->file);
	}
	if (s)
		sock_put(s);
	leave_grown(fd, token, 0, 0);
}

/* Linux has done it: the word says so. */
static void registered(int fd, uint64_t token, struct ep *ep, uint32_t life, const struct epoll_event *ev)
{
	uint64_t word;

	do {
		word = word_load(fd);
		if (unlikely(word_id(word) != word_id(token))) {
			registered_grown(fd, token, ep, life, ev);
			return;
		}
	} while (unlikely(!word_swap(fd, word, (ev ? word | W_REGISTERED : word & ~W_REGISTERED) - W_CALL)));
	if (ev)
		atomic_fetch_add_explicit(&ep->briefs, 1, memory_order_relaxed);
	else
		atomic_fetch_sub_explicit(&ep->briefs, 1, memory_order_relaxed);
}

/* Begin a call that nobody else is in. Returns its token, or 0. */
static uint64_t enter_alone(int fd)
{
	uint64_t token = brief_enter(fd);

	if (!token || (token & W_CALLS) == W_CALL)
		return token;
	brief_leave(fd, token, 0, 0);
	return 0;
}

static bool ctl_add(int epfd, struct ep *ep, int fd, struct epoll_event *ev, int *ret)
{
	struct brief *b = &briefs[fd];
	uint32_t life = life_of(ep);
	struct epoll_event copy;
	uint64_t token;

	if (!user_readable(ev, sizeof(*ev)))
		return false;
	copy = *ev;
	if (copy.events & (EPOLLONESHOT | EPOLLEXCLUSIVE))
		return false;
	token = enter_alone(fd);
	if (!token)
		return false;
	if (token & W_REGISTERED) {
		brief_leave(fd, token, 0, 0);
		return false;
	}
	atomic_store_explicit(&b->ep, ep, memory_order_relaxed);
	atomic_store_explicit(&b->life, life, memory_order_relaxed);
	atomic_store_explicit(&b->events, copy.events, memory_order_relaxed);
	atomic_store_explicit(&b->data, copy.data.u64, memory_order_relaxed);
	*ret = libc()->epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &copy);
	if (*ret)
		brief_leave(fd, token, 0, 0);
	else
		registered(fd, token, ep, life, &copy);
	return true;
}

static bool ctl_del(int epfd, struct ep *ep, int fd, struct epoll_event *ev, int *ret)
{
	uint32_t life = life_of(ep);
	uint64_t token = enter_alone(fd);

	if (!token)
		return false;
	if (!(token & W_REGISTERED) || !is_registered(fd, ep)) {
		brief_leave(fd, token, 0, 0);
		return false;
	}
	*ret = libc()->epoll_ctl(epfd, EPOLL_CTL_DEL, fd, ev);
	if (*ret)
		brief_leave(fd, token, 0, 0);
	else
		registered(fd, token, ep, life, NULL);
	return true;
}

bool brief_ctl(int epfd, int op, int fd, struct epoll_event *ev, int *ret)
{
	struct ep *ep = instance(epfd);

	if (!ep)
		return false;
	if (op == EPOLL_CTL_ADD)
		return ctl_add(epfd, ep, fd, ev, ret);
	return op == EPOLL_CTL_DEL && ctl_del(epfd, ep, fd, ev, ret);
}

/* ---- the end ---- */

void brief_lost(int fd, const struct file *old)
{
	struct ep *ep = atomic_load_explicit(&briefs[fd].ep, memory_order_relaxed);

	if (((uintptr_t)old & W_REGISTERED) && is_registered(fd, ep))
		atomic_fetch_sub_explicit(&ep->briefs, 1, memory_order_relaxed);
}

bool brief_close(int fd)
{
	uint64_t word = word_load(fd);

	if (!word_is(word))
		return false;
	if (fd_maybe_vfork())
		return true;
	while (word_is(word) && !(word & W_CALLS)) {
		if (likely(word_swap(fd, word, 0))) {
			brief_lost(fd, (void *)word);
			return true;
		}
		word = word_load(fd);
	}
	return false;
}

/* What is known of the connection goes to @s. */
static void hand_over(struct sock *s, int fd, uint64_t word)
{
	const struct policy *p = word_policy(word);

	if (p->is_known) {
		sock_set_policy(s, &p->policy);
		s->try_at = p->policy.accelerate ? 0 : NEVER;
	}
	s->first_dir = (uint8_t)(word >> W_FIRST_SHIFT & W_DIR);
	s->last_dir = (uint8_t)(word >> W_LAST_SHIFT & W_DIR);
	s->exchanges = (uint32_t)(word / W_EXCHANGE & W_EXCHANGES);
	s->bytes = word / W_BYTE & W_BYTES;
	s->generation = atomic_load_explicit(&briefs[fd].generation, memory_order_relaxed);
	s->brief_fd = fd;
	s->brief_serial = word & W_SERIALS;
	s->brief_calls = (uint32_t)((word & W_CALLS) / W_CALL) + 1; /* and the caller */
}

/* The word is gone; @s, whose lock is held, has its place. Returns the instance with a reference, or NULL: it has gone. */
static struct ep *hand_over_registration(struct sock *s, int fd)
{
	struct brief *b = &briefs[fd];
	struct ep *ep = atomic_load_explicit(&b->ep, memory_order_relaxed);
	struct epoll_event ev = {.events = atomic_load_explicit(&b->events, memory_order_relaxed),
				 .data.u64 = atomic_load_explicit(&b->data, memory_order_relaxed)};

	if (!file_hold(&ep->file))
		return NULL;
	if (is_registered(fd, ep)) {
		ep_item_note_locked(s, ep, fd, &ev);
		atomic_fetch_sub_explicit(&ep->briefs, 1, memory_order_relaxed);
	}
	return ep;
}

/*
 * @s, new, takes the place of @word. Until the registration is known too, its lock is held, it is not adopted, also if a
 * handler leaves by longjmp, and lives, if a handler closes it.
 */
static void grow_into(struct sock *s, int fd, uint64_t word)
{
	struct ep *ep = NULL;
	bool done;

	hand_over(s, fd, word);
	lock_take(&s->lock); /* nobody else has it */
	atomic_store_explicit(&s->file.fds, 1, memory_order_relaxed);
	/* who has an old pointer to its memory may use it from here on; pairs with file_try() */
	atomic_store_explicit(&s->file.refs, 2 * FILE_REF, memory_order_release);
	done = word_swap(fd, word, (uintptr_t)&s->file);
	if (done && (word & W_REGISTERED))
		ep = hand_over_registration(s, fd);
	lock_drop(&s->lock);
	if (ep)
		file_put(&ep->file); /* with no lock held: it may be the last one */
	call_over(s);
	file_put_more(&s->file, done ? FILE_REF : 2 * FILE_REF);
}

void brief_grow(int fd)
{
	uint64_t word;
	struct sock *s;

	while (word_is(word = word_load(fd))) {
		s = sock_new(fd, true);
		if (!s) {
			if (word_swap(fd, word, 0))
				brief_lost(fd, (void *)word);
			continue;
		}
		grow_into(s, fd, word);
	}
}

void brief_child(int top)
{
	policies_lock.owner = 0;
	for (int fd = 0; fd <= top; fd++) {
		uint64_t word = word_load(fd);

		if (!word_is(word))
			continue;
		word_swap(fd, word, word & ~(W_REGISTERED | W_CALLS));
		brief_grow(fd);
	}
}
