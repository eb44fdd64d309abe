/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The socket's half of adopt, where TCP_REPAIR is not needed: may this socket be adopted at
 * all, the filter that keeps wire bytes out of it, a duplicate of it, who holds it. Main
 * thread. Its exact state is read in repair.c.
 *
 * What can't be seen from outside: whether the socket is in a sockmap (its BPF programs would
 * miss the bytes), and whether another process holds a duplicate of the descriptor.
 */
#include "shadow/shadow.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "service/base/addr.h"
#include "service/base/closer.h"
#include "service/base/compiler.h"
#include "service/ipc/abi.h"
#include "shadow/sock.h"

#define SOCK_IPPROTO_MPTCP 262
#define SOCK_TCP_AO_INFO 40  /* TCP_AO_INFO, newer than Debian 12's headers */
#define SOCK_TCP_IS_MPTCP 43 /* TCP_IS_MPTCP */
#define SOCK_BINDTOIFINDEX 62
#define SOCK_DEVICES 16

/*
 * Devices that examined sockets were bound to (SO_BINDTODEVICE): sock_diag finds such a
 * socket only if the device is named, and a 4-tuple alone doesn't say it.
 */
static int sock_device[SOCK_DEVICES];
static unsigned sock_devices;

static int sock_option(int fd, int level, int name, int fallback)
{
	socklen_t len = sizeof(int);
	int v = 0;

	return getsockopt(fd, level, name, &v, &len) ? fallback : v;
}

static int sock_examine_kind(int fd)
{
	int domain = sock_option(fd, SOL_SOCKET, SO_DOMAIN, -1);
	int type = sock_option(fd, SOL_SOCKET, SO_TYPE, -1);
	int proto = sock_option(fd, SOL_SOCKET, SO_PROTOCOL, -1);

	if (domain != AF_INET && domain != AF_INET6)
		return domain < 0 ? IPC_REASON_NOT_TCP : IPC_REASON_FAMILY;
	if (type != SOCK_STREAM)
		return IPC_REASON_NOT_TCP;
	if (proto == SOCK_IPPROTO_MPTCP)
		return IPC_REASON_OPTIONS;
	return proto == IPPROTO_TCP ? 0 : IPC_REASON_NOT_TCP;
}

/* ---- IPC_TAKEN_HINT ---- */

static uint64_t sock_hint(int fd)
{
	uint64_t hint = RWH_WRITE_LIFE_NOT_SET;

	fcntl(fd, F_GET_RW_HINT, &hint);
	return hint;
}

static int sock_hint_set(int fd, uint64_t hint)
{
	return fcntl(fd, F_SET_RW_HINT, &hint) ? -errno : 0;
}

/* ---- may it be adopted? ---- */

static int sock_examine_options(int fd)
{
	struct {
		uint32_t head[2];
		uint64_t counters[3];
	} ao = {0};
	char ulp[16];
	socklen_t len = sizeof ulp;

	if (!getsockopt(fd, IPPROTO_TCP, TCP_ULP, ulp, &len) && len > 0)
		return IPC_REASON_OPTIONS;
	len = sizeof ao;
	if (!getsockopt(fd, IPPROTO_TCP, SOCK_TCP_AO_INFO, &ao, &len))
		return IPC_REASON_OPTIONS;
	if (sock_option(fd, IPPROTO_TCP, SOCK_TCP_IS_MPTCP, 0) > 0)
		return IPC_REASON_OPTIONS;
	/* a filter of the application's own judges packets that would no longer come */
	len = 0;
	if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, NULL, &len) || len > 0 || sock_hint(fd) == IPC_TAKEN_HINT)
		return IPC_REASON_OPTIONS;
	/* what is in repair is not being used, and leaving repair would end that */
	if (sock_option(fd, IPPROTO_TCP, TCP_REPAIR, 0) > 0)
		return IPC_REASON_OPTIONS;
	/* peeking would move the application's own peek position */
	return sock_option(fd, SOL_SOCKET, SO_PEEK_OFF, -1) >= 0 ? IPC_REASON_OPTIONS : 0;
}

