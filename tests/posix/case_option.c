// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Socket options on accelerated connections. One case for each option: its value, a new value,
 * the value then, and the connection still works. Then TCP_INFO, and wrong arguments.
 */
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/time.h>

#include "tests/posix/posix.h"

static char buf[1000];

enum {
	NO_DEFAULT = 1, /* depends on time or on buffers' growth */
	READ_ONLY = 2,
	NO_TALK = 4, /* what follows is another case's */
	URGENT = 8,
	LINUX = 16, /* the connection goes back to it */
	SIZE = 32,  /* and comes again */
};

static const struct option {
	const char *name;
	int level, opt, value;
	unsigned how;
} options[] = {
	{"SO_KEEPALIVE", SOL_SOCKET, SO_KEEPALIVE, 1, 0},
	{"SO_REUSEADDR", SOL_SOCKET, SO_REUSEADDR, 1, 0},
	{"SO_REUSEPORT", SOL_SOCKET, SO_REUSEPORT, 1, 0},
	{"SO_BROADCAST", SOL_SOCKET, SO_BROADCAST, 1, 0},
	{"SO_DONTROUTE", SOL_SOCKET, SO_DONTROUTE, 1, 0},
	{"SO_OOBINLINE", SOL_SOCKET, SO_OOBINLINE, 1, 0},
	{"SO_SNDBUF", SOL_SOCKET, SO_SNDBUF, 30000, NO_DEFAULT | SIZE},
	{"SO_RCVBUF", SOL_SOCKET, SO_RCVBUF, 30000, NO_DEFAULT | SIZE},
	{"SO_SNDBUFFORCE", SOL_SOCKET, SO_SNDBUFFORCE, 30000, NO_DEFAULT | SIZE},
	{"SO_RCVLOWAT", SOL_SOCKET, SO_RCVLOWAT, 3, 0},
	{"SO_SNDLOWAT", SOL_SOCKET, SO_SNDLOWAT, 3, 0},
	{"SO_PRIORITY", SOL_SOCKET, SO_PRIORITY, 3, 0},
	{"SO_MARK", SOL_SOCKET, SO_MARK, 0, 0},
	{"SO_TYPE", SOL_SOCKET, SO_TYPE, 0, READ_ONLY},
	{"SO_DOMAIN", SOL_SOCKET, SO_DOMAIN, 0, READ_ONLY},
	{"SO_PROTOCOL", SOL_SOCKET, SO_PROTOCOL, 0, READ_ONLY},
	{"SO_ACCEPTCONN", SOL_SOCKET, SO_ACCEPTCONN, 0, READ_ONLY},
	{"SO_ERROR", SOL_SOCKET, SO_ERROR, 0, READ_ONLY},
	{"SO_TIMESTAMP", SOL_SOCKET, SO_TIMESTAMP, 1, LINUX},
	{"SO_ZEROCOPY", SOL_SOCKET, SO_ZEROCOPY, 1, 0},
	{"SO_BUSY_POLL", SOL_SOCKET, SO_BUSY_POLL, 50, 0},
	{"SO_MAX_PACING_RATE", SOL_SOCKET, SO_MAX_PACING_RATE, 1000000, LINUX},
	{"SO_INCOMING_CPU", SOL_SOCKET, SO_INCOMING_CPU, 0, NO_DEFAULT},
	{"SO_NO_CHECK", SOL_SOCKET, SO_NO_CHECK, 1, 0},
	{"SO_PASSCRED", SOL_SOCKET, SO_PASSCRED, 1, 0},
	{"SO_RXQ_OVFL", SOL_SOCKET, SO_RXQ_OVFL, 1, 0},
	{"SO_LOCK_FILTER", SOL_SOCKET, SO_LOCK_FILTER, 0, 0},
	{"SO_ATTACH_FILTER", SOL_SOCKET, SO_ATTACH_FILTER, 0, READ_ONLY},
	{"SO_PEERCRED", SOL_SOCKET, SO_PEERCRED, 0, READ_ONLY},
	{"IP_TOS", IPPROTO_IP, IP_TOS, 0x10, 0},
	{"IP_TTL", IPPROTO_IP, IP_TTL, 33, 0},
	{"IP_MTU", IPPROTO_IP, IP_MTU, 0, READ_ONLY},
	{"IP_MTU_DISCOVER", IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO, 0},
	{"IP_RECVERR", IPPROTO_IP, IP_RECVERR, 1, 0},
	{"IP_FREEBIND", IPPROTO_IP, IP_FREEBIND, 1, 0},
	{"TCP_NODELAY", IPPROTO_TCP, TCP_NODELAY, 1, 0},
	{"TCP_CORK", IPPROTO_TCP, TCP_CORK, 1, 0},
	{"TCP_MAXSEG", IPPROTO_TCP, TCP_MAXSEG, 1000, 0},
	{"TCP_KEEPIDLE", IPPROTO_TCP, TCP_KEEPIDLE, 77, 0},
	{"TCP_KEEPINTVL", IPPROTO_TCP, TCP_KEEPINTVL, 7, 0},
	{"TCP_KEEPCNT", IPPROTO_TCP, TCP_KEEPCNT, 4, 0},
	{"TCP_SYNCNT", IPPROTO_TCP, TCP_SYNCNT, 3, 0},
	{"TCP_LINGER2", IPPROTO_TCP, TCP_LINGER2, 9, 0},
	{"TCP_DEFER_ACCEPT", IPPROTO_TCP, TCP_DEFER_ACCEPT, 1, 0},
	{"TCP_WINDOW_CLAMP", IPPROTO_TCP, TCP_WINDOW_CLAMP, 40000, NO_DEFAULT | LINUX},
	{"TCP_QUICKACK", IPPROTO_TCP, TCP_QUICKACK, 1, NO_DEFAULT},
	{"TCP_USER_TIMEOUT", IPPROTO_TCP, TCP_USER_TIMEOUT, 5000, 0},
	{"TCP_NOTSENT_LOWAT", IPPROTO_TCP, TCP_NOTSENT_LOWAT, 20000, 0},
	{"TCP_THIN_LINEAR_TIMEOUTS", IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 1, 0},
	{"TCP_FASTOPEN", IPPROTO_TCP, TCP_FASTOPEN, 5, 0},
	{"TCP_TIMESTAMP", IPPROTO_TCP, TCP_TIMESTAMP, 1, NO_DEFAULT | READ_ONLY},
	{"TCP_SAVE_SYN", IPPROTO_TCP, TCP_SAVE_SYN, 1, 0},
	{"TCP_REPAIR", IPPROTO_TCP, TCP_REPAIR, 0, READ_ONLY},
	{"TCP_ULP", IPPROTO_TCP, TCP_ULP, 0, READ_ONLY},
	{"TCP_INQ", IPPROTO_TCP, TCP_INQ, 1, 0},
	{"TCP_TX_DELAY", IPPROTO_TCP, TCP_TX_DELAY, 0, 0},
	{"no-such-option", IPPROTO_TCP, 250, 1, 0},
	{"no-such-level", 77, 1, 1, 0},
};
#define OPTIONS (sizeof(options) / sizeof(options[0]))

