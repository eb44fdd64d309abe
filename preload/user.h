/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* May memory that the application names be touched? What the kernel would answer with EFAULT must not crash. */
#ifndef PRELOAD_USER_H
#define PRELOAD_USER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The process has confined itself (sandbox.c): what the program does not do itself may end it, so the library makes no
 * system call of its own any more. It stays set. Children have it too.
 */
extern _Atomic bool user_confined;
static inline bool user_is_confined(void)
{
	return atomic_load_explicit(&user_confined, memory_order_relaxed);
}

/* Keep errno. A look into a small table if the thread has used the memory before. Async-signal-safe. */
bool user_readable(const void *p, size_t len);
bool user_writable(const void *p, size_t len);

#define USER_SIGSET 8 /* bytes of a signal mask that the kernel reads */

/* What Linux checks before it looks at anything that is waited for. @mask may be NULL. */
static inline bool user_mask_ok(const void *mask)
{
	return !mask || user_readable(mask, USER_SIGSET);
}

#define USER_TOP ((1ull << 47) - 4096) /* of an application's addresses */

/* What the kernel checks of a buffer before it does anything: that it lies in the application's half of the world. */
static inline bool user_in_range(const void *p, size_t len)
{
	uint64_t from = (uintptr_t)p;

	return len <= USER_TOP && from <= USER_TOP - len;
}

#endif
