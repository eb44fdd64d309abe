/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * getsockopt and setsockopt. Always done on the kernel socket, which is the truth: what heeds
 * an option there, such as linger, marks and TOS, does so for an adopted connection too. Here is
 * noted what the buffers must know, told the service what its timers go by (keep-alive, time-outs),
 * filled in what only they know (SO_ERROR, TCP_INFO), and kept with Linux what they cannot do. Any
 * thread.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <linux/tcp.h>
#include <string.h>
#include <sys/time.h>

#include "preload/brief.h"
#include "preload/handback.h"
#include "preload/io.h"
#include "preload/local.h"
#include "preload/user.h"
#include "service/base/clock.h"

/* newer than some headers */
#define OPT_PEEK_OFF 42
#define OPT_TXTIME 61
#define OPT_TIMESTAMP_NEW 63
#define OPT_TIMESTAMPING_NEW 65
#define OPT_RCVTIMEO_NEW 66
#define OPT_SNDTIMEO_NEW 67
#define OPT_AO_FIRST 38
#define OPT_AO_LAST 42

static int fail(int err)
{
	errno = err;
	return -1;
}

/* ---- noted ---- */

static void numbers_publish(struct sock *s)
{
	struct ipc_slot *slot = core_slot(s->core, s->slot);

	atomic_store_explicit(&slot->user_timeout_ms, s->user_timeout_ms, memory_order_relaxed);
	atomic_store_explicit(&slot->keep_idle_s, s->keep_idle_s, memory_order_relaxed);
	atomic_store_explicit(&slot->keep_intvl_s, s->keep_intvl_s, memory_order_relaxed);
	atomic_store_explicit(&slot->keep_cnt, s->keep_cnt, memory_order_relaxed);
	atomic_store_explicit(&slot->notsent_lowat, s->st.lowat, memory_order_relaxed);
}

static void note_flag(struct sock *s, uint32_t opt, bool on)
{
	s->opts = on ? s->opts | opt : s->opts & ~opt;
	if (sock_state(s) == SOCK_FAST)
		stream_opts_set(&s->st, on ? opt : 0, on ? 0 : opt);
}

/* What the flow's timers go by. */
static void note_number(struct sock *s, _Atomic uint32_t *number, int v)
{
	atomic_store_explicit(number, (uint32_t)MAX(v, 0), memory_order_relaxed);
	if (sock_state(s) != SOCK_FAST)
		return;
	numbers_publish(s);
	stream_opts_changed(&s->st);
}

/* Those who wait look again: by another measure it may be ready now. */
static void wake_waiters(struct sock *s)
{
	if (sock_state(s) != SOCK_FAST || !lock_take(&s->lock))
		return;
	ep_items_mark(s, NULL);
	lock_drop(&s->lock);
	core_context_wake(s->core, s->context);
}

static void note_notsent(struct sock *s, int v)
{
	uint32_t lowat = v < 0 ? 0 : (uint32_t)v;

	note_number(s, &s->st.lowat, (int)lowat);
	note_flag(s, IPC_OPT_LOWAT, lowat);
	wake_waiters(s);
}

static void note_lowat(struct sock *s, int bytes)
{
	s->rcvlowat = bytes < 0 ? INT32_MAX : (uint32_t)bytes;
	wake_waiters(s);
}

/* A time before the present, which Linux takes, does not wait. */
static uint64_t timeval_ns(const struct timeval *t)
{
	if (t->tv_sec < 0)
		return 1;
	return t->tv_sec < 1l << 32 ? (uint64_t)t->tv_sec * NS_PER_S + (uint64_t)t->tv_usec * NS_PER_US : 0;
}

static void note_socket(struct sock *s, int name, const void *value, socklen_t len, int v)
{
	struct timeval t;

	if (name == SO_RCVLOWAT) {
		note_lowat(s, v);
	} else if (name == SO_KEEPALIVE) {
		note_flag(s, IPC_OPT_KEEPALIVE, v);
	} else if ((name == SO_RCVTIMEO || name == SO_SNDTIMEO || name == OPT_RCVTIMEO_NEW ||
		    name == OPT_SNDTIMEO_NEW) &&
		   len >= sizeof(t)) {
		memcpy(&t, value, sizeof(t));
		*(name == SO_RCVTIMEO || name == OPT_RCVTIMEO_NEW ? &s->rcvtimeo_ns : &s->sndtimeo_ns) = timeval_ns(&t);
	}
}