static void get_say(int fd, const struct option *o)
{
	int v[128] = {0}; /* a filter has its length in instructions */
	socklen_t len = 32;
	long ret = getsockopt(fd, o->level, o->opt, v, &len);

	if (ret)
		tell(ret, "get %s", o->name);
	else
		say("get %s: %d, length %d", o->name, o->opt == SO_PEERCRED && o->level == SOL_SOCKET ? 0 : v[0],
		    (int)len);
}

static void talk(const struct conn *c)
{
	tell(send(c->fd, "works", 5, 0), "send");
	peer_recv_say(c, 5);
	peer_text(c, "also");
	await_in(c->fd, 4);
	tell_data(read(c->fd, buf, 100), buf, "read");
}

static void one_option(void)
{
	const struct option *o = &options[this_case->a];
	struct conn *c = conn_open();

	if (!(o->how & NO_DEFAULT))
		get_say(c->fd, o);
	if (!(o->how & READ_ONLY)) {
		tell(setsockopt(c->fd, o->level, o->opt, &o->value, sizeof(o->value)), "set %s %d", o->name, o->value);
		get_say(c->fd, o);
	}
	talk(c);
}

/* ---- what options do ---- */

static void nodelay_off(void)
{
	struct conn *c = conn_open();

	for (int i = 0; i < 20; i++)
		if (send(c->fd, "0123456789", 10, 0) != 10)
			tell(-1, "send");
	peer_recv_say(c, 200);
}