static int sock_examine_addresses(int fd, struct sock_state *st)
{
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof ss;

	if (getsockname(fd, (struct sockaddr *)&ss, &len) ||
	    ip_addr_from_sockaddr(&ss, &st->key.local, &st->key.local_port))
		return IPC_REASON_NOT_TCP;
	st->v6 = ss.ss_family == AF_INET6;
	len = sizeof ss;
	if (getpeername(fd, (struct sockaddr *)&ss, &len) ||
	    ip_addr_from_sockaddr(&ss, &st->key.remote, &st->key.remote_port))
		return IPC_REASON_NOT_TCP;
	if (ip_addr_is_v4(&st->key.local) != ip_addr_is_v4(&st->key.remote))
		return IPC_REASON_FAMILY;
	st->same_host = ip_addr_is_special(&st->key.local) || ip_addr_is_special(&st->key.remote) ||
			ip_addr_equal(&st->key.local, &st->key.remote);
	return 0;
}

/* Remember the device for sock_is_orphan(). False: too many. */
static bool sock_device_note(int ifindex)
{
	for (unsigned i = 0; i < sock_devices; i++)
		if (sock_device[i] == ifindex)
			return true;
	if (sock_devices == SOCK_DEVICES)
		return false;
	sock_device[sock_devices++] = ifindex;
	return true;
}

/* sock_diag must know the very same socket under this tuple: else it lives in another network namespace. */
static int sock_examine_diag(int fd, const struct sock_state *st)
{
	int ifindex = sock_option(fd, SOL_SOCKET, SOCK_BINDTOIFINDEX, 0);
	struct sock_diag d;
	int rc;

	if (ifindex && !sock_device_note(ifindex))
		return IPC_REASON_FULL;
	rc = sock_diag_find(&st->key, ifindex, &d);
	if (rc == -ENOENT || (!rc && d.cookie != st->cookie))
		return IPC_REASON_NOT_OURS;
	if (rc)
		return IPC_REASON_ERROR;
	return d.md5 ? IPC_REASON_OPTIONS : 0;
}

uint64_t sock_cookie(int fd)
{
	uint64_t cookie = 0;
	socklen_t len = sizeof cookie;

	return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) ? 0 : cookie;
}

int sock_examine(int fd, struct sock_state *st)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof info;
	struct stat sb;
	int rc = sock_examine_kind(fd);

	if (rc)
		return rc;
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) || info.tcpi_state != TCP_STATE_ESTABLISHED)
		return IPC_REASON_NOT_TCP;
	rc = sock_examine_addresses(fd, st);
	if (!rc)
		rc = sock_examine_options(fd);
	if (rc)
		return rc;
	st->cookie = sock_cookie(fd);
	if (!st->cookie || fstat(fd, &sb))
		return IPC_REASON_ERROR;
	st->uid = sb.st_uid;
	return sock_examine_diag(fd, st);
}

/* ---- the filter ---- */

static int sock_filter_set(int fd, struct sock_filter *insn, unsigned n)
{
	struct sock_fprog prog = {.len = (unsigned short)n, .filter = insn};

	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof prog) ? -errno : 0;
}

/*
 * A filter on a TCP socket sees the segment from its TCP header on. A SYN is never the
 * shadow's. Empty ones (also FIN, RST) pass at rcv_nxt and rcv_nxt + 1; one byte, and no FIN
 * behind it, at rcv_nxt - 1.
 */
int sock_filter_attach(int fd, uint32_t rcv_nxt)
{
	struct sock_filter insn[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13),               /* flags */
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, TCP_SYN, 16, 0), /* -> drop */
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 12),               /* data offset */
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xf0),
		BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 2),
		BPF_STMT(BPF_MISC | BPF_TAX, 0),
		BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0),
		BPF_STMT(BPF_ALU | BPF_SUB | BPF_X, 0),       /* payload bytes */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 5, 0), /* -> empty */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 8), /* else -> drop */
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, TCP_FIN | TCP_RST, 6, 0), /* -> drop */
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, rcv_nxt - 1, 3, 4), /* -> accept, drop */
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 4),                  /* empty: */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, rcv_nxt, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, rcv_nxt + 1, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, UINT32_MAX), /* accept */
		BPF_STMT(BPF_RET | BPF_K, 0),          /* drop */
	};

	return sock_filter_set(fd, insn, ARRAY_SIZE(insn));
}

