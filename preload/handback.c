/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Calls that lead past the library, or ask for what only the kernel's socket has: urgent data,
 * SIGIO, zero copy, stdio, aio, io_uring, another filter or protocol on the socket. The
 * connection is handed back to Linux before the call, and is not adopted again. Not in a
 * packet's way. Any thread.
 */
#define _GNU_SOURCE 1
#include "preload/handback.h"

#include <aio.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

void handback(int fd)
{
	struct sock *s = sock_get(fd);
	int saved = errno;

	if (!s)
		return;
	sock_return(s, fd, true);
	sock_put(s);
	errno = saved;
}

void handback_send(int fd, int flags)
{
	int on = 0, saved = errno;
	socklen_t len = sizeof(on);

	if (!file_get_any(fd))
		return;
	/* without SO_ZEROCOPY the flag means nothing */
	if (!(flags & MSG_OOB) && (libc()->getsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &on, &len) || !on)) {
		errno = saved;
		return;
	}
	handback(fd);
}

void handback_all(void)
{
	int top = fd_top();

	/* pairs with the look in adopt_try() */
	atomic_store_explicit(&sock_stay, true, memory_order_seq_cst);
	for (int fd = 0; fd <= top; fd++)
		handback(fd);
}

/* ---- stdio: it reads and writes inside libc ---- */

PUBLIC FILE *fdopen(int fd, const char *mode)
{
	if (file_get_any(fd))
		handback(fd);
	return libc()->fdopen(fd, mode);
}

PUBLIC int vdprintf(int fd, const char *format, va_list ap)
{
	if (file_get_any(fd))
		handback(fd);
	return libc()->vdprintf(fd, format, ap);
}

PUBLIC int dprintf(int fd, const char *format, ...)
{
	va_list ap;
	int n;

	va_start(ap, format);
	n = vdprintf(fd, format, ap);
	va_end(ap);
	return n;
}

PUBLIC int __vdprintf_chk(int fd, int flag, const char *format, va_list ap);
PUBLIC int __vdprintf_chk(int fd, int flag, const char *format, va_list ap)
{
	if (file_get_any(fd))
		handback(fd);
	return libc()->__vdprintf_chk(fd, flag, format, ap);
}

PUBLIC int __dprintf_chk(int fd, int flag, const char *format, ...);
PUBLIC int __dprintf_chk(int fd, int flag, const char *format, ...)
{
	va_list ap;
	int n;

	va_start(ap, format);
	n = __vdprintf_chk(fd, flag, format, ap);
	va_end(ap);
	return n;
}

/* ---- POSIX aio: threads inside libc; its calls for 64-bit offsets are the same on 64-bit systems ---- */

static void aio_handback(const struct aiocb *cb)
{
	if (cb && file_get_any(cb->aio_fildes))
		handback(cb->aio_fildes);
}

PUBLIC int aio_read(struct aiocb *cb)
{
	aio_handback(cb);
	return libc()->aio_read(cb);
}

PUBLIC int aio_write(struct aiocb *cb)
{
	aio_handback(cb);
	return libc()->aio_write(cb);
}

PUBLIC int lio_listio(int mode, struct aiocb *const list[], int n, struct sigevent *sig)
{
	for (int i = 0; i < n; i++)
		aio_handback(list[i]);
	return libc()->lio_listio(mode, list, n, sig);
}

PUBLIC int aio_read64(struct aiocb64 *cb)
{
	return aio_read((struct aiocb *)cb);
}

PUBLIC int aio_write64(struct aiocb64 *cb)
{
	return aio_write((struct aiocb *)cb);
}

PUBLIC int lio_listio64(int mode, struct aiocb64 *const list[], int n, struct sigevent *sig)
{
	return lio_listio(mode, (struct aiocb *const *)list, n, sig);
}

/* ---- io_uring by way of liburing, which makes its system calls itself ---- */

struct io_uring;
struct io_uring_params;
PUBLIC int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);
PUBLIC int io_uring_queue_init_params(unsigned entries, struct io_uring *ring, struct io_uring_params *p);
PUBLIC int io_uring_setup(unsigned entries, struct io_uring_params *p);

/* liburing may have been loaded after us, for a plug-in alone. */
static void *uring_next(const char *name)
{
	static const char *const names[] = {"liburing.so.2", "liburing.so.1"};
	void *f = dlsym(RTLD_NEXT, name), *lib;

	for (size_t i = 0; i < ARRAY_SIZE(names) && !f; i++) {
		lib = dlopen(names[i], RTLD_LAZY | RTLD_NOLOAD);
		if (lib) {
			f = dlsym(lib, name);
			dlclose(lib); /* whoever called us holds it */
		}
	}
	return f;
}

PUBLIC int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
	int (*next)(unsigned, struct io_uring *, unsigned);

	handback_all();
	*(void **)(void *)&next = uring_next("io_uring_queue_init");
	return next ? next(entries, ring, flags) : -ENOSYS;
}

PUBLIC int io_uring_queue_init_params(unsigned entries, struct io_uring *ring, struct io_uring_params *p)
{
	int (*next)(unsigned, struct io_uring *, struct io_uring_params *);

	handback_all();
	*(void **)(void *)&next = uring_next("io_uring_queue_init_params");
	return next ? next(entries, ring, p) : -ENOSYS;
}

PUBLIC int io_uring_setup(unsigned entries, struct io_uring_params *p)
{
	int (*next)(unsigned, struct io_uring_params *);

	handback_all();
	*(void **)(void *)&next = uring_next("io_uring_setup");
	return next ? next(entries, p) : -ENOSYS;
}
