/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The socket's half of return: a live connection rebuilt in its own kernel socket, with the
 * numbers it has on the wire now. Main thread; nothing blocks, and no segment leaves before
 * sock_resume(). Descriptor, options and owner stay; nobody watches the socket meanwhile,
 * as its descriptor is in no kernel epoll and no thread blocks on it while it is FAST; and as
 * the socket stays in repair mode until sock_resume(), no write or shutdown of anybody
 * gets ahead of the bytes that were never sent.
 *
 * Under TCP_REPAIR the socket is disconnected (which says nothing to the peer), given its
 * sequence numbers, bound, connected, given its negotiated options, and then its queues:
 * unread bytes, and bytes that were sent and not acknowledged. What was never sent is written
 * in the ordinary way afterwards. A FIN that the peer has already seen is queued while in
 * repair, where it is not transmitted.
 *
 * What Linux does not take back by a socket option: the peer's last timestamp and the RTT
 * estimate, without which it waits three seconds before it sends a lost segment again. Both are
 * learned from one acknowledgement with timestamps; so that there is something to acknowledge,
 * one byte more, which the peer has long had, is queued as sent (sock_rebuild.echo). Not at
 * all: ECN, and both of these where timestamps were not negotiated.
 */
#include "shadow/shadow.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "service/base/addr.h"
#include "service/base/compiler.h"
#include "service/tcp/seq.h"

#define REBUILD_CHUNK 32768u
#define OPT_MSS 2 /* TCP option kinds (RFC 9293, 7323, 2018) */
#define OPT_WSCALE 3
#define OPT_SACK_PERMITTED 4
#define OPT_TIMESTAMP 8

static int rebuild_set(int fd, int name, int v)
{
	return setsockopt(fd, IPPROTO_TCP, name, &v, sizeof v) ? -errno : 0;
}

static int rebuild_seq(int fd, int queue, uint32_t seq)
{
	int rc = rebuild_set(fd, TCP_REPAIR_QUEUE, queue);

	return rc ? rc : rebuild_set(fd, TCP_QUEUE_SEQ, (int)seq);
}

static socklen_t rebuild_sockaddr(const struct ip_addr *a, uint16_t port, bool v6, struct sockaddr_storage *ss)
{
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ss;
	struct sockaddr_in *in4 = (struct sockaddr_in *)ss;

	memset(ss, 0, sizeof *ss);
	if (v6) { /* IPv4 in its mapped form, as everywhere here */
		in6->sin6_family = AF_INET6;
		in6->sin6_port = port;
		memcpy(&in6->sin6_addr, a, sizeof in6->sin6_addr);
		return sizeof *in6;
	}
	in4->sin_family = AF_INET;
	in4->sin_port = port;
	memcpy(&in4->sin_addr, (const uint8_t *)a + 12, sizeof in4->sin_addr);
	return sizeof *in4;
}

/*
 * Make room for @bytes of payload in a buffer of the socket, and leave no trace of it: a size
 * set by setsockopt() would end Linux's own tuning of it for good. One that the program has set comes back in
 * sock_resume().
 */
static void rebuild_room(int fd, int name, int force, uint32_t bytes)
{
	int now = 0, lock = 0, need = (int)MIN(bytes, 256u << 20) + (1 << 16);
	socklen_t len = sizeof now;

	if (getsockopt(fd, SOL_SOCKET, name, &now, &len) || now / 2 >= need)
		return;
	len = sizeof lock;
	if (getsockopt(fd, SOL_SOCKET, SOCK_BUF_LOCK, &lock, &len))
		lock = -1;
	setsockopt(fd, SOL_SOCKET, force, &need, sizeof need); /* Linux doubles it */
	if (lock >= 0)
		setsockopt(fd, SOL_SOCKET, SOCK_BUF_LOCK, &lock, sizeof lock);
}

/* Put @r into the queue that is selected. */
static int rebuild_push(int fd, const struct byte_range *r)
{
	uint32_t done = 0, chunk = REBUILD_CHUNK;

	while (done < r->len) {
		uint32_t at = (uint32_t)((r->off + done) & (r->size - 1));
		uint32_t n = MIN(MIN(r->len - done, r->size - at), chunk);
		ssize_t sent = send(fd, r->buf + at, n, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent > 0)
			done += (uint32_t)sent;
		else if (errno != EINTR && (errno != ENOMEM || (chunk /= 2) < 1024))
			return -errno;
	}
	return 0;
}

