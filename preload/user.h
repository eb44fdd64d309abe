/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* May memory that the application names be touched? What the kernel would answer with EFAULT must not crash. */
#ifndef PRELOAD_USER_H
#define PRELOAD_USER_H

#include <stdbool.h>
#include <stddef.h>

/* Keep errno. One look into a small table of pages if the thread has used the memory before. Async-signal-safe. */
bool user_readable(const void *p, size_t len);
bool user_writable(const void *p, size_t len);

#endif
