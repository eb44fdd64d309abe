/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * syscall(): a call made by its number is the call of that name. Not in a packet's way. Any
 * thread; async-signal-safe as the calls themselves are.
 *
 * The library's own uses of syscall() are linked to __wrap_syscall() and go to the kernel.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/select.h>
#include <sys/syscall.h>

#include "preload/handback.h"
#include "preload/sandbox.h"
#include "preload/user.h"
#include "preload/wait.h"
#include "service/base/clock.h"

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

long __wrap_syscall(long nr, ...);

struct args {
	long a[6];
};

/* Six, as libc takes them, whether the caller has given so many or not: what is beyond is not looked at by anybody. */
__attribute__((no_sanitize("address"))) static struct args args_get(va_list ap)
{
	struct args x;

	for (int i = 0; i < 6; i++)
		x.a[i] = va_arg(ap, long);
	return x;
}

static long to_kernel(long nr, const struct args *x)
{
	return libc()->syscall(nr, x->a[0], x->a[1], x->a[2], x->a[3], x->a[4], x->a[5]);
}

long __wrap_syscall(long nr, ...)
{
	struct args x;
	va_list ap;

	va_start(ap, nr);
	x = args_get(ap);
	va_end(ap);
	return to_kernel(nr, &x);
}

#define INT(i) ((int)x->a[i])
#define UINT(i) ((unsigned)x->a[i])
#define SIZE(i) ((size_t)x->a[i])
#define PTR(i) ((void *)x->a[i])

/* ---- calls whose arguments differ from those of their name's function ---- */

/* The kernel's signal mask as libc's. False: the kernel will refuse it. */
static bool mask_get(const void *raw, size_t size, sigset_t *mask)
{
	sigemptyset(mask);
	if (!raw)
		return true;
	if (size != USER_SIGSET || !user_readable(raw, size))
		return false;
	memcpy(mask, raw, USER_SIGSET);
	return true;
}

/* The kernel writes the rest of the time back, which the functions do not. */
static void time_put(struct timespec *t, uint64_t deadline)
{
	uint64_t left = wait_left(deadline);
	int saved = errno;

	if (t && user_writable(t, sizeof(*t)))
		*t = (struct timespec){.tv_sec = (time_t)(left / NS_PER_S), .tv_nsec = (long)(left % NS_PER_S)};
	errno = saved;
}

static long sys_ppoll(const struct args *x)
{
	struct timespec *t = PTR(2);
	uint64_t deadline;
	sigset_t mask;
	int n;

	if (!mask_get(PTR(3), SIZE(4), &mask) || !wait_until(t, &deadline))
		return to_kernel(SYS_ppoll, x);
	n = ppoll(PTR(0), (nfds_t)x->a[1], t, x->a[3] ? &mask : NULL);
	time_put(t, deadline);
	return n;
}

static long sys_pselect6(const struct args *x)
{
	struct {
		const void *mask;
		size_t size;
	} six = {NULL, 0};
	struct timespec *t = PTR(4);
	uint64_t deadline;
	sigset_t mask;
	int n;

	if (x->a[5] && !user_readable(PTR(5), sizeof(six)))
		return to_kernel(SYS_pselect6, x);
	if (x->a[5])
		memcpy(&six, PTR(5), sizeof(six));
	if (!mask_get(six.mask, six.size, &mask) || !wait_until(t, &deadline))
		return to_kernel(SYS_pselect6, x);
	n = pselect(INT(0), PTR(1), PTR(2), PTR(3), t, six.mask ? &mask : NULL);
	time_put(t, deadline);
	return n;
}

static long sys_epoll_pwait(long nr, const struct args *x)
{
	sigset_t mask;

	if (!mask_get(PTR(4), SIZE(5), &mask))
		return to_kernel(nr, x);
	if (nr == SYS_epoll_pwait)
		return epoll_pwait(INT(0), PTR(1), INT(2), INT(3), x->a[4] ? &mask : NULL);
	return epoll_pwait2(INT(0), PTR(1), INT(2), PTR(3), x->a[4] ? &mask : NULL);
}

/* ---- the table ---- */

static long call_io(long nr, const struct args *x)
{
	switch (nr) {
	case SYS_read:
		return read(INT(0), PTR(1), SIZE(2));
	case SYS_write:
		return write(INT(0), PTR(1), SIZE(2));
	case SYS_readv:
		return readv(INT(0), PTR(1), INT(2));
	case SYS_writev:
		return writev(INT(0), PTR(1), INT(2));
	case SYS_preadv2: /* the offset is in two words; the second one is unused where a word has 64 bits */
		return preadv2(INT(0), PTR(1), INT(2), x->a[3], INT(5));
	case SYS_pwritev2:
		return pwritev2(INT(0), PTR(1), INT(2), x->a[3], INT(5));
	case SYS_recvfrom:
		return recvfrom(INT(0), PTR(1), SIZE(2), INT(3), PTR(4), PTR(5));
	case SYS_sendto:
		return sendto(INT(0), PTR(1), SIZE(2), INT(3), PTR(4), (socklen_t)x->a[5]);
	case SYS_recvmsg:
		return recvmsg(INT(0), PTR(1), INT(2));
	case SYS_sendmsg:
		return sendmsg(INT(0), PTR(1), INT(2));
	case SYS_recvmmsg:
		return recvmmsg(INT(0), PTR(1), UINT(2), INT(3), PTR(4));
	case SYS_sendmmsg:
		return sendmmsg(INT(0), PTR(1), UINT(2), INT(3));
	case SYS_sendfile:
		return sendfile(INT(0), INT(1), PTR(2), SIZE(3));
	default:
		return splice(INT(0), PTR(1), INT(2), PTR(3), SIZE(4), UINT(5));
	}
}

