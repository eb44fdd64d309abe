/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Programs that confine themselves with seccomp. */
#ifndef PRELOAD_SANDBOX_H
#define PRELOAD_SANDBOX_H

#include <stdbool.h>

/*
 * This process is about to install a filter of system calls: everything it has goes back to Linux, and the library is
 * out of its way from here on (user_confined). Keeps errno. Once; any thread.
 */
void sandbox_enter(void);
/* Does seccomp(@op, , @args) install one, unless it fails? */
bool sandbox_is_seccomp(unsigned op, const void *args);

#endif