static int rebuild_connect(int fd, const struct sock_rebuild *r, uint32_t mss_clamp)
{
	struct sockaddr_storage local, remote, now = {0};
	socklen_t len = rebuild_sockaddr(&r->key.local, r->key.local_port, r->v6, &local), got = sizeof now;
	int rc;

	rc = rebuild_seq(fd, TCP_RECV_QUEUE, r->rcv_nxt - r->unread.len);
	if (!rc)
		rc = rebuild_seq(fd, TCP_SEND_QUEUE, r->snd_una - r->echo);
	if (rc)
		return rc;
	/* a socket that the application bound keeps its port and may not be bound again */
	if (bind(fd, (struct sockaddr *)&local, len)) {
		rc = -errno;
		if (rc != -EINVAL || getsockname(fd, (struct sockaddr *)&now, &got) ||
		    ((struct sockaddr_in *)&now)->sin_port != r->key.local_port)
			return rc;
	}
	/*
	 * connect() reckons the size of segments from this; what TCP_REPAIR_OPTIONS says later does not change it, and
	 * every segment would be one of 536 bytes for as long as the connection lives.
	 */
	rebuild_set(fd, TCP_MAXSEG, (int)mss_clamp);
	len = rebuild_sockaddr(&r->key.remote, r->key.remote_port, r->v6, &remote);
	rc = connect(fd, (struct sockaddr *)&remote, len) ? -errno : 0;
	rebuild_set(fd, TCP_MAXSEG, 0);
	return rc;
}

static int rebuild_options(int fd, struct sock_rebuild *r, uint32_t mss_clamp)
{
	struct tcp_repair_opt opt[4];
	unsigned n = 0;
	int rc;

	opt[n++] = (struct tcp_repair_opt){OPT_MSS, mss_clamp};
	if (r->snd_wscale || r->rcv_wscale || r->wscale)
		opt[n++] = (struct tcp_repair_opt){OPT_WSCALE, r->snd_wscale | (uint32_t)r->rcv_wscale << 16};
	if (r->sack)
		opt[n++] = (struct tcp_repair_opt){OPT_SACK_PERMITTED, 0};
	if (r->ts)
		opt[n++] = (struct tcp_repair_opt){OPT_TIMESTAMP, 0};
	if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, opt, n * sizeof opt[0]))
		return -errno;
	/* bit 0 chooses microseconds: round up, never back */
	r->ts_now = (r->ts_now + 1) & ~1u;
	rc = r->ts ? rebuild_set(fd, TCP_TIMESTAMP, (int)r->ts_now) : 0;
	return rc;
}

static int rebuild_queues(int fd, const struct sock_rebuild *r)
{
	struct tcp_repair_window w = {
		.snd_wl1 = r->snd_wl1,
		.snd_wnd = r->snd_wnd,
		.max_window = MAX(r->max_wnd, r->snd_wnd),
		.rcv_wnd = r->rcv_wnd,
		.rcv_wup = r->rcv_nxt,
	};
	int rc;

	/*
	 * Linux refuses a number beyond the window. It may be one: of a segment that came out of order when Linux's
	 * buffer, larger than the flow's, set the edge. A lower one only lets the window be updated sooner.
	 */
	if (seq_gt(w.snd_wl1, r->rcv_nxt + r->rcv_wnd))
		w.snd_wl1 = r->rcv_nxt;
	rebuild_room(fd, SO_RCVBUF, SO_RCVBUFFORCE, 2 * r->unread.len + r->rcv_wnd);
	rebuild_room(fd, SO_SNDBUF, SO_SNDBUFFORCE, r->sent.len + r->unsent.len + r->stray.len);
	rc = rebuild_set(fd, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE);
	if (!rc)
		rc = rebuild_push(fd, &r->unread);
	if (!rc)
		rc = setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, sizeof w) ? -errno : 0;
	if (!rc)
		rc = rebuild_set(fd, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE);
	if (!rc && r->echo && send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) != 1)
		rc = -EAGAIN;
	if (!rc)
		rc = rebuild_push(fd, &r->sent);
	if (!rc && r->fin_sent)
		rc = shutdown(fd, SHUT_WR) ? -errno : 0;
	return rc;
}

