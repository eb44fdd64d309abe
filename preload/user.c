/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checks of pointers that the application passes. Place in a packet's way: before each copy
 * to or from the application. Any thread, each with a small table of memory it has found good.
 *
 * A copy that faults cannot be turned into EFAULT without a handler of SIGSEGV, and that signal
 * is the application's. So the kernel is asked beforehand, once: what it says holds for the
 * whole mapping (PROCMAP_QUERY), as heap, stacks and arenas are few and large. Where it cannot
 * say that (older kernels, files, mappings without number), for the pages of this one copy, by
 * having them faulted in as the access would. Memory that was good and is unmapped or protected
 * later faults as any access does: nobody takes away a buffer that he goes on using.
 */
#define _GNU_SOURCE 1
#include "preload/user.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "service/base/compiler.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

#define PAGE 4096u
#define KNOWN 16 /* ranges a thread remembers */
#define LOOKS 64 /* mappings a thread asks for; one that uses more is better off page by page */

/* PROCMAP_QUERY of linux/fs.h, from Linux 6.11 on */
struct map_query {
	uint64_t size, flags, addr, start, end, vma_flags, page_size, offset, inode;
	uint32_t dev_major, dev_minor, name_size, build_id_size;
	uint64_t name_addr, build_id_addr;
};
#define MAP_QUERY _IOWR('f', 17, struct map_query)
#define MAP_READABLE 1u
#define MAP_WRITABLE 2u

struct range {
	uintptr_t from, to;
	bool write;
};

_Atomic bool user_confined;

static __thread struct range known[KNOWN] __attribute__((tls_model("initial-exec")));
static __thread uint32_t known_next __attribute__((tls_model("initial-exec")));
static __thread uint32_t looks __attribute__((tls_model("initial-exec")));

/* A signal handler may come in between: an entry is never half of one and half of another. */
static void learn(uintptr_t from, uintptr_t to, bool write)
{
	struct range *r = &known[known_next++ % KNOWN];

	r->to = 0;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	r->from = from;
	r->write = write;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	r->to = to;
}

/* Does this kernel know the request? Asked of memory that is there. */
static bool is_supported(int advice)
{
	char here = 0;
	uintptr_t page = (uintptr_t)&here & ~(uintptr_t)(PAGE - 1);

	return !madvise((void *)page, PAGE, advice); /* NOLINT: any byte of the page will do */
}

static bool ask_pages(uintptr_t from, uintptr_t to, bool write)
{
	int advice = write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ, err;

	from &= ~(uintptr_t)(PAGE - 1);
	to = (to + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
	err = madvise((void *)from, to - from, advice) ? errno : 0;
	if (!err)
		learn(from, to, write);
	return !err || err == EAGAIN || err == EINTR || (err == EINVAL && !is_supported(advice));
}

/* The whole mapping around the area, if it is one of anonymous memory. */
static bool ask_mapping(uintptr_t from, uintptr_t to, bool write)
{
	struct map_query q = {.size = sizeof(q), .addr = from};
	uint64_t need = MAP_READABLE | (write ? MAP_WRITABLE : 0);
	int fd;
	bool ok;

	if (looks >= LOOKS)
		return false;
	looks++;
	fd = (int)syscall(SYS_openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ok = !syscall(SYS_ioctl, fd, MAP_QUERY, &q) && !q.inode && (q.vma_flags & need) == need && q.start <= from &&
	     to <= q.end;
	syscall(SYS_close, fd);
	if (ok)
		learn((uintptr_t)q.start, (uintptr_t)q.end, q.vma_flags & MAP_WRITABLE);
	return ok;
}

static bool ask(uintptr_t from, uintptr_t to, bool write)
{
	int saved = errno;
	bool ok = !user_is_confined() && (ask_mapping(from, to, write) || ask_pages(from, to, write));

	errno = saved;
	return ok;
}

static inline bool is_good(const void *p, size_t len, bool write)
{
	uintptr_t from = (uintptr_t)p, to = from + len;

	if (!len)
		return true;
	for (int i = 0; i < KNOWN; i++)
		if (from >= known[i].from && to <= known[i].to && to > from && (known[i].write || !write))
			return true;
	return user_in_range(p, len) && ask(from, to, write);
}

bool user_readable(const void *p, size_t len)
{
	return is_good(p, len, false);
}

bool user_writable(const void *p, size_t len)
{
	return is_good(p, len, true);
}