static void note_option(struct sock *s, int level, int name, const void *value, socklen_t len)
{
	int v = 0;

	memcpy(&v, value, MIN(len, (socklen_t)sizeof(v)));
	if (level == SOL_SOCKET)
		note_socket(s, name, value, len, v);
	else if (level != IPPROTO_TCP)
		return;
	else if (name == TCP_NODELAY)
		note_flag(s, IPC_OPT_NODELAY, v);
	else if (name == TCP_CORK)
		note_flag(s, IPC_OPT_CORK, v);
	else if (name == TCP_QUICKACK)
		note_flag(s, IPC_OPT_QUICKACK, v);
	else if (name == TCP_INQ)
		s->inq = v;
	else if (name == TCP_USER_TIMEOUT)
		note_number(s, &s->user_timeout_ms, v);
	else if (name == TCP_NOTSENT_LOWAT)
		note_notsent(s, v);
	else if (name == TCP_KEEPIDLE)
		note_number(s, &s->keep_idle_s, v);
	else if (name == TCP_KEEPINTVL)
		note_number(s, &s->keep_intvl_s, v);
	else if (name == TCP_KEEPCNT)
		note_number(s, &s->keep_cnt, v);
}

/* What an adoption reads from the kernel's socket, however it came to be set. */
static const struct {
	int level, name;
} loaded[] = {{IPPROTO_TCP, TCP_NODELAY}, {IPPROTO_TCP, TCP_CORK},         {IPPROTO_TCP, TCP_INQ},
	      {SOL_SOCKET, SO_RCVLOWAT},  {SOL_SOCKET, SO_RCVTIMEO},       {SOL_SOCKET, SO_SNDTIMEO},
	      {SOL_SOCKET, SO_KEEPALIVE}, {IPPROTO_TCP, TCP_KEEPIDLE},     {IPPROTO_TCP, TCP_KEEPINTVL},
	      {IPPROTO_TCP, TCP_KEEPCNT}, {IPPROTO_TCP, TCP_USER_TIMEOUT}, {IPPROTO_TCP, TCP_NOTSENT_LOWAT}};

static bool is_loaded(int level, int name)
{
	for (size_t i = 0; i < ARRAY_SIZE(loaded); i++)
		if (loaded[i].level == level && loaded[i].name == name)
			return true;
	return false;
}

void option_load(struct sock *s, int fd)
{
	s->nonblock = (libc()->fcntl(fd, F_GETFL) & O_NONBLOCK) != 0;
	for (size_t i = 0; i < ARRAY_SIZE(loaded); i++) {
		struct timeval value = {0};
		socklen_t len = sizeof(value);

		if (!libc()->getsockopt(fd, loaded[i].level, loaded[i].name, &value, &len))
			note_option(s, loaded[i].level, loaded[i].name, &value, len);
	}
	if (s->slot != SLOT_NONE)
		numbers_publish(s);
}

/* ---- get ---- */

/* What is counted over the life of a connection: the service's counts go on from the kernel's. */
static void info_counts(struct sock *s, struct tcp_info *i)
{
	struct ipc_slot *slot = s->st.slot;
	uint64_t acked = atomic_load_explicit(&slot->snd_acked, memory_order_relaxed);
	uint32_t status = stream_status(&s->st);

	i->tcpi_segs_in = atomic_load_explicit(&slot->segs_in, memory_order_relaxed);
	i->tcpi_segs_out = atomic_load_explicit(&slot->segs_out, memory_order_relaxed);
	i->tcpi_data_segs_in = atomic_load_explicit(&slot->data_segs_in, memory_order_relaxed);
	i->tcpi_data_segs_out = atomic_load_explicit(&slot->data_segs_out, memory_order_relaxed);
	i->tcpi_total_retrans = atomic_load_explicit(&slot->retransmits, memory_order_relaxed);
	i->tcpi_bytes_retrans = atomic_load_explicit(&slot->bytes_retrans, memory_order_relaxed);
	i->tcpi_bytes_acked = slot->base_acked + acked;
	i->tcpi_bytes_sent =
		slot->base_sent + i->tcpi_bytes_retrans + atomic_load_explicit(&slot->snd_sent, memory_order_relaxed);
	i->tcpi_bytes_received = slot->base_received + atomic_load_explicit(&slot->rcv_end, memory_order_relaxed) +
				 ((status & IPC_ST_FIN) != 0); /* as Linux counts it */
}