static void cork(void)
{
	struct conn *c = conn_open();
	int on = 1, off = 0;

	tell(setsockopt(c->fd, IPPROTO_TCP, TCP_CORK, &on, sizeof(on)), "TCP_CORK 1");
	tell(send(c->fd, "held ", 5, 0), "send");
	tell(send(c->fd, "back", 4, 0), "send");
	tell(setsockopt(c->fd, IPPROTO_TCP, TCP_CORK, &off, sizeof(off)), "TCP_CORK 0");
	peer_recv_say(c, 9);
}

static void cork_holds(void)
{
	struct conn *c = conn_open();
	int on = 1;
	double start;

	tell(setsockopt(c->fd, IPPROTO_TCP, TCP_CORK, &on, sizeof(on)), "TCP_CORK 1");
	start = seconds();
	tell(send(c->fd, "alone", 5, 0), "send");
	peer_recv_say(c, 5);
	say("held for a while: %s", seconds() - start > 0.1 ? "yes" : "no");
}

static void notsent_lowat(void)
{
	struct conn *c = conn_nonblock();
	struct pollfd p = {.fd = c->fd, .events = POLLOUT};
	int low = 4000;
	int64_t total = 0;

	tell(setsockopt(c->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &low, sizeof(low)), "TCP_NOTSENT_LOWAT 4000");
	while (total < 20000000 && poll(&p, 1, 300) == 1) {
		ssize_t n = send(c->fd, buf, sizeof(buf), 0);

		if (n < 0)
			break;
		total += n;
	}
	peer(PEER_RECV, c, total, 0);
	tell(poll(&p, 1, 2000), "poll");
	say("%s", event_names((uint32_t)p.revents));
}

static void timeo_values(void)
{
	struct conn *c = conn_open();
	struct timeval t = {.tv_sec = 1, .tv_usec = 500000}, bad = {.tv_usec = 1000000}, got = {0};
	socklen_t len = sizeof(got);

	tell(setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)), "SO_RCVTIMEO 1.5 s");
	tell(getsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &got, &len), "get");
	say("%ld.%06ld length %d", (long)got.tv_sec, (long)got.tv_usec, (int)len);
	tell(setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &bad, sizeof(bad)), "SO_RCVTIMEO out of range");
	tell(setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &t, 4), "SO_SNDTIMEO too short");
	t.tv_sec = -1;
	tell(setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)), "SO_RCVTIMEO negative");
	tell_data(read(c->fd, buf, 1), buf, "read");
	t = (struct timeval){0};
	tell(setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)), "SO_RCVTIMEO 0");
	peer_text_later(40, c, "no limit");
	tell_data(read(c->fd, buf, 100), buf, "read");
	peer_wait();
}

static void timeo_before(void)
{
	int l = listener_open(8, 0), id = next_id(), fd;
	struct timeval t = {.tv_usec = 60000};

	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	fd = accept(l, NULL, NULL);
	tell(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)), "SO_RCVTIMEO before the adoption");
	conn_adopt(fd, id);
	tell_data(read(fd, buf, 1), buf, "read");
}

