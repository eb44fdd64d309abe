/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checks of pointers that the application passes. Not in a packet's way. Any thread, each with
 * a small table of pages it has found good.
 *
 * The kernel is asked to fault the pages in as an access would. A page that was good and is
 * unmapped later faults as any access does: nobody unmaps a buffer that he goes on using.
 */
#define _GNU_SOURCE 1
#include "preload/user.h"

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>

#include "service/base/compiler.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

#define PAGE 4096u
#define KNOWN 16

static __thread uintptr_t known[2][KNOWN]; /* page number + 1 */

/* Does this kernel know the request? Asked of memory that is there. */
static bool is_supported(int advice)
{
	char here = 0;
	uintptr_t page = (uintptr_t)&here & ~(uintptr_t)(PAGE - 1);

	return !madvise((void *)page, PAGE, advice); /* NOLINT: any byte of the page will do */
}

static bool ask(uintptr_t first, uintptr_t last, bool write)
{
	int advice = write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ, saved = errno, err;

	err = madvise((void *)(first * PAGE), (last - first + 1) * PAGE, advice) ? errno : 0;
	errno = saved;
	if (!err || err == EAGAIN || err == EINTR)
		return true;
	if (err == EINVAL && !is_supported(advice)) {
		errno = saved;
		return true;
	}
	return false;
}

static bool is_good(const void *p, size_t len, bool write)
{
	uintptr_t from = (uintptr_t)p, first = from / PAGE, last = (from + len - 1) / PAGE, *k = known[write];
	bool all = true;

	if (!len)
		return true;
	if (from + len < from || (from + len) >> 47)
		return false;
	for (uintptr_t i = first; i <= last && all; i++)
		all = k[i % KNOWN] == i + 1;
	if (likely(all))
		return true;
	if (!ask(first, last, write))
		return false;
	for (uintptr_t i = first; i <= last; i++)
		k[i % KNOWN] = i + 1;
	return true;
}

bool user_readable(const void *p, size_t len)
{
	return is_good(p, len, false);
}

bool user_writable(const void *p, size_t len)
{
	return is_good(p, len, true);
}
