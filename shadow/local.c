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

static bool pair_info(int fd, struct tcp_info *info)
{
	socklen_t len = sizeof *info;
	struct pollfd p = {.fd = fd, .events = POLLPRI};

	return !getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &len) && len >= sizeof *info &&
	       info->tcpi_state == TCP_STATE_ESTABLISHED && !info->tcpi_notsent_bytes && poll(&p, 1, 0) == 0;
}

/* Acknowledgements may be delayed, so what counts is what has arrived. */
bool sock_pair_is_quiet(int a, int b)
{
	struct tcp_info ia = {0}, ib = {0};

	return pair_info(a, &ia) && pair_info(b, &ib) &&
	       ia.tcpi_bytes_sent - ia.tcpi_bytes_retrans == ib.tcpi_bytes_received &&
	       ib.tcpi_bytes_sent - ib.tcpi_bytes_retrans == ia.tcpi_bytes_received;
}

int sock_pair_counts(int fd, struct sock_state *st)
{
	struct tcp_info info = {0};
	int queued = 0;

	if (!pair_info(fd, &info) || ioctl(fd, FIONREAD, &queued))
		return -EBADFD;
	st->rcv_queued = (uint32_t)queued;
	st->bytes_sent = info.tcpi_bytes_sent;
	st->bytes_acked = info.tcpi_bytes_acked;
	st->bytes_received = info.tcpi_bytes_received;
	st->srtt_us = info.tcpi_rtt;
	st->rttvar_us = info.tcpi_rttvar;
	st->mss = (uint16_t)MIN(info.tcpi_snd_mss, 65535u);
	st->counts.bytes_retrans = info.tcpi_bytes_retrans;
	st->sndbuf = (uint32_t)sock_buffer_set(fd, SO_SNDBUF);
	st->rcvbuf = (uint32_t)sock_buffer_set(fd, SO_RCVBUF);
	return 0;
}

enum sock_end sock_end_look(const struct flow_key *key, uint64_t cookie)
{
	struct sock_diag d;

	if (sock_diag_any(key, &d))
		return SOCK_END_GONE;
	if (d.cookie != cookie) /* what is left of it after both FINs, or after its own, once nobody held it */
		return d.state == TCP_STATE_FIN_WAIT2 && !d.inode ? SOCK_END_LEFT : SOCK_END_GONE;
	if (!d.inode)
		return SOCK_END_LEFT;
	if (d.state != TCP_STATE_ESTABLISHED && d.state != TCP_STATE_CLOSE_WAIT)
		return SOCK_END_SHUT;
	/* a FIN that nobody has read counts as one */
	return d.unread > (d.state == TCP_STATE_CLOSE_WAIT) ? SOCK_END_STRAY : SOCK_END_OPEN;
}

ssize_t sock_pair_write(int fd, const struct iovec *iov, int cnt)
{
	struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)cnt};
	ssize_t n;

	do
		n = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? (errno == EAGAIN ? 0 : -errno) : n;
}

int sock_pair_strays(int fd, uint8_t **out)
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