static uint32_t info_ago(_Atomic uint32_t *when_ms)
{
	return (uint32_t)(clock_now_ns() / NS_PER_MS) - atomic_load_explicit(when_ms, memory_order_relaxed);
}

/* A local connection: the kernel's answer is true of its connection, and the memory's share comes on top. */
static void info_local(struct sock *s, struct tcp_info *i)
{
	struct ipc_slot *slot = s->st.slot;
	uint64_t end = atomic_load_explicit(&slot->snd_end, memory_order_relaxed) & ~IPC_FROZEN;
	uint64_t acked = atomic_load_explicit(&slot->snd_sent, memory_order_relaxed); /* what is sent has arrived */

	i->tcpi_segs_in += atomic_load_explicit(&slot->segs_in, memory_order_relaxed);
	i->tcpi_segs_out += atomic_load_explicit(&slot->segs_out, memory_order_relaxed);
	i->tcpi_data_segs_in += atomic_load_explicit(&slot->data_segs_in, memory_order_relaxed);
	i->tcpi_data_segs_out += atomic_load_explicit(&slot->data_segs_out, memory_order_relaxed);
	i->tcpi_bytes_acked += acked;
	i->tcpi_bytes_sent += acked;
	i->tcpi_bytes_received += atomic_load_explicit(&slot->rcv_end, memory_order_relaxed);
	i->tcpi_notsent_bytes += (uint32_t)(end - MIN(acked, end));
	if (!s->tx_kernel)
		i->tcpi_snd_wnd = atomic_load_explicit(&slot->peer_wnd, memory_order_relaxed);
	i->tcpi_last_data_sent = MIN(i->tcpi_last_data_sent, info_ago(&slot->sent_ms));
	i->tcpi_last_data_recv = MIN(i->tcpi_last_data_recv, info_ago(&slot->received_ms));
	i->tcpi_last_ack_recv = MIN(i->tcpi_last_ack_recv, info_ago(&slot->heard_ms));
}

/* Those of the times when the socket was FAST before it was given back, which it then forgot. */
static void info_past(const struct sock *s, struct tcp_info *i)
{
	i->tcpi_segs_in += s->past.segs_in;
	i->tcpi_segs_out += s->past.segs_out;
	i->tcpi_data_segs_in += s->past.data_segs_in;
	i->tcpi_data_segs_out += s->past.data_segs_out;
	i->tcpi_total_retrans += s->past.retransmits;
	i->tcpi_bytes_retrans += s->past.bytes_retrans;
	i->tcpi_bytes_acked += s->past.bytes_acked;
	i->tcpi_bytes_sent += s->past.bytes_sent;
	i->tcpi_bytes_received += s->past.bytes_received;
}

void option_returned(struct sock *s)
{
	struct ipc_slot *slot = s->st.slot;
	uint64_t unread = atomic_load_explicit(&slot->rcv_end, memory_order_relaxed) -
			  (atomic_load_explicit(&slot->rcv_read, memory_order_relaxed) & ~IPC_FROZEN);
	struct tcp_info i = {0};

	if (s->st.local) /* the socket is as it was, and has its own counts still */
		info_local(s, &i);
	else
		info_counts(s, &i);
	info_past(s, &i);
	s->past = (struct past){
		.segs_in = i.tcpi_segs_in,
		.segs_out = i.tcpi_segs_out,
		.data_segs_in = i.tcpi_data_segs_in,
		.data_segs_out = i.tcpi_data_segs_out,
		.retransmits = i.tcpi_total_retrans,
		.bytes_retrans = i.tcpi_bytes_retrans,
		.bytes_acked = i.tcpi_bytes_acked,
		.bytes_sent = i.tcpi_bytes_sent,
		/* what was not read was received by the new socket once more, and so was the FIN */
		.bytes_received =
			i.tcpi_bytes_received - unread - (!s->st.local && (stream_status(&s->st) & IPC_ST_FIN)),
	};
}

