/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which of the application's descriptors we know: TCP sockets, epoll instances, and our own.
 * An entry points to an open file description (struct file), which duplicates share.
 *
 * Looking up a descriptor that is not ours is one load. Memory of files is never unmapped
 * and keeps its type, so a pointer read from the table can be tried for a reference.
 */
#ifndef PRELOAD_FD_H
#define PRELOAD_FD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "preload/lock.h"

#define FD_MAX (1 << 20)

/* LENT: the parent's epoll instance, in a forked child (lend.c). */
enum file_type { FILE_OWN, FILE_SOCK, FILE_EPOLL, FILE_LENT };

struct file {
	enum file_type type;
	_Atomic uint64_t refs; /* low half: descriptors, and threads; high half: those inside an I/O call */
	_Atomic uint32_t fds;  /* descriptors */
};

/* An entry may be no pointer, but a word that says all of a connection in its first exchanges (brief.h). */
#define BRIEF_BIT 1ul
static inline bool fd_is_brief(const struct file *f)
{
	return (uintptr_t)f & BRIEF_BIT;
}

#define FILE_REF 1ull
#define FILE_CALL (1ull << 32) /* a thread that may be in a kernel call on a socket: it is not adopted under it */

extern _Atomic(struct file *) fd_table[FD_MAX];
extern _Atomic uint32_t *fd_here; /* 1; a forked child sees 0 */

/* Objects of one size, from anonymous memory; never given back. */
struct pool {
	struct lock lock;
	uint32_t size;
	void *free; /* linked through their last word, which is kept for that: `pool_link` */
	char *chunk;
	size_t left;
};
void *pool_get(struct pool *p); /* zeroed the first time, later as it was put; or NULL */
void pool_put(struct pool *p, void *object);

/*
 * In a forked child: forget every descriptor but the sockets. With @at_fork, when no other can have their numbers yet,
 * the library's own are left in the table, for fd_close_own(). Who needs one of the parent's any longer takes it out.
 */
void fd_child(bool at_fork);
void fd_close_own(void);
void sock_child(bool at_fork); /* track.c: and everything else */

struct file *file_try(int fd, uint64_t add);
void file_free(struct file *f);   /* last reference is gone */
void file_closed(struct file *f); /* last descriptor is gone */

/* The file of @fd with @add more on refs, or NULL if it is none of ours. A full fence if it is. */
static inline struct file *file_get_more(int fd, uint64_t add)
{
	if ((unsigned)fd >= FD_MAX || !atomic_load_explicit(&fd_table[fd], memory_order_relaxed))
		return NULL;
	return file_try(fd, add);
}

/* The file of @fd with a reference, or NULL if it is none of ours. */
static inline struct file *file_get(int fd)
{
	return file_get_more(fd, FILE_REF);
}

/* Is @fd in the table at all? */
static inline bool file_get_any(int fd)
{
	return (unsigned)fd < FD_MAX && atomic_load_explicit(&fd_table[fd], memory_order_relaxed);
}

static inline void file_put_more(struct file *f, uint64_t n)
{
	/* pairs with the reference taken in file_try(): the last one sees all uses done */
	if (atomic_fetch_sub_explicit(&f->refs, n, memory_order_acq_rel) == n)
		file_free(f);
}

static inline void file_put(struct file *f)
{
	file_put_more(f, FILE_REF);
}

/* Is it a descriptor of the library itself? */
bool fd_is_own(int fd);
/* Enter @f under @fd, replacing (and closing) what is there. The caller's reference is kept by the caller. */
void fd_set_file(int fd, struct file *f);
/* The same for a file that nobody knows yet; the caller keeps @refs references. @fd is less than FD_MAX. */
void fd_set_new(int fd, struct file *f, uint64_t refs);
/* The same for the word of a brief connection. */
void fd_set_brief(int fd, uint64_t word);
/* Take @fd out of the table. */
void fd_forget(int fd);
/* The same; what the entry held is the caller's: file_lose(), then file_put(). NULL: it is none of ours. */
struct file *fd_take(int fd);
/* @f has a descriptor less. Returns true if that was its last one: then it has been told, file_closed(). */
bool file_lose(struct file *f);
/* The same, but the caller calls file_closed(). */
bool file_lose_one(struct file *f);
/* The highest descriptor that was ever in the table, or -1. */
int fd_top(void);
/* A descriptor of @f, or -1. */
int fd_find(const struct file *f);
/* Is the caller a child that works in its parent's memory? A system call. */
bool fd_in_vfork(void);
/* The same without a system call (vfork.c), but a child from a raw clone(CLONE_VM) is not known. */
bool fd_maybe_vfork(void);
void fd_start(void); /* once, before the first entry */

#endif
