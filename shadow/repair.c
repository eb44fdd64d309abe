/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The exact state of a live kernel connection and copies of its queues, by TCP_REPAIR. Main
 * thread; a few microseconds each, nothing blocks.
 *
 * A socket is never left in repair mode: every way out goes through repair_leave(). Repair
 * overwrites SO_REUSEADDR, so that is kept and put back. Frames are kept out of the socket
 * meanwhile by its filter and by the map of flows; one that was already inside (in the
 * socket's backlog) shows as a change between two readings, or in the heartbeat's answer.
 */
#include "shadow/shadow.h"

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "service/base/compiler.h"
#include "service/ipc/abi.h"
#include "service/tcp/seq.h"

#define REPAIR_TRIES 4
#define REPAIR_OPT_USEC_TS 64   /* TCPI_OPT_USEC_TS: timestamps count microseconds (a route's feature) */
#define REPAIR_PART_ACKED 65536 /* bytes of a segment that was acknowledged in part */

/* What must be the same in two readings in a row. */
struct repair_counts {
	uint32_t rcv_nxt, write_seq;
	int unacked, unsent, queued;
	struct tcp_repair_window window;
};

static int repair_set(int fd, int name, int v)
{
	return setsockopt(fd, IPPROTO_TCP, name, &v, sizeof v) ? -errno : 0;
}

static int repair_get(int fd, int name, void *v, socklen_t size)
{
	socklen_t len = size;

	if (getsockopt(fd, IPPROTO_TCP, name, v, &len))
		return -errno;
	return len == size ? 0 : -EINVAL;
}

static int repair_enter(int fd, int *reuse)
{
	socklen_t len = sizeof *reuse;

	if (getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, reuse, &len))
		return -errno;
	return repair_set(fd, TCP_REPAIR, TCP_REPAIR_ON);
}

/* @how: TCP_REPAIR_OFF_NO_WP, or TCP_REPAIR_OFF to send a window probe. */
static int repair_leave(int fd, int reuse, int how)
{
	int rc;

	repair_set(fd, TCP_REPAIR_QUEUE, TCP_NO_QUEUE);
	rc = repair_set(fd, TCP_REPAIR, how);
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse) && !rc)
		rc = -errno;
	return rc;
}

static int repair_seq(int fd, int queue, uint32_t *seq)
{
	int rc = repair_set(fd, TCP_REPAIR_QUEUE, queue);

	return rc ? rc : repair_get(fd, TCP_QUEUE_SEQ, seq, sizeof *seq);
}

static int repair_read_counts(int fd, struct repair_counts *c)
{
	int rc;

	memset(c, 0, sizeof *c);
	rc = repair_seq(fd, TCP_RECV_QUEUE, &c->rcv_nxt);
	if (!rc)
		rc = repair_seq(fd, TCP_SEND_QUEUE, &c->write_seq);
	if (!rc)
		rc = repair_get(fd, TCP_REPAIR_WINDOW, &c->window, sizeof c->window);
	if (!rc &&
	    (ioctl(fd, SIOCOUTQ, &c->unacked) || ioctl(fd, SIOCOUTQNSD, &c->unsent) || ioctl(fd, FIONREAD, &c->queued)))
		rc = -errno;
	return rc;
}

/* The counts, read until two readings agree. */
static int repair_read_stable(int fd, struct repair_counts *c)
{
	struct repair_counts again;
	int rc = repair_read_counts(fd, c);

	for (unsigned i = 0; !rc && i < REPAIR_TRIES; i++) {
		rc = repair_read_counts(fd, &again);
		if (rc || !memcmp(c, &again, sizeof again))
			return rc;
		*c = again;
	}
	return rc ? rc : -EAGAIN;
}

static struct tcp_counts repair_counts(const struct tcp_info *info)
{
	return (struct tcp_counts){
		.bytes_retrans = info->tcpi_bytes_retrans,
		.segs_in = info->tcpi_segs_in,
		.segs_out = info->tcpi_segs_out,
		.data_segs_in = info->tcpi_data_segs_in,
		.data_segs_out = info->tcpi_data_segs_out,
		.retransmits = info->tcpi_total_retrans,
		.sent_ms = info->tcpi_last_data_sent,
		.received_ms = info->tcpi_last_data_recv,
		.heard_ms = info->tcpi_last_ack_recv,
	};
}

