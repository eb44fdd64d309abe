/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Waking applications: fast threads at the end of a turn, the main thread when it answers in a
 * slot. Each wake is an asynchronous read of nothing from /dev/null that ends at once, and whose
 * end the kernel counts in the application's eventfd. Nothing here sleeps.
 */
#include "service/ipc/wake.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define WAKE_EVENTS 32 /* completions that may wait to be fetched */

int waker_open(struct waker *w)
{
	aio_context_t aio = 0;

	w->aio = 0;
	w->waiting = 0;
	w->null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (w->null_fd < 0)
		return -errno;
	if (syscall(SYS_io_setup, WAKE_EVENTS, &aio))
		return -errno;
	w->aio = aio;
	return 0;
}

void waker_close(struct waker *w)
{
	if (w->aio)
		syscall(SYS_io_destroy, w->aio);
	if (w->null_fd >= 0)
		close(w->null_fd);
	w->aio = 0;
	w->null_fd = -1;
}

void waker_wake(struct waker *w, int fd)
{
	struct iocb cb = {
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_fildes = (uint32_t)w->null_fd,
		.aio_flags = IOCB_FLAG_RESFD,
		.aio_resfd = (uint32_t)fd,
	};
	struct io_event done[WAKE_EVENTS];
	struct iocb *list = &cb;

	if (w->waiting == WAKE_EVENTS) {
		syscall(SYS_io_getevents, w->aio, 0l, (long)WAKE_EVENTS, done, (struct timespec *)NULL);
		w->waiting = 0;
	}
	if (syscall(SYS_io_submit, w->aio, 1l, &list) == 1)
		w->waiting++;
}
