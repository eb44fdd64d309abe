/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Receiving and sending on an adopted socket, with the meaning of recv() and send(). */
#ifndef PRELOAD_IO_H
#define PRELOAD_IO_H

#include "preload/sock.h"

/* Return bytes, or -1 with errno. Block as the socket and @flags say. */
ssize_t io_recv(struct sock *s, const struct iovec *iov, int cnt, int flags);
ssize_t io_send(struct sock *s, const struct iovec *iov, int cnt, int flags);

static inline size_t iov_total(const struct iovec *iov, int cnt)
{
	size_t n = 0;

	for (int i = 0; i < cnt; i++)
		n += iov[i].iov_len;
	return n;
}

#endif