/* The kernel's answer is of before the adoption, and of heartbeats: what was carried since. */
static void info_fast(struct sock *s, struct tcp_info *i)
{
	struct ipc_slot *slot = s->st.slot;
	uint32_t mss = atomic_load_explicit(&slot->mss, memory_order_relaxed);
	uint32_t timeouts = atomic_load_explicit(&slot->timeouts, memory_order_relaxed);
	uint64_t end = atomic_load_explicit(&slot->snd_end, memory_order_relaxed) & ~IPC_FROZEN;
	uint64_t acked = atomic_load_explicit(&slot->snd_acked, memory_order_relaxed);
	uint64_t sent = atomic_load_explicit(&slot->snd_sent, memory_order_relaxed);
	uint64_t unacked = end - MIN(acked, end), unsent = end - MIN(sent, end);

	if (s->st.local) {
		info_local(s, i);
		return;
	}
	info_counts(s, i);
	i->tcpi_rtt = atomic_load_explicit(&slot->srtt_us, memory_order_relaxed);
	i->tcpi_rttvar = atomic_load_explicit(&slot->rttvar_us, memory_order_relaxed);
	i->tcpi_rto = atomic_load_explicit(&slot->rto_us, memory_order_relaxed);
	i->tcpi_retransmits = timeouts & IPC_PROBES ? 0 : (uint8_t)timeouts;
	i->tcpi_probes = timeouts & IPC_PROBES ? (uint8_t)timeouts : 0;
	i->tcpi_backoff = (uint8_t)timeouts;
	i->tcpi_last_data_sent = info_ago(&slot->sent_ms);
	i->tcpi_last_data_recv = info_ago(&slot->received_ms);
	i->tcpi_last_ack_recv = info_ago(&slot->heard_ms);
	if (mss) {
		i->tcpi_snd_mss = mss;
		i->tcpi_snd_cwnd = atomic_load_explicit(&slot->cwnd_bytes, memory_order_relaxed) / mss;
		i->tcpi_unacked = (uint32_t)((unacked - unsent + mss - 1) / mss);
	}
	i->tcpi_notsent_bytes = (uint32_t)unsent;
	i->tcpi_pacing_rate = (uint64_t)atomic_load_explicit(&slot->rate_kbps, memory_order_relaxed) * 1000 / 8;
	i->tcpi_snd_wnd = atomic_load_explicit(&slot->peer_wnd, memory_order_relaxed);
}

static void overlay_info(struct sock *s, bool fast, void *value, socklen_t len)
{
	struct tcp_info info = {0};

	memcpy(&info, value, MIN(len, (socklen_t)sizeof(info)));
	if (fast)
		info_fast(s, &info);
	info_past(s, &info);
	memcpy(value, &info, MIN(len, (socklen_t)sizeof(info)));
}

static bool is_fast(struct sock *s)
{
	if (sock_is_open(s))
		sock_settle(s);
	return sock_state(s) == SOCK_FAST && stream_is_open(&s->st);
}

/* The service's filter on the shadow is none of the application's. */
static int get_no_filter(socklen_t *len)
{
	if (!user_writable(len, sizeof(*len)))
		return fail(EFAULT);
	if ((int)*len < 0)
		return fail(EINVAL);
	*len = 0;
	return 0;
}

/* The kernel has answered: add what it cannot know. */
static void get_overlay(struct sock *s, int level, int name, void *value, socklen_t len)
{
	bool fast = is_fast(s);
	int err;

	if (level == IPPROTO_TCP && name == TCP_INFO) {
		overlay_info(s, fast, value, len);
	} else if (fast && level == SOL_SOCKET && name == SO_ERROR && sock_failed(s)) {
		/* the shadow may have had the same error: it is told once, by whichever call comes first */
		err = sock_error_get(s);
		memcpy(value, &err, MIN(len, (socklen_t)sizeof(err)));
	} else if (fast && level == SOL_SOCKET && name == SO_ERROR && s->st.local && len == sizeof(err)) {
		memcpy(&err, value, sizeof(err));
		if (err)
			local_error_note(s, true);
	}
}

PUBLIC int getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
	struct sock *s;
	int ret;

	if (!((level == SOL_SOCKET && (name == SO_ERROR || name == SO_GET_FILTER)) ||
	      (level == IPPROTO_TCP && (name == TCP_INFO || name == TCP_ZEROCOPY_RECEIVE))))
		return libc()->getsockopt(fd, level, name, value, len);
	s = sock_get(fd);
	if (!s)
		return libc()->getsockopt(fd, level, name, value, len);
	if (level == IPPROTO_TCP && name == TCP_ZEROCOPY_RECEIVE)
		handback(fd); /* maps pages of the kernel's receive queue */
	if (level == SOL_SOCKET && name == SO_GET_FILTER && is_fast(s)) {
		ret = get_no_filter(len);
	} else {
		if (name == SO_ERROR && is_fast(s))
			sock_error_look(s);
		ret = libc()->getsockopt(fd, level, name, value, len);
		if (!ret)
			get_overlay(s, level, name, value, *len);
	}
	sock_put(s);
	return ret;
}

