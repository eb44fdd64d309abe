/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A receive that would sleep inside the kernel's socket sleeps outside of it (outside.c). */
#ifndef PRELOAD_OUTSIDE_H
#define PRELOAD_OUTSIDE_H

#include "preload/sock.h"

/*
 * A receive with @flags (MSG_*) is about to be made in the kernel, between sock_begin(), which said IO_LINUX, and
 * sock_end(): waits first until it will not sleep, where that is of use. Returns how it goes on: IO_LINUX, by descriptor
 * *@fd; IO_FAST; or IO_FAIL, errno is set.
 */
enum io outside_wait(struct sock *s, int *fd, int flags);

#endif
