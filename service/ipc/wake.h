/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Waking an application that sleeps on an eventfd of ours, without ever sleeping ourselves.
 *
 * The application holds the same open file as we do: it may fill the counter and take
 * O_NONBLOCK away, and a plain write() would then sleep for as long as it likes. What the
 * kernel does at the end of an asynchronous read (IOCB_FLAG_RESFD) only adds to the counter,
 * and stops adding when it is full.
 *
 * One struct waker per thread; its functions are called by that thread alone.
 */
#ifndef SERVICE_IPC_WAKE_H
#define SERVICE_IPC_WAKE_H

#include <stdint.h>

struct waker {
	unsigned long aio; /* context of asynchronous reads, 0: none */
	int null_fd;
	uint32_t waiting;
};

/* Returns 0 or -errno (-EAGAIN: fs.aio-max-nr is used up); waker_close() in either case. */
int waker_open(struct waker *w);
void waker_close(struct waker *w);
/* Add one to the counter of eventfd @fd, if it has room. */
void waker_wake(struct waker *w, int fd);

#endif