static int repair_read_info(int fd, struct sock_state *st)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof info;

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len))
		return -errno;
	if (info.tcpi_state != TCP_STATE_ESTABLISHED)
		return IPC_REASON_STATE;
	if ((info.tcpi_options & REPAIR_OPT_USEC_TS) && (info.tcpi_options & TCPI_OPT_TIMESTAMPS))
		return IPC_REASON_OPTIONS;
	st->ts = info.tcpi_options & TCPI_OPT_TIMESTAMPS;
	st->sack = info.tcpi_options & TCPI_OPT_SACK;
	st->ecn = info.tcpi_options & TCPI_OPT_ECN;
	st->wscale = info.tcpi_options & TCPI_OPT_WSCALE;
	st->snd_wscale = info.tcpi_options & TCPI_OPT_WSCALE ? info.tcpi_snd_wscale : 0;
	st->rcv_wscale = info.tcpi_options & TCPI_OPT_WSCALE ? info.tcpi_rcv_wscale : 0;
	st->mss = (uint16_t)MIN(info.tcpi_snd_mss, 65535u);
	st->srtt_us = info.tcpi_rtt;
	st->rttvar_us = info.tcpi_rttvar;
	st->bytes_sent = info.tcpi_bytes_sent;
	st->bytes_acked = info.tcpi_bytes_acked;
	st->bytes_received = info.tcpi_bytes_received;
	st->counts = repair_counts(&info);
	return 0;
}

/* Is an urgent byte there that the application has not taken? Only this socket tells it where. */
static bool repair_is_urgent(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLPRI};

	return poll(&p, 1, 0) > 0 && p.revents & POLLPRI;
}

static int repair_read(int fd, struct sock_state *st)
{
	socklen_t len = sizeof st->congestion;
	struct repair_counts c;
	int rc = repair_is_urgent(fd) ? IPC_REASON_URGENT : repair_read_info(fd, st);

	if (!rc)
		rc = repair_get(fd, TCP_TIMESTAMP, &st->ts_now, sizeof st->ts_now);
	if (!rc && getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, st->congestion, &len))
		rc = -errno;
	st->congestion[sizeof st->congestion - 1] = 0;
	if (!rc)
		rc = repair_read_stable(fd, &c);
	if (rc)
		return rc;
	st->rcv_nxt = c.rcv_nxt;
	st->write_seq = c.write_seq;
	st->snd_una = c.write_seq - (uint32_t)c.unacked;
	st->snd_nxt = c.write_seq - (uint32_t)c.unsent;
	st->rcv_queued = (uint32_t)c.queued;
	st->snd_wnd = c.window.snd_wnd;
	st->snd_wl1 = c.window.snd_wl1;
	st->max_window = c.window.max_window;
	st->rcv_wnd = c.window.rcv_wnd;
	st->rcv_wup = c.window.rcv_wup;
	st->sndbuf = (uint32_t)sock_buffer_set(fd, SO_SNDBUF) / 2;
	st->rcvbuf = (uint32_t)sock_buffer_set(fd, SO_RCVBUF) / 2;
	if (c.unsent < 0 || c.unacked < c.unsent || c.queued < 0 || seq_gt(st->rcv_wup, st->rcv_nxt))
		return -EAGAIN;
	return 0;
}

int sock_buffer_set(int fd, int name)
{
	int size = 0, lock = 0, bit = name == SO_SNDBUF ? 1 : 2; /* Linux's SOCK_SNDBUF_LOCK, SOCK_RCVBUF_LOCK */
	socklen_t len = sizeof lock;

	if (getsockopt(fd, SOL_SOCKET, SOCK_BUF_LOCK, &lock, &len) || !(lock & bit))
		return 0;
	len = sizeof size;
	return getsockopt(fd, SOL_SOCKET, name, &size, &len) || size < 0 ? 0 : size;
}

int sock_state_read(int fd, struct sock_state *st)
{
	int reuse, rc = repair_enter(fd, &reuse), left;

	if (rc)
		return rc;
	rc = repair_read(fd, st);
	left = repair_leave(fd, reuse, TCP_REPAIR_OFF_NO_WP);
	return rc ? rc : left;
}

