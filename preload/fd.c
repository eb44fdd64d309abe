/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The descriptor table. Place in a packet's way: every interposed call looks here first.
 * Any thread, also from signal handlers.
 *
 * Invariants: an entry holds one reference and one count of `fds`; a file whose `fds` is zero
 * is never entered again. After fork the child keeps sockets alone, and the pools are its own.
 */
#define _GNU_SOURCE 1
#include "preload/fd.h"

#include "preload/brief.h"
#include "preload/inherit.h"
#include "preload/user.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

_Atomic(struct file *) fd_table[FD_MAX];
static _Atomic uint32_t fd_nowhere = 1;
_Atomic uint32_t *fd_here = &fd_nowhere;
static _Atomic int fd_highest = -1;
static _Atomic pid_t fd_owner;
static struct file own = {.type = FILE_OWN, .refs = 1u << 30, .fds = 1u << 30};
static pthread_once_t start_once = PTHREAD_ONCE_INIT;

#define POOL_CHUNK 65536

void *pool_get(struct pool *p)
{
	void *o = NULL;

	if (!lock_take(&p->lock)) { /* a signal handler on top of this very function */
		o = mmap(NULL, p->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		return o == MAP_FAILED ? NULL : o;
	}
	if (p->free) {
		o = p->free;
		memcpy(&p->free, (char *)o + p->size - sizeof(void *), sizeof(void *));
		memset((char *)o + p->size - sizeof(void *), 0, sizeof(void *));
	} else {
		if (p->left < p->size) {
			void *m = mmap(NULL, POOL_CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

			p->chunk = m == MAP_FAILED ? NULL : m;
			p->left = p->chunk ? POOL_CHUNK : 0;
		}
		if (p->chunk) {
			o = p->chunk;
			p->chunk += p->size;
			p->left -= p->size;
		}
	}
	lock_drop(&p->lock);
	return o;
}

void pool_put(struct pool *p, void *o)
{
	if (!lock_take(&p->lock))
		return; /* lost to the pool: a signal handler met it */
	memcpy((char *)o + p->size - sizeof(void *), &p->free, sizeof(void *));
	p->free = o;
	lock_drop(&p->lock);
}

static void file_reset(struct file *f)
{
	f->refs = 0;
	f->fds = 0;
}

void fd_child(bool at_fork)
{
	int highest = atomic_exchange(&fd_highest, -1);

	lock_tid = 0;
	brief_child(highest);
	for (int i = 0; i <= highest; i++) {
		struct file *f = atomic_load_explicit(&fd_table[i], memory_order_relaxed);

		if (f && f->type == FILE_SOCK)
			file_reset(f); /* threads of the parent's are not here */
	}
	for (int i = 0; i <= highest; i++) {
		struct file *f = atomic_load_explicit(&fd_table[i], memory_order_relaxed);

		if (f && f->type == FILE_SOCK && f->fds++ == 0)
			inherit_child(container_of(f, struct sock, file));
		if (f && f->type == FILE_SOCK)
			f->refs += FILE_REF;
		else if (f != &own || !at_fork)
			atomic_store_explicit(&fd_table[i], NULL, memory_order_relaxed);
	}
	atomic_store(&fd_highest, highest);
	if (!user_is_confined())
		atomic_store(&fd_owner, getpid());
	atomic_store(fd_here, 1);
}

void fd_close_own(void)
{
	int highest = atomic_load(&fd_highest);

	for (int i = 0; i <= highest; i++) {
		if (!fd_is_own(i))
			continue;
		atomic_store_explicit(&fd_table[i], NULL, memory_order_relaxed);
		if (!user_is_confined())
			syscall(SYS_close, i);
	}
}

static void start(void)
{
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	atomic_store(&fd_owner, getpid());
	if (page == MAP_FAILED || madvise(page, 4096, MADV_WIPEONFORK))
		return;
	fd_here = page;
	atomic_store(fd_here, 1);
}

void fd_start(void)
{
	pthread_once(&start_once, start);
}

struct file *file_try(int fd, uint64_t add)
{
	for (;;) {
		/* pairs with the release in fd_set_file() */
		struct file *f = atomic_load_explicit(&fd_table[fd], memory_order_acquire);
		uint64_t refs;

		if (!f)
			return NULL;
		if (unlikely(!atomic_load_explicit(fd_here, memory_order_relaxed))) {
			sock_child(false);
			return NULL;
		}
		if (fd_is_brief(f)) {
			brief_grow(fd);
			continue;
		}
		refs = atomic_load_explicit(&f->refs, memory_order_relaxed);
		/* full fence: FILE_CALL pairs with the one in adopt_locked() */
		while (refs && !atomic_compare_exchange_weak_explicit(&f->refs, &refs, refs + add, memory_order_seq_cst,
								      memory_order_relaxed))
			;
		if (!refs)
			continue; /* being freed: its entry is already changing */
		if (likely(atomic_load_explicit(&fd_table[fd], memory_order_acquire) == f))
			return f;
		file_put_more(f, add);
	}
}

bool fd_is_own(int fd)
{
	return (unsigned)fd < FD_MAX && atomic_load_explicit(&fd_table[fd], memory_order_relaxed) == &own;
}

bool file_lose_one(struct file *f)
{
	return atomic_fetch_sub_explicit(&f->fds, 1, memory_order_acq_rel) == 1;
}

bool file_lose(struct file *f)
{
	bool last = file_lose_one(f);

	if (last)
		file_closed(f);
	return last;
}

static void file_drop(struct file *f)
{
	if (!f)
		return;
	file_lose(f);
	file_put(f);
}

/* What was in the table at @fd has gone from there. */
static void drop(int fd, struct file *old)
{
	if (fd_is_brief(old))
		brief_lost(fd, old);
	else
		file_drop(old);
}

static void enter(int fd, struct file *f)
{
	int highest = atomic_load_explicit(&fd_highest, memory_order_relaxed);

	while (highest < fd && !atomic_compare_exchange_weak(&fd_highest, &highest, fd))
		;
	/* full fence: pairs with fork_prepare() in inherit.c, see brief_begin() */
	drop(fd, atomic_exchange_explicit(&fd_table[fd], f, memory_order_seq_cst));
}

void fd_set_brief(int fd, uint64_t word)
{
	enter(fd, (void *)word);
}

void fd_set_new(int fd, struct file *f, uint64_t refs)
{
	atomic_store_explicit(&f->fds, 1, memory_order_relaxed);
	/* whoever has an old pointer to its memory may use it from here on; pairs with file_try() */
	atomic_store_explicit(&f->refs, refs + 1, memory_order_release);
	enter(fd, f);
}

void fd_set_file(int fd, struct file *f)
{
	if ((unsigned)fd >= FD_MAX)
		return;
	if (!f)
		f = &own;
	atomic_fetch_add_explicit(&f->refs, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&f->fds, 1, memory_order_relaxed);
	enter(fd, f);
}

struct file *fd_take(int fd)
{
	struct file *f = file_get_any(fd) ? atomic_load_explicit(&fd_table[fd], memory_order_relaxed) : NULL;

	while (f) {
		if (fd_is_brief(f)) {
			brief_grow(fd);
			f = atomic_load_explicit(&fd_table[fd], memory_order_relaxed);
		} else if (atomic_compare_exchange_weak_explicit(&fd_table[fd], &f, NULL, memory_order_acq_rel,
								 memory_order_relaxed)) {
			break;
		}
	}
	return f;
}

void fd_forget(int fd)
{
	if ((unsigned)fd < FD_MAX && atomic_load_explicit(&fd_table[fd], memory_order_relaxed))
		drop(fd, atomic_exchange_explicit(&fd_table[fd], NULL, memory_order_acq_rel));
}

int fd_top(void)
{
	return atomic_load_explicit(&fd_highest, memory_order_relaxed);
}

int fd_find(const struct file *f)
{
	int highest = atomic_load_explicit(&fd_highest, memory_order_relaxed);

	for (int i = 0; i <= highest; i++)
		if (atomic_load_explicit(&fd_table[i], memory_order_relaxed) == f)
			return i;
	return -1;
}

bool fd_in_vfork(void)
{
	return (pid_t)syscall(SYS_getpid) != atomic_load_explicit(&fd_owner, memory_order_relaxed);
}