static uint32_t rebuild_mss(int fd)
{
	socklen_t len = sizeof(int);
	int mss = 0;

	/* in repair mode this is the MSS that the peer announced */
	return getsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &mss, &len) || mss <= 0 ? 536u : (uint32_t)mss;
}

bool sock_may_rebuild(int fd)
{
	/* of no meaning, which is said after the question of privilege */
	return rebuild_set(fd, TCP_REPAIR, 1000) == -EINVAL;
}

int sock_rebuild(int fd, struct sock_rebuild *r)
{
	struct sockaddr none = {.sa_family = AF_UNSPEC};
	socklen_t len = sizeof(int), clen = 16;
	char congestion[17] = "";
	uint32_t mss;
	int rc, error, repair = 0;

	if (getsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &repair, &len))
		return -errno;
	/* repair mode overwrites it, and so does leaving it */
	if (!repair) {
		if (getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &r->reuse, &len))
			return -errno;
		r->sndbuf = sock_buffer_set(fd, SO_SNDBUF);
		r->rcvbuf = sock_buffer_set(fd, SO_RCVBUF);
	}
	rc = rebuild_set(fd, TCP_REPAIR, TCP_REPAIR_ON);
	if (rc)
		return rc;
	if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, congestion, &clen))
		congestion[0] = 0;
	mss = r->mss_clamp ? r->mss_clamp : rebuild_mss(fd);
	if (connect(fd, &none, sizeof none) && errno != ENOTCONN)
		return -errno;
	len = sizeof error;
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len); /* the disconnection's own, nobody else's business */
	rc = rebuild_set(fd, TCP_REPAIR, TCP_REPAIR_ON);
	if (!rc)
		rc = rebuild_connect(fd, r, mss);
	if (!rc && congestion[0]) /* the route's, after connect() */
		setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, congestion, (socklen_t)strlen(congestion));
	if (!rc)
		rc = rebuild_options(fd, r, mss);
	if (!rc)
		rc = rebuild_queues(fd, r);
	rebuild_set(fd, TCP_REPAIR_QUEUE, TCP_NO_QUEUE); /* a write of anybody else fails now, and goes nowhere */
	if (rc)
		rebuild_set(fd, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
	return rc;
}

/* Write all of @r, growing the send buffer as needed. */
static int resume_write(int fd, const struct byte_range *r)
{
	struct byte_range left = *r;

	for (unsigned i = 0; left.len; i++) {
		uint32_t at = (uint32_t)(left.off & (left.size - 1)), n = MIN(left.len, left.size - at);
		ssize_t sent = send(fd, left.buf + at, n, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent > 0) {
			left.off += (uint32_t)sent;
			left.len -= (uint32_t)sent;
			i = 0;
		} else if (errno == EAGAIN && i < 8) {
			rebuild_room(fd, SO_SNDBUF, SO_SNDBUFFORCE, (8u << 20) << i);
		} else if (errno != EINTR || i > 100) {
			return -errno;
		}
	}
	return 0;
}

/* What the program has set; what is in the buffer beyond that stays there. */
static void rebuild_buffer(int fd, int force, int size)
{
	int half = size / 2; /* Linux doubles it */

	if (size)
		setsockopt(fd, SOL_SOCKET, force, &half, sizeof half);
}

int sock_resume(int fd, const struct sock_rebuild *r)
{
	int rc = rebuild_set(fd, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);

	if (!rc)
		rc = resume_write(fd, &r->unsent);
	if (!rc)
		rc = resume_write(fd, &r->stray);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &r->reuse, sizeof r->reuse);
	rebuild_buffer(fd, SO_SNDBUFFORCE, r->sndbuf);
	rebuild_buffer(fd, SO_RCVBUFFORCE, r->rcvbuf);
	if (!rc && r->closing && !r->fin_sent)
		rc = shutdown(fd, SHUT_WR) ? -errno : 0;
	return rc;
}