int sock_filter_attach_closed(int fd)
{
	struct sock_filter insn[] = {BPF_STMT(BPF_RET | BPF_K, 0)};

	return sock_filter_set(fd, insn, ARRAY_SIZE(insn));
}

int sock_filter_attach_open(int fd)
{
	struct sock_filter insn[] = {BPF_STMT(BPF_RET | BPF_K, UINT32_MAX)};

	int rc = sock_filter_set(fd, insn, ARRAY_SIZE(insn));

	return rc == -EPERM ? sock_hint_set(fd, IPC_TAKEN_HINT) : rc;
}

int sock_filter_detach(int fd)
{
	int unused = 0;

	if (!setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &unused, sizeof unused))
		return 0;
	if (errno != ENOENT)
		return -errno;
	return sock_hint(fd) == IPC_TAKEN_HINT ? sock_hint_set(fd, RWH_WRITE_LIFE_NOT_SET) : 0;
}

/* ---- whose socket ---- */

bool sock_is_used(int fd)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = IPC_USED_BYTE, .l_len = 1};

	return !fcntl(fd, F_GETLK, &l) && l.l_type != F_UNLCK;
}

void sock_restored_lock(int fd, bool on)
{
	struct flock l = {.l_type = on ? F_WRLCK : F_UNLCK,
			  .l_whence = SEEK_SET,
			  .l_start = IPC_RESTORED_BYTE,
			  .l_len = 1};

	if (fd >= 0)
		fcntl(fd, F_OFD_SETLK, &l);
}

int sock_fetch(pid_t pid, int fd, uint64_t cookie)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), got, rc;

	if (pidfd < 0)
		return -errno;
	got = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	rc = got < 0 ? -errno : 0;
	close(pidfd);
	if (rc)
		return rc;
	if (sock_cookie(got) != cookie)
		rc = -ESTALE; /* the number was closed and used again */
	if (rc) {
		closer_close(got);
		return rc;
	}
	return got;
}

/* Descriptors of process @pid that are socket @inode: the first with @cookie. fd or -errno. */
static int sock_fetch_from(pid_t pid, uint32_t inode, uint64_t cookie)
{
	char path[64], want[32], link[32];
	struct dirent *e;
	int fd = -ENOENT;
	DIR *dir;

	snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
	snprintf(want, sizeof want, "socket:[%u]", inode);
	dir = opendir(path);
	if (!dir)
		return -errno;
	while (fd < 0 && (e = readdir(dir))) {
		ssize_t n = readlinkat(dirfd(dir), e->d_name, link, sizeof link - 1);

		if (n <= 0)
			continue;
		link[n] = 0;
		if (!strcmp(link, want))
			fd = sock_fetch(pid, atoi(e->d_name), cookie);
	}
	closedir(dir);
	return fd;
}

int sock_fetch_any(pid_t pid, const struct flow_key *key, uint64_t cookie)
{
	struct sock_diag d;
	struct dirent *e;
	int fd, rc = sock_diag_find(key, 0, &d);
	DIR *dir;

	if (rc || !d.inode)
		return rc ? rc : -ENOENT;
	fd = sock_fetch_from(pid, d.inode, cookie);
	dir = fd < 0 ? opendir("/proc") : NULL;
	while (dir && fd < 0 && (e = readdir(dir)))
		if (atoi(e->d_name) > 0)
			fd = sock_fetch_from(atoi(e->d_name), d.inode, cookie);
	if (dir)
		closedir(dir);
	return fd;
}

int sock_diag_any(const struct flow_key *key, struct sock_diag *out)
{
	int rc = sock_diag_find(key, 0, out);

	for (unsigned i = 0; rc == -ENOENT && i < sock_devices; i++)
		rc = sock_diag_find(key, sock_device[i], out);
	return rc;
}

int sock_is_orphan(const struct flow_key *key)
{
	struct sock_diag d;
	int rc = sock_diag_any(key, &d);

	if (rc == -ENOENT)
		return 1;
	return rc ? rc : d.inode == 0;
}