/* ---- set ---- */

/* Does the option, with this value, want what only the kernel's own data path does? */
static bool is_linux(int level, int name, int v)
{
	if (level == SOL_SOCKET) {
		switch (name) {
		case SO_ATTACH_FILTER:
		case SO_ATTACH_BPF:
			return true;
		case OPT_PEEK_OFF:
			return v >= 0;
		case SO_LOCK_FILTER:
		case SO_MAX_PACING_RATE: /* the service has its own pace */
		case SO_TIMESTAMP:       /* of segments */
		case SO_TIMESTAMPNS:
		case SO_TIMESTAMPING:
		case OPT_TXTIME:
			return v;
		}
		return v && name >= OPT_TIMESTAMP_NEW && name <= OPT_TIMESTAMPING_NEW;
	}
	if (level != IPPROTO_TCP)
		return false;
	/* kTLS and others; keys; repair */
	return name == TCP_ULP || name == TCP_MD5SIG || name == TCP_MD5SIG_EXT ||
	       (name >= OPT_AO_FIRST && name <= OPT_AO_LAST) ||
	       (v && (name == TCP_REPAIR || name == TCP_TX_DELAY || name == TCP_WINDOW_CLAMP));
}

/*
 * Set what the service asks Linux for when it adopts: the congestion control, the size of a buffer. If that changes
 * @asked, by which it is read, the connection goes back, and comes again.
 */
static int set_anew(struct sock *s, int fd, int level, int name, int asked, const void *value, socklen_t len)
{
	char before[16] = "", after[16] = "";
	socklen_t blen = sizeof(before), alen = sizeof(after);
	int ret;

	libc()->getsockopt(fd, level, asked, before, &blen);
	ret = libc()->setsockopt(fd, level, name, value, len);
	if (ret || libc()->getsockopt(fd, level, asked, after, &alen))
		return ret;
	if (memcmp(before, after, sizeof(before)) != 0)
		sock_return(s, fd, false);
	return 0;
}

/* By what that is read which @name sets, if it is of that kind; or -1. */
static int asked_by(int level, int name)
{
	if (level == IPPROTO_TCP)
		return name == TCP_CONGESTION ? name : -1;
	if (level != SOL_SOCKET)
		return -1;
	if (name == SO_SNDBUF || name == SO_SNDBUFFORCE)
		return SO_SNDBUF;
	return name == SO_RCVBUF || name == SO_RCVBUFFORCE ? SO_RCVBUF : -1;
}

/* Of brief connection @id nothing is noted, unless it has been tracked meanwhile. */
static int set_brief(int fd, uint64_t id, int level, int name, const void *value, socklen_t len)
{
	int ret = libc()->setsockopt(fd, level, name, value, len);
	struct sock *s = ret || brief_id(fd) == id ? NULL : sock_get(fd);

	if (s) {
		note_option(s, level, name, value, len);
		sock_put(s);
	}
	return ret;
}

PUBLIC int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	uint64_t id = brief_id(fd);
	int ret, saved, asked, v = 0;
	struct sock *s;

	if (id && is_loaded(level, name))
		return set_brief(fd, id, level, name, value, len);
	s = sock_get(fd);
	if (!s)
		return libc()->setsockopt(fd, level, name, value, len);
	if (len >= sizeof(v) && user_readable(value, sizeof(v)))
		memcpy(&v, value, sizeof(v));
	if (unlikely(is_linux(level, name, v)))
		handback(fd);
	sock_whole(s, fd, IPC_HALVES); /* options are of the whole connection */
	if (level == SOL_SOCKET && name == SO_DETACH_FILTER && is_fast(s)) {
		sock_put(s);
		return fail(ENOENT); /* as there is none of the application's */
	}
	asked = asked_by(level, name);
	if (asked >= 0 && sock_state(s) != SOCK_LINUX)
		ret = set_anew(s, fd, level, name, asked, value, len);
	else
		ret = libc()->setsockopt(fd, level, name, value, len);
	saved = errno;
	if (!ret && value)
		note_option(s, level, name, value, len);
	sock_put(s);
	errno = saved;
	return ret;
}