static void timeo_inherited(void)
{
	int l = listener_open(8, 0), id = next_id(), fd;
	struct timeval t = {.tv_usec = 60000};

	tell(setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)), "SO_RCVTIMEO of the listener");
	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	fd = accept(l, NULL, NULL);
	conn_adopt(fd, id);
	tell_data(read(fd, buf, 1), buf, "read");
	tell(accept(l, NULL, NULL), "accept");
}

static void linger_values(void)
{
	struct conn *c = conn_open();
	struct linger l = {1, 5}, got = {0};
	socklen_t len = sizeof(got);

	tell(setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l)), "SO_LINGER");
	tell(getsockopt(c->fd, SOL_SOCKET, SO_LINGER, &got, &len), "get");
	say("%d %d length %d", got.l_onoff, got.l_linger, (int)len);
	tell(setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, 4), "SO_LINGER too short");
	talk(c);
}

static void congestion(void)
{
	struct conn *c = conn_open();
	char name[16] = "";
	socklen_t len = sizeof(name);

	tell(getsockopt(c->fd, IPPROTO_TCP, TCP_CONGESTION, name, &len), "TCP_CONGESTION");
	tell(setsockopt(c->fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4), "set reno");
	len = sizeof(name);
	tell(getsockopt(c->fd, IPPROTO_TCP, TCP_CONGESTION, name, &len), "TCP_CONGESTION");
	say("%s", name);
	tell(setsockopt(c->fd, IPPROTO_TCP, TCP_CONGESTION, "nonesuch", 8), "set nonesuch");
	talk(c);
}

static void inq(void)
{
	struct conn *c = conn_open();
	char control[64];
	struct iovec v = {buf, 3};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *h;
	int one = 1, left = -1;

	tell(setsockopt(c->fd, IPPROTO_TCP, TCP_INQ, &one, sizeof(one)), "TCP_INQ");
	peer_text(c, "eight888");
	await_in(c->fd, 8);
	tell(recvmsg(c->fd, &m, 0), "recvmsg(3)");
	h = CMSG_FIRSTHDR(&m);
	if (h && h->cmsg_level == IPPROTO_TCP && h->cmsg_type == TCP_CM_INQ)
		memcpy(&left, CMSG_DATA(h), sizeof(left));
	say("left %d", left);
}

static void keepalive_lives(void)
{
	struct conn *c = conn_open();
	int one = 1;

	tell(setsockopt(c->fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one)), "SO_KEEPALIVE");
	tell(setsockopt(c->fd, IPPROTO_TCP, TCP_KEEPIDLE, &one, sizeof(one)), "TCP_KEEPIDLE 1");
	tell(setsockopt(c->fd, IPPROTO_TCP, TCP_KEEPINTVL, &one, sizeof(one)), "TCP_KEEPINTVL 1");
	tell(setsockopt(c->fd, IPPROTO_TCP, TCP_KEEPCNT, &one, sizeof(one)), "TCP_KEEPCNT 1");
	pause_ms(2600);
	talk(c);
}

static void lengths(void)
{
	struct conn *c = conn_open();
	int one = 1;
	socklen_t len = 2;
	char v[100];

	tell(setsockopt(c->fd, SOL_SOCKET, SO_KEEPALIVE, &one, 2), "set with 2 bytes");
	tell(setsockopt(c->fd, SOL_SOCKET, SO_KEEPALIVE, NULL, 4), "set NULL");
	tell(setsockopt(c->fd, SOL_SOCKET, SO_KEEPALIVE, (void *)16, 4), "set from a bad address");
	tell(setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, 1), "TCP_NODELAY with 1 byte");
	tell(setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, (void *)16, 4), "TCP_NODELAY from a bad address");
	tell(setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, (void *)16, 16), "SO_RCVTIMEO from a bad address");
	tell(getsockopt(c->fd, SOL_SOCKET, SO_TYPE, v, &len), "get into 2 bytes");
	say("length %d", (int)len);
	len = (socklen_t)-1;
	tell(getsockopt(c->fd, SOL_SOCKET, SO_TYPE, v, &len), "get with length -1");
	len = 4;
	tell(getsockopt(c->fd, SOL_SOCKET, SO_TYPE, NULL, &len), "get into NULL");
	tell(getsockopt(c->fd, SOL_SOCKET, SO_TYPE, v, NULL), "get without length");
	tell(getsockopt(c->fd, SOL_SOCKET, SO_ERROR, (void *)16, &len), "SO_ERROR into a bad address");
	tell(getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, (void *)16, &len), "TCP_INFO into a bad address");
	len = 1;
	tell(getsockopt(c->fd, SOL_SOCKET, SO_ERROR, v, &len), "SO_ERROR into 1 byte");
	len = 0;
	tell(getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, v, &len), "TCP_INFO into 0 bytes");
	tell(setsockopt(190, SOL_SOCKET, SO_TYPE, v, 4), "not open");
	talk(c);
}

