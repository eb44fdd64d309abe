/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Everything about sockets but their bytes: making, accepting, shutting down, options. Always
 * done on the kernel socket, which is the truth; what the buffers must know is noted beside
 * it. Any thread.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <linux/tcp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>

#include "preload/handback.h"
#include "preload/io.h"
#include "preload/user.h"
#include "service/base/clock.h"

static int fail(int err)
{
	errno = err;
	return -1;
}

/* ---- making ---- */

PUBLIC int socket(int domain, int type, int protocol)
{
	int fd = libc()->socket(domain, type, protocol), saved = errno;
	struct sock *s;

	if (fd < 0 || (domain != AF_INET && domain != AF_INET6) ||
	    (type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) != SOCK_STREAM || (protocol && protocol != IPPROTO_TCP))
		return fd;
	s = sock_track(fd, type & SOCK_NONBLOCK);
	if (s)
		sock_put(s);
	errno = saved;
	return fd;
}

static bool is_tcp(int fd)
{
	int protocol = 0;
	socklen_t len = sizeof(protocol);

	return !libc()->getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len) && protocol == IPPROTO_TCP;
}

/* The listener of @fd; one that was inherited becomes known here. With a reference, or NULL. */
static struct sock *listener_get(int fd)
{
	struct sock *s;

