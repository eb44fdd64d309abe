/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A receive that would sleep inside the kernel's socket sleeps outside of it (outside.c). */
#ifndef PRELOAD_OUTSIDE_H
#define PRELOAD_OUTSIDE_H

#include <sys/single_threaded.h>

#include "preload/share.h"

/*
 * A receive with @flags (MSG_*) is about to be made in the kernel, between sock_begin(), which said IO_LINUX, and
 * sock_end(): waits first until it will not sleep, where that is of use. Returns how it goes on: IO_LINUX, by descriptor
 * *@fd; IO_FAST; or IO_FAIL, errno is set.
 */
enum io outside_wait_slow(struct sock *s, int *fd, int flags);
static inline enum io outside_wait(struct sock *s, int *fd, int flags)
{
	return likely(__libc_single_threaded && !share_is(s)) ? IO_LINUX : outside_wait_slow(s, fd, flags);
}

#endif