/* ---- TCP_INFO ---- */

static void info_fields(void)
{
	struct conn *c = conn_open();
	struct tcp_info i;
	socklen_t len = sizeof(i);

	talk(c);
	memset(&i, 0, sizeof(i));
	tell(getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &i, &len), "TCP_INFO");
	say("state %d, ca_state %d, retransmits %d, probes %d, backoff %d", i.tcpi_state, i.tcpi_ca_state,
	    i.tcpi_retransmits, i.tcpi_probes, i.tcpi_backoff);
	say("options %x", (unsigned)i.tcpi_options);
	say("snd_wscale %d, rcv_wscale %d", i.tcpi_snd_wscale, i.tcpi_rcv_wscale);
	say("rto in range: %s", i.tcpi_rto >= 1000 && i.tcpi_rto <= 5000000 ? "yes" : "no");
	say("snd_mss %d", (int)i.tcpi_snd_mss);
	say("rcv_mss in range: %s", i.tcpi_rcv_mss >= 16 && i.tcpi_rcv_mss <= 1460 ? "yes" : "no");
	say("unacked %u, sacked %u, lost %u, retrans %u, total_retrans %u", i.tcpi_unacked, i.tcpi_sacked, i.tcpi_lost,
	    i.tcpi_retrans, i.tcpi_total_retrans);
	say("last_data_sent recent: %s", i.tcpi_last_data_sent < 2000 ? "yes" : "no");
	say("pmtu %u", i.tcpi_pmtu);
	say("rtt in range: %s", i.tcpi_rtt > 0 && i.tcpi_rtt < 1000000 ? "yes" : "no");
	say("rttvar in range: %s", i.tcpi_rttvar > 0 && i.tcpi_rttvar < 1000000 ? "yes" : "no");
	say("snd_cwnd in range: %s", i.tcpi_snd_cwnd >= 2 && i.tcpi_snd_cwnd < 1000000 ? "yes" : "no");
	say("rcv_space in range: %s", i.tcpi_rcv_space >= 536 ? "yes" : "no");
	say("notsent_bytes %u", i.tcpi_notsent_bytes);
	say("min_rtt in range: %s", i.tcpi_min_rtt > 0 && i.tcpi_min_rtt < 1000000 ? "yes" : "no");
	say("snd_wnd: %s", i.tcpi_snd_wnd > 1000 ? "yes" : "no");
}