	if (file_get_any(fd))
		return sock_get(fd);
	if (!is_tcp(fd))
		return NULL;
	s = sock_track(fd, (libc()->fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
	if (s)
		s->listener = true;
	return s;
}

/* @fd came out of accept() on @listen_fd. */
static void accepted(int listen_fd, int fd, bool nonblock)
{
	int saved = errno;
	struct sock *l = listener_get(listen_fd), *s;

	if (l) {
		sock_listen(l, listen_fd);
		s = sock_track(fd, nonblock);
		if (s) {
			if (lock_take(&l->lock)) { /* another thread may be asking for it */
				s->policy = l->policy;
				s->policy_known = l->policy_known;
				lock_drop(&l->lock);
			}
			if (s->policy_known && !s->policy.accelerate)
				s->try_at = NEVER;
			s->opts = l->opts;
			s->rcvtimeo_ns = l->rcvtimeo_ns;
			s->sndtimeo_ns = l->sndtimeo_ns;
			sock_put(s);
		}
		sock_put(l);
	}
	errno = saved;
}

PUBLIC int accept(int fd, struct sockaddr *addr, socklen_t *len)
{
	int conn = libc()->accept(fd, addr, len);

	if (conn >= 0)
		accepted(fd, conn, false);
	return conn;
}

PUBLIC int accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	int conn = libc()->accept4(fd, addr, len, flags);

	if (conn >= 0)
		accepted(fd, conn, flags & SOCK_NONBLOCK);
	return conn;
}

PUBLIC int listen(int fd, int backlog)
{
	int ret = libc()->listen(fd, backlog);
	struct sock *s = ret ? NULL : listener_get(fd);

	if (s) {
		s->listener = true;
		sock_listen(s, fd);
		sock_put(s);
	}
	return ret;
}

/* ---- connect ---- */

/* AF_UNSPEC ends a connection, and the descriptor may be connected anew: both with what only Linux knows. */
static bool is_disconnect(const struct sockaddr *addr, socklen_t len)
{
	return len >= sizeof(addr->sa_family) && user_readable(addr, sizeof(addr->sa_family)) &&
	       addr->sa_family == AF_UNSPEC;
}

PUBLIC int connect(int fd, const struct sockaddr *addr, socklen_t len)
{
	struct sock *s = sock_get(fd);
	int ret, saved;

	if (!s)
		return libc()->connect(fd, addr, len);
	if (is_disconnect(addr, len) && sock_state(s) != SOCK_LINUX)
		sock_return(s, fd, false);
	ret = libc()->connect(fd, addr, len);
	saved = errno;
	if (!ret && is_disconnect(addr, len)) {
		s->exchanges = s->try_at = s->tries = s->first_dir = s->last_dir = 0;
		s->bytes = 0;
		s->shut_rd = s->shut_wr = s->err_taken = false;
	}
	sock_put(s);
	errno = saved;
	return ret;
}

/* ---- shutdown ---- */

/*
 * Is it FAST? Then the slot says that we are about to shut the kernel socket down, until the
 * caller takes that back: while it is rebuilt it must be left alone.
 */
static bool shutdown_begin(struct sock *s)
{
	for (int i = 0; i < 8; i++) {
		if (sock_is_open(s) && !sock_settle(s)) /* the answer comes within the service's time limit */
			wait_sock(s, 0, clock_now_ns() + NS_PER_S);
		if (sock_state(s) != SOCK_FAST)
			return false;
		atomic_fetch_add_explicit(&core_slot(s->core, s->slot)->busy, 1, memory_order_seq_cst);
		/* full fence: see leave_is_busy() in the service */
		atomic_thread_fence(memory_order_seq_cst);
		if (!sock_is_open(s) && sock_state(s) == SOCK_FAST)
			return true;
		atomic_fetch_sub_explicit(&core_slot(s->core, s->slot)->busy, 1, memory_order_relaxed);
	}
	return false;
}

PUBLIC int shutdown(int fd, int how)
{
	struct sock *s = sock_get(fd);
	bool fast;
	int ret;

	if (!s)
		return libc()->shutdown(fd, how);
	fast = shutdown_begin(s);
	if (fast && lock_take(&s->tx_lock)) {
		/* what was sent is published; nothing more is from here on */
		if (how == SHUT_WR || how == SHUT_RDWR)
			s->shut_wr = true;
		if (how == SHUT_RD || how == SHUT_RDWR)
			s->shut_rd = true;
		lock_drop(&s->tx_lock);
	}
	ret = libc()->shutdown(fd, how);
	if (fast) {
		/* release: the shutdown is done; pairs with the look of the service before it rebuilds */
		atomic_fetch_sub_explicit(&core_slot(s->core, s->slot)->busy, 1, memory_order_release);
	}
	if (fast && sock_state(s) == SOCK_FAST) {
		int saved = errno;

		s->word = core_word(s->core, s->st.flow_id); /* our own FIN */
		if (lock_take(&s->lock)) {
			ep_items_mark(s, NULL);
			lock_drop(&s->lock);
		}
		core_context_wake(s->core, s->context); /* other threads blocked on it */
		errno = saved;
	}
	sock_put(s);
	return ret;
}

/* ---- options ---- */

/* SO_ERROR and TCP_INFO of an adopted socket: the kernel's answer with what only we know. */
static void overlay_info(struct sock *s, struct tcp_info *info, socklen_t len)
{
	struct ipc_slot *slot = s->st.slot;
	uint32_t mss = atomic_load_explicit(&slot->mss, memory_order_relaxed);

	if (len < offsetof(struct tcp_info, tcpi_total_retrans) + sizeof(info->tcpi_total_retrans))
		return;
	info->tcpi_rtt = atomic_load_explicit(&slot->srtt_us, memory_order_relaxed);
	info->tcpi_rttvar = atomic_load_explicit(&slot->rttvar_us, memory_order_relaxed);
	info->tcpi_rto = atomic_load_explicit(&slot->rto_us, memory_order_relaxed);
	info->tcpi_total_retrans = atomic_load_explicit(&slot->retransmits, memory_order_relaxed);
	if (mss) {
		info->tcpi_snd_mss = mss;
		info->tcpi_snd_cwnd = atomic_load_explicit(&slot->cwnd_bytes, memory_order_relaxed) / mss;
		info->tcpi_unacked = (uint32_t)(stream_unacked(&s->st) / mss);
	}
	if (len >= offsetof(struct tcp_info, tcpi_bytes_received) + sizeof(info->tcpi_bytes_received)) {
		info->tcpi_bytes_acked += atomic_load_explicit(&slot->snd_acked, memory_order_relaxed);
		info->tcpi_bytes_received += atomic_load_explicit(&slot->rcv_end, memory_order_relaxed);
	}
}

PUBLIC int getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
	int ret = libc()->getsockopt(fd, level, name, value, len), err;
	struct sock *s;

	if (ret || !((level == SOL_SOCKET && name == SO_ERROR) || (level == IPPROTO_TCP && name == TCP_INFO)))
		return ret;
	s = sock_get(fd);
	if (!s)
		return ret;
	if (sock_state(s) == SOCK_FAST && level == IPPROTO_TCP) {
		overlay_info(s, value, *len);
	} else if (sock_state(s) == SOCK_FAST && *len >= sizeof(int)) {
		err = sock_error_take(s);
		if (err)
			memcpy(value, &err, sizeof(err));
	}
	sock_put(s);
	return ret;
}