static long call_wait(long nr, const struct args *x)
{
	switch (nr) {
#ifdef SYS_poll
	case SYS_poll:
		return poll(PTR(0), (nfds_t)x->a[1], INT(2));
	case SYS_select:
		return select(INT(0), PTR(1), PTR(2), PTR(3), PTR(4));
	case SYS_epoll_create:
		return epoll_create(INT(0));
	case SYS_epoll_wait:
		return epoll_wait(INT(0), PTR(1), INT(2), INT(3));
#endif
	case SYS_ppoll:
		return sys_ppoll(x);
	case SYS_pselect6:
		return sys_pselect6(x);
	case SYS_epoll_create1:
		return epoll_create1(INT(0));
	case SYS_epoll_ctl:
		return epoll_ctl(INT(0), INT(1), INT(2), PTR(3));
	default:
		return sys_epoll_pwait(nr, x);
	}
}

/* Those about a socket, not its bytes. */
static long call_socket(long nr, const struct args *x)
{
	switch (nr) {
	case SYS_socket:
		return socket(INT(0), INT(1), INT(2));
	case SYS_connect:
		return connect(INT(0), PTR(1), (socklen_t)x->a[2]);
	case SYS_accept:
		return accept(INT(0), PTR(1), PTR(2));
	case SYS_accept4:
		return accept4(INT(0), PTR(1), PTR(2), INT(3));
	case SYS_bind:
		return bind(INT(0), PTR(1), (socklen_t)x->a[2]);
	case SYS_listen:
		return listen(INT(0), INT(1));
	case SYS_shutdown:
		return shutdown(INT(0), INT(1));
	case SYS_getsockopt:
		return getsockopt(INT(0), INT(1), INT(2), PTR(3), PTR(4));
	default:
		return setsockopt(INT(0), INT(1), INT(2), PTR(3), (socklen_t)x->a[4]);
	}
}

PUBLIC long syscall(long nr, ...)
{
	struct args args, *x = &args;
	va_list ap;

	va_start(ap, nr);
	args = args_get(ap);
	va_end(ap);
	if (user_is_confined())
		return to_kernel(nr, x);
	switch (nr) {
	case SYS_read:
	case SYS_write:
	case SYS_readv:
	case SYS_writev:
	case SYS_preadv2:
	case SYS_pwritev2:
	case SYS_recvfrom:
	case SYS_sendto:
	case SYS_recvmsg:
	case SYS_sendmsg:
	case SYS_recvmmsg:
	case SYS_sendmmsg:
	case SYS_sendfile:
	case SYS_splice:
		return call_io(nr, x);
#ifdef SYS_poll
	case SYS_poll:
	case SYS_select:
	case SYS_epoll_create:
	case SYS_epoll_wait:
#endif
	case SYS_ppoll:
	case SYS_pselect6:
	case SYS_epoll_create1:
	case SYS_epoll_ctl:
	case SYS_epoll_pwait:
	case SYS_epoll_pwait2:
		return call_wait(nr, x);
	case SYS_close:
		return close(INT(0));
	case SYS_close_range:
		return close_range(UINT(0), UINT(1), INT(2));
	case SYS_dup:
		return dup(INT(0));
#ifdef SYS_dup2
	case SYS_dup2:
		return dup2(INT(0), INT(1));
#endif
	case SYS_dup3:
		return dup3(INT(0), INT(1), INT(2));
	case SYS_fcntl:
		return fcntl(INT(0), INT(1), PTR(2));
	case SYS_ioctl:
		return ioctl(INT(0), (unsigned long)x->a[1], PTR(2));
	case SYS_socket:
	case SYS_connect:
	case SYS_accept:
	case SYS_accept4:
	case SYS_bind:
	case SYS_listen:
	case SYS_shutdown:
	case SYS_getsockopt:
	case SYS_setsockopt:
		return call_socket(nr, x);
	case SYS_execve:
		return execve(PTR(0), PTR(1), PTR(2));
	case SYS_prctl:
		return prctl(INT(0), x->a[1], x->a[2], x->a[3], x->a[4]);
	case SYS_seccomp:
		if (sandbox_is_seccomp(UINT(0), PTR(2)))
			sandbox_enter();
		return to_kernel(nr, x);
	case SYS_io_uring_setup:
		handback_all();
		return to_kernel(nr, x);
	default:
		return to_kernel(nr, x);
	}
}