static void info_counts(void)
{
	struct conn *c = conn_open();
	struct tcp_info a, b;
	socklen_t len = sizeof(a);

	memset(&a, 0, sizeof(a));
	memset(&b, 0, sizeof(b));
	getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &a, &len);
	memset(buf, 'i', sizeof(buf));
	for (int i = 0; i < 10; i++)
		if (send(c->fd, buf, 1000, 0) != 1000)
			tell(-1, "send");
	peer_recv_say(c, 10000);
	peer(PEER_SEND, c, 5000, 1);
	await_in(c->fd, 5000);
	len = sizeof(b);
	for (int i = 0; i < 200; i++) {
		getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &b, &len);
		if (b.tcpi_bytes_acked - a.tcpi_bytes_acked >= 10000)
			break;
		pause_ms(5);
	}
	say("bytes_acked +%llu", (unsigned long long)(b.tcpi_bytes_acked - a.tcpi_bytes_acked));
	say("bytes_received +%llu", (unsigned long long)(b.tcpi_bytes_received - a.tcpi_bytes_received));
	say("bytes_sent +%llu", (unsigned long long)(b.tcpi_bytes_sent - a.tcpi_bytes_sent));
	say("segs_out grew: %s", b.tcpi_segs_out > a.tcpi_segs_out ? "yes" : "no");
	say("segs_in grew: %s", b.tcpi_segs_in > a.tcpi_segs_in ? "yes" : "no");
	say("data_segs_out grew: %s", b.tcpi_data_segs_out > a.tcpi_data_segs_out ? "yes" : "no");
	say("data_segs_in grew: %s", b.tcpi_data_segs_in > a.tcpi_data_segs_in ? "yes" : "no");
}

static struct tcp_info info_get(const struct conn *c)
{
	struct tcp_info i = {0};
	socklen_t len = sizeof(i);

	if (getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &i, &len))
		tell(-1, "TCP_INFO");
	return i;
}

/* Until the peer has acknowledged @bytes more than @from had. */
static struct tcp_info info_acked(const struct conn *c, const struct tcp_info *from, uint64_t bytes)
{
	struct tcp_info i = info_get(c);

	for (int n = 0; n < 400 && i.tcpi_bytes_acked - from->tcpi_bytes_acked < bytes; n++) {
		pause_ms(5);
		i = info_get(c);
	}
	return i;
}

static void info_say(const char *what, const struct tcp_info *a, const struct tcp_info *b)
{
	say("%s: bytes acked %d, received %d, sent %d, again %d; segments with data in %d, out %d, again %d", what,
	    (int)(b->tcpi_bytes_acked - a->tcpi_bytes_acked), (int)(b->tcpi_bytes_received - a->tcpi_bytes_received),
	    (int)(b->tcpi_bytes_sent - a->tcpi_bytes_sent), (int)(b->tcpi_bytes_retrans - a->tcpi_bytes_retrans),
	    (int)(b->tcpi_data_segs_in - a->tcpi_data_segs_in), (int)(b->tcpi_data_segs_out - a->tcpi_data_segs_out),
	    (int)(b->tcpi_total_retrans - a->tcpi_total_retrans));
}

/* Requests and responses of one segment each. */
static void info_exchange(const struct conn *c, int count, int size)
{
	for (int i = 0; i < count; i++) {
		peer(PEER_SEND, c, size, 1);
		await_in(c->fd, size);
		if (read(c->fd, buf, sizeof(buf)) != size || send(c->fd, buf, (size_t)size, 0) != size)
			tell(-1, "exchange");
		peer(PEER_RECV, c, size, 0);
	}
}

static void info_exact(void)
{
	struct conn *c = conn_open();
	struct tcp_info a = info_get(c), b;

	info_exchange(c, 8, 500);
	b = info_acked(c, &a, 4000);
	info_say("exchanges", &a, &b);
	say("all segments grew by %s", b.tcpi_segs_out - a.tcpi_segs_out >= 8 && b.tcpi_segs_in - a.tcpi_segs_in >= 8 &&
						       b.tcpi_segs_out - a.tcpi_segs_out <= 24 &&
						       b.tcpi_segs_in - a.tcpi_segs_in <= 24
					       ? "8 to 24"
					       : "something else");
	say("since the beginning: %s", b.tcpi_segs_out >= b.tcpi_data_segs_out &&
						       b.tcpi_segs_in >= b.tcpi_data_segs_in &&
						       b.tcpi_bytes_sent >= 4000 + 8
					       ? "more"
					       : "not more");
	say("in flight %d, unanswered %d, probes %d", (int)b.tcpi_unacked, b.tcpi_retransmits, b.tcpi_probes);
}