static void note_flag(struct sock *s, uint32_t opt, const void *value, socklen_t len)
{
	int on = 0;

	memcpy(&on, value, MIN(len, (socklen_t)sizeof(on)));
	s->opts = on ? s->opts | opt : s->opts & ~opt;
	if (sock_state(s) == SOCK_FAST)
		stream_opts_set(&s->st, on ? opt : 0, on ? 0 : opt);
}

static void note_option(struct sock *s, int level, int name, const void *value, socklen_t len)
{
	if (level == IPPROTO_TCP && name == TCP_NODELAY) {
		note_flag(s, IPC_OPT_NODELAY, value, len);
	} else if (level == IPPROTO_TCP && name == TCP_CORK) {
		note_flag(s, IPC_OPT_CORK, value, len);
	} else if (level == IPPROTO_TCP && name == TCP_QUICKACK) {
		note_flag(s, IPC_OPT_QUICKACK, value, len);
	} else if (level == SOL_SOCKET && (name == SO_RCVTIMEO || name == SO_SNDTIMEO) &&
		   len >= sizeof(struct timeval)) {
		struct timeval t;
		uint64_t ns;

		memcpy(&t, value, sizeof(t));
		ns = (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_usec * NS_PER_US;
		*(name == SO_RCVTIMEO ? &s->rcvtimeo_ns : &s->sndtimeo_ns) = ns;
	}
}

PUBLIC int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	int ret = libc()->setsockopt(fd, level, name, value, len), saved = errno;
	struct sock *s = ret || !value ? NULL : sock_get(fd);

	if (s) {
		note_option(s, level, name, value, len);
		sock_put(s);
		errno = saved;
	}
	return ret;
}

/* ---- fcntl and ioctl ---- */

int sock_dup(int from, int to)
{
	struct file *f = to >= 0 ? file_get(from) : NULL;

	if (f) {
		if (f->type != FILE_OWN && !fd_in_vfork())
			fd_set_file(to, f);
		file_put(f);
	}
	return to;
}

static int do_fcntl(int (*real)(int, int, ...), int fd, int cmd, void *arg)
{
	struct sock *s;
	int ret;

	if (fd_is_own(fd))
		return fail(EBADF);
	ret = real(fd, cmd, arg);
	if (ret < 0 || !file_get_any(fd))
		return ret;
	if (cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC)
		return sock_dup(fd, ret);
	if (cmd == F_SETFL) {
		s = sock_get(fd);
		if (s) {
			s->nonblock = ((uintptr_t)arg & O_NONBLOCK) != 0;
			if ((uintptr_t)arg & O_ASYNC)
				s->try_at = NEVER; /* signals come from the kernel socket */
			sock_put(s);
		}
	}
	return ret;
}

PUBLIC int fcntl(int fd, int cmd, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, cmd);
	arg = va_arg(ap, void *);
	va_end(ap);
	return do_fcntl(libc()->fcntl, fd, cmd, arg);
}

PUBLIC int fcntl64(int fd, int cmd, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, cmd);
	arg = va_arg(ap, void *);
	va_end(ap);
	return do_fcntl(libc()->fcntl64, fd, cmd, arg);
}

/* ioctls about bytes. Returns true if answered. */
static bool fast_ioctl(struct sock *s, unsigned long req, void *arg)
{
	int n;

	if (sock_state(s) != SOCK_FAST || !arg)
		return false;
	if (req == FIONREAD)
		n = (int)stream_unread(&s->st);
	else if (req == SIOCOUTQ || req == SIOCOUTQNSD)
		n = (int)stream_unacked(&s->st);
	else
		return false;
	memcpy(arg, &n, sizeof(n)); /* the application's pointer need not be aligned */
	return true;
}

static int int_at(const void *arg)
{
	int n = 0;

	if (arg)
		memcpy(&n, arg, sizeof(n));
	return n;
}

PUBLIC int ioctl(int fd, unsigned long req, ...)
{
	struct sock *s;
	va_list ap;
	void *arg;
	int ret;

	va_start(ap, req);
	arg = va_arg(ap, void *);
	va_end(ap);
	s = sock_get(fd);
	if (!s)
		return libc()->ioctl(fd, req, arg);
	if (fast_ioctl(s, req, arg)) {
		ret = 0;
	} else {
		ret = libc()->ioctl(fd, req, arg);
		if (!ret && req == FIONBIO && arg)
			s->nonblock = int_at(arg) != 0;
		if (!ret && req == FIOASYNC && int_at(arg))
			s->try_at = NEVER;
	}
	sock_put(s);
	return ret;
}