int sock_make_speak(int fd)
{
	int reuse, rc = repair_enter(fd, &reuse);

	return rc ? rc : repair_leave(fd, reuse, TCP_REPAIR_OFF);
}

/* ---- queues: at most as long as the buffer, and copied to its offset 0, so they never wrap ---- */

static int peek(int fd, struct iovec *iov, unsigned n, ssize_t want)
{
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n};
	ssize_t got = recvmsg(fd, &msg, MSG_PEEK | MSG_DONTWAIT);

	if (got < 0)
		return -errno;
	return got == want ? 0 : -EAGAIN;
}

int sock_peek_received(int fd, uint8_t *buf, uint32_t size, uint32_t len)
{
	struct iovec iov = {buf, len};

	if (!len)
		return 0;
	if (len > size)
		return -ENOBUFS;
	return peek(fd, &iov, 1, len);
}

/*
 * Linux gives its send queue whole or not at all, and whole segments: one that was
 * acknowledged in part comes from its beginning. How much that is shows only by trying with
 * more room, which a second try then skips.
 */
static int peek_send_queue(int fd, uint8_t *buf, uint32_t len)
{
	static uint8_t before[REPAIR_PART_ACKED];
	struct iovec iov[2] = {{buf, len}, {before, sizeof before}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
	int rc = repair_set(fd, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE);
	ssize_t got;

	if (rc)
		return rc;
	got = recvmsg(fd, &msg, MSG_PEEK | MSG_DONTWAIT);
	if (got < 0)
		return errno == EFAULT ? -EAGAIN : -errno;
	if ((size_t)got < len || (size_t)got - len > sizeof before)
		return -EAGAIN;
	if ((size_t)got == len)
		return 0;
	iov[0] = (struct iovec){before, (size_t)got - len};
	iov[1] = (struct iovec){buf, len};
	return peek(fd, iov, 2, got);
}

int sock_peek_unacked(int fd, uint8_t *buf, uint32_t size, uint32_t len)
{
	int reuse, rc, left;

	if (!len)
		return 0;
	if (len > size)
		return -ENOBUFS;
	rc = repair_enter(fd, &reuse);
	if (rc)
		return rc;
	rc = peek_send_queue(fd, buf, len);
	left = repair_leave(fd, reuse, TCP_REPAIR_OFF_NO_WP);
	return rc ? rc : left;
}

int sock_tcp_state(int fd)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof info;

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) ? -errno : info.tcpi_state;
}

bool sock_has_acked(int fd)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof info;

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) || info.tcpi_bytes_acked;
}

int sock_peek_stray(int fd, uint32_t from, uint8_t **out)
{
	int unacked = 0, reuse, rc, left, state = sock_tcp_state(fd);
	/* a FIN of its own that is not acknowledged counts, but is no byte of the queue */
	bool fin = state == TCP_STATE_FIN_WAIT1 || state == TCP_STATE_CLOSING || state == TCP_STATE_LAST_ACK;
	uint32_t write_seq = 0, stray;
	uint8_t *buf;

	*out = NULL;
	if (ioctl(fd, SIOCOUTQ, &unacked))
		return 0;
	unacked -= fin;
	if (unacked <= 0)
		return 0;
	rc = repair_enter(fd, &reuse);
	if (rc)
		return rc;
	rc = repair_seq(fd, TCP_SEND_QUEUE, &write_seq);
	write_seq -= fin;
	stray = MIN(write_seq - from, (uint32_t)unacked);
	buf = !rc && seq_gt(write_seq, from) ? malloc((uint32_t)unacked) : NULL;
	if (buf)
		rc = peek_send_queue(fd, buf, (uint32_t)unacked);
	left = repair_leave(fd, reuse, TCP_REPAIR_OFF_NO_WP);
	if (rc || left || !buf) {
		free(buf);
		return rc ? rc : left;
	}
	memmove(buf, buf + ((uint32_t)unacked - stray), stray);
	*out = buf;
	return (int)stray;
}

int sock_discard_received(int fd, uint32_t len)
{
	while (len) {
		ssize_t n = recv(fd, NULL, len, MSG_TRUNC | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EAGAIN;
		len -= (uint32_t)n;
	}
	return 0;
}