static void info_times(void)
{
	struct conn *c = conn_open();
	struct tcp_info a = info_get(c), b;

	info_exchange(c, 1, 10);
	info_acked(c, &a, 10);
	pause_ms(600);
	a = info_get(c);
	peer_text(c, "x");
	await_in(c->fd, 1);
	b = info_get(c);
	say("after 600 ms: sent %s, received %s, heard %s", a.tcpi_last_data_sent >= 500 ? "old" : "new",
	    a.tcpi_last_data_recv >= 500 ? "old" : "new", a.tcpi_last_ack_recv >= 500 ? "old" : "new");
	say("after a byte: sent %s, received %s, heard %s", b.tcpi_last_data_sent >= 500 ? "old" : "new",
	    b.tcpi_last_data_recv >= 500 ? "old" : "new", b.tcpi_last_ack_recv >= 500 ? "old" : "new");
}

/* The counts go on when only Linux can do what the program asks for. */
static void info_returned(void)
{
	struct conn *c = conn_open();
	struct tcp_info a = info_get(c), b;

	info_exchange(c, 4, 300);
	peer_text(c, "unread");
	await_in(c->fd, 6);
	tell(recv(c->fd, buf, 1, MSG_OOB), "recv(OOB)");
	b = info_acked(c, &a, 1200);
	info_say("given back", &a, &b);
	tell_data(read(c->fd, buf, 100), buf, "read");
	info_exchange(c, 4, 300);
	b = info_acked(c, &a, 2400);
	info_say("and on", &a, &b);
}

static void info_fins(void)
{
	struct conn *c = conn_open();
	struct tcp_info a = info_get(c), b;

	info_exchange(c, 1, 100);
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	await_poll(c->fd, POLLRDHUP);
	b = info_acked(c, &a, 100);
	info_say("the peer's FIN", &a, &b);
}

static void info_unacked(void)
{
	struct conn *c = conn_open();
	struct tcp_info i;
	socklen_t len = sizeof(i);

	memset(&i, 0, sizeof(i));
	fill_up(c->fd);
	tell(getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &i, &len), "TCP_INFO");
	say("notsent_bytes: %s", i.tcpi_notsent_bytes > 10000 ? "many" : "few");
}

static char big[100000];

/* Only little waits unsent for a peer that does not read, and there is room when it has read. */
static void notsent_bound(void)
{
	struct conn *c = conn_open();
	int lowat = 20000, unsent = -1;
	int64_t total = 0;
	struct pollfd p = {.fd = c->fd, .events = POLLOUT};

	fcntl(c->fd, F_SETFL, O_NONBLOCK);
	tell(setsockopt(c->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof(lowat)), "TCP_NOTSENT_LOWAT");
	for (int tries = 0, open = 0; tries < 60; tries++) {
		ssize_t n;

		pattern_fill(big, 10000, 3, (uint64_t)total);
		n = write(c->fd, big, 10000);
		if (n > 0) {
			total += n;
			tries = open = 0;
		} else {
			pause_ms(5);
			if (!peer_is_full(c->fd) && ++open < 600)
				tries = 0;
		}
	}
	tell(ioctl(c->fd, SIOCOUTQNSD, &unsent), "SIOCOUTQNSD");
	say("unsent: %s", unsent >= 10000 && unsent < 120000 ? "about as much" : "something else");
	say("writable: %d", poll(&p, 1, 0));
	peer(PEER_RECV, c, total, 0);
	say("writable: %d", poll(&p, 1, 3000));
	lowat = 0;
	tell(setsockopt(c->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof(lowat)), "none");
	fill_up(c->fd);
	tell(ioctl(c->fd, SIOCOUTQNSD, &unsent), "SIOCOUTQNSD");
	say("unsent: %s", unsent > 32000 ? "much" : "little");
}

