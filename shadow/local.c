/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connections both ends of which are sockets of this host: what Linux knows of either end. The kernel sockets stay
 * connected with each other while the bytes go through memory, and bring each other their FINs and resets. No privilege
 * is needed for any of this. Main thread.
 */
#include "shadow/shadow.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "service/base/compiler.h"
#include "shadow/sock.h"

#define LOCAL_ROOM (16 << 20) /* twice what two buffers hold at most, with what Linux counts beside the bytes */

int sock_local_examine(int fd, struct sock_state *st)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof info;

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) || info.tcpi_state != TCP_STATE_ESTABLISHED)
		return -EBADFD;
	st->ts = info.tcpi_options & TCPI_OPT_TIMESTAMPS;
	st->sack = info.tcpi_options & TCPI_OPT_SACK;
	st->wscale = info.tcpi_options & TCPI_OPT_WSCALE;
	st->snd_wscale = st->wscale ? info.tcpi_snd_wscale : 0;
	st->rcv_wscale = st->wscale ? info.tcpi_rcv_wscale : 0;
	st->srtt_us = info.tcpi_rtt;
	st->rttvar_us = info.tcpi_rttvar;
	st->mss = (uint16_t)MIN(info.tcpi_snd_mss, 65535u);
	st->sndbuf = (uint32_t)sock_buffer_set(fd, SO_SNDBUF);
	st->rcvbuf = (uint32_t)sock_buffer_set(fd, SO_RCVBUF);
	return 0;
}

enum sock_end sock_end_look(const struct flow_key *key, uint64_t cookie)
{
	struct sock_diag d;

	if (sock_diag_any(key, &d) || d.cookie != cookie)
		return SOCK_END_GONE;
	if (d.state == TCP_STATE_TIME_WAIT) /* it has no inode, whether or not the socket is held */
		return SOCK_END_OVER;
	if (!d.inode)
		return SOCK_END_LEFT;
	if (d.state != TCP_STATE_ESTABLISHED && d.state != TCP_STATE_CLOSE_WAIT)
		return SOCK_END_SHUT;
	/* a FIN that nobody has read counts as one */
	return d.unread > (d.state == TCP_STATE_CLOSE_WAIT) ? SOCK_END_STRAY : SOCK_END_OPEN;
}

ssize_t sock_local_write(int fd, const struct iovec *iov, int cnt)
{
	struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)cnt};
	ssize_t n;

	do
		n = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? (errno == EAGAIN ? 0 : -errno) : n;
}

ssize_t sock_local_write_all(int fd, const struct iovec *iov, int cnt)
{
	int size = 0, locks = 0, more = LOCAL_ROOM;
	socklen_t len = sizeof size, locks_len = sizeof locks;
	bool known = !getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &len) &&
		     !getsockopt(fd, SOL_SOCKET, SOCK_BUF_LOCK, &locks, &locks_len);
	ssize_t n;

	if (known && setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &more, sizeof more))
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &more, sizeof more); /* as far as an ordinary user may */
	n = sock_local_write(fd, iov, cnt);
	if (!known)
		return n;
	size /= 2; /* Linux doubles it */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size))
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
	setsockopt(fd, SOL_SOCKET, SOCK_BUF_LOCK, &locks, sizeof locks);
	return n;
}

bool sock_local_is_shut_rd(int fd, int state)
{
	struct pollfd p = {.fd = fd, .events = POLLRDHUP};

	return (state == TCP_STATE_ESTABLISHED || state == TCP_STATE_FIN_WAIT1 || state == TCP_STATE_FIN_WAIT2) &&
	       poll(&p, 1, 0) > 0 && p.revents & POLLRDHUP;
}

bool sock_has_error(int fd)
{
	struct pollfd p = {.fd = fd};

	return poll(&p, 1, 0) > 0 && p.revents & POLLERR;
}

void sock_local_reset(int fd)
{
	struct sockaddr none = {.sa_family = AF_UNSPEC};

	connect(fd, &none, sizeof none);
}

int sock_local_strays(int fd, uint8_t **out)
{
	int queued = 0, got = 0;
	uint8_t *buf;

	*out = NULL;
	if (ioctl(fd, FIONREAD, &queued) || queued <= 0)
		return 0;
	buf = malloc((size_t)queued);
	if (!buf)
		return -ENOMEM;
	while (got < queued) {
		ssize_t n = recv(fd, buf + got, (size_t)(queued - got), MSG_DONTWAIT);

		if (n <= 0)
			break;
		got += (int)n;
	}
	*out = buf;
	return got;
}