/* A write that blocks for it, and all bytes arrive. */
static void notsent_blocking(void)
{
	struct conn *c = conn_open();
	int lowat = 5000;

	tell(setsockopt(c->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof(lowat)), "TCP_NOTSENT_LOWAT");
	peer_later(20, PEER_RECV, c, 4 * (int64_t)sizeof(big), 0);
	for (int i = 0; i < 4; i++) {
		pattern_fill(big, sizeof(big), 3, (uint64_t)i * sizeof(big));
		if (write(c->fd, big, sizeof(big)) != sizeof(big))
			tell(-1, "write");
	}
	say("peer got %s", peer_wait().ret == 4 * (int64_t)sizeof(big) ? "all" : "something else");
}

static void info_short(void)
{
	struct conn *c = conn_open();
	struct {
		char info[104];
		char guard[8];
	} v;
	socklen_t len = 104;

	memset(&v, 'G', sizeof(v));
	tell(getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &v, &len), "TCP_INFO into 104 bytes");
	say("length %d, guard %.8s", (int)len, v.guard);
	len = 8;
	memset(&v, 'G', sizeof(v));
	tell(getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &v, &len), "TCP_INFO into 8 bytes");
	say("length %d, guard %.4s", (int)len, v.info + 8);
}

const struct test_case cases_option[] = {
	CASE("option/nagle", "20 small writes arrive", nodelay_off),
	CASE("option/cork", "TCP_CORK, released", cork),
	CASE("option/cork-holds", "TCP_CORK holds a small write for a while", cork_holds),
	CASE("option/notsent-lowat", "TCP_NOTSENT_LOWAT and POLLOUT", notsent_lowat),
	CASE("option/timeo-values", "SO_RCVTIMEO and SO_SNDTIMEO: values and errors", timeo_values),
	CASE("option/timeo-before", "SO_RCVTIMEO set before the adoption", timeo_before),
	CASE("option/timeo-inherited", "SO_RCVTIMEO from the listener", timeo_inherited),
	CASE("option/SO_LINGER", "SO_LINGER: values and errors", linger_values),
	CASE_RETURNS("option/TCP_CONGESTION", "TCP_CONGESTION: get, set, unknown", congestion,
		     "adopted again with the other one"),
	CASE("option/inq", "TCP_INQ tells what is left", inq),
	CASE("option/keepalive", "keep-alive probes do no harm", keepalive_lives),
	CASE("option/lengths", "wrong lengths and addresses", lengths),
	CASE("option/info-fields", "fields of TCP_INFO", info_fields),
	CASE("option/info-counts", "counts of TCP_INFO grow by what was carried", info_counts),
	CASE("option/info-exact", "data, segments and retransmissions counted one by one", info_exact),
	CASE("option/info-times", "when something was sent and received last", info_times),
	CASE_RETURNS("option/info-returned", "counts go on when the connection is given back", info_returned,
		     "urgent data are Linux's"),
	CASE("option/info-fins", "what a FIN counts", info_fins),
	CASE("option/info-unsent", "TCP_INFO with a full buffer", info_unacked),
	CASE("option/notsent-bound", "TCP_NOTSENT_LOWAT bounds what is unsent", notsent_bound),
	CASE("option/notsent-blocking", "write() waits for TCP_NOTSENT_LOWAT", notsent_blocking),
	CASE("option/info-short", "TCP_INFO into short buffers", info_short),
	{.name = NULL},
};

const struct test_case *matrix_option(void)
{
	static struct test_case list[OPTIONS + 1];
	static char names[OPTIONS][40], texts[OPTIONS][60];

	for (size_t i = 0; i < OPTIONS && !list[i].name; i++) {
		snprintf(names[i], sizeof(names[i]), "option/%s", options[i].name);
		snprintf(texts[i], sizeof(texts[i]), options[i].how & READ_ONLY ? "%s: its value" : "%s: get, set, get",
			 options[i].name);
		list[i] = (struct test_case){.name = names[i],
					     .text = texts[i],
					     .run = one_option,
					     .returns = options[i].how & LINUX  ? "only Linux does what it asks for"
							: options[i].how & SIZE ? "adopted again with another buffer"
										: NULL,
					     .a = (long)i};
	}
	return list;
}
