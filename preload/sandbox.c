/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Programs that confine themselves with seccomp: their filter knows the system calls that the program makes, and may end
 * it for any other. So before a filter is installed all connections go back to Linux, epoll instances become what the
 * program made of them, and the library forgets every descriptor and takes no new one: what is called then is libc's
 * function, and nothing else. Not in a packet's way. Any thread.
 *
 * It holds for the whole process, although a filter may be one thread's alone, and for its children. Other processes may
 * hold a connection too, such as the monitor of a privileged parent, and have it adopted later, but not while this one
 * uses it in the kernel. It cannot say so later, so it does now, for each connection (share.c). That mark goes with the
 * process: its parent may go on with the connection by the fast path. It would also go with any descriptor of the
 * socket: where there are several it is tied to the socket instead, and nobody adopts it any more.
 *
 * What is not seen: a filter that is installed by an instruction of the program itself.
 */
#define _GNU_SOURCE 1
#include "preload/sandbox.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "preload/epoll.h"
#include "preload/handback.h"
#include "preload/share.h"
#include "preload/user.h"
#include "service/base/clock.h"

#define LIMIT_NS (5 * NS_PER_S) /* for connections on their way */

static struct lock enter_lock;

/* It is Linux's now, for good, and says so. False: the service does not give it back, or it was reset. */
static bool sock_leave(struct sock *s, uint64_t deadline)
{
	while (sock_return(s, s->fd, true) && sock_state(s) != SOCK_FAST && clock_now_ns() < deadline)
		syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = NS_PER_MS}, NULL);
	if (sock_state(s) != SOCK_LINUX)
		return false;
	if (s->listener)
		return true;
	if (atomic_load_explicit(&s->file.fds, memory_order_relaxed) > 1)
		share_mark_open(s);
	else
		share_mark(s);
	if (lock_take(&s->lock)) {
		ep_items_plain(s);
		lock_drop(&s->lock);
	}
	return true;
}

/* Returns how many connections are not Linux's. */
static uint32_t leave_all(void)
{
	uint64_t deadline = clock_now_ns() + LIMIT_NS;
	int top = fd_top();
	uint32_t left = 0;

	for (int fd = 0; fd <= top; fd++) {
		struct file *f = file_get(fd);

		if (f && f->type == FILE_SOCK)
			left += !sock_leave(container_of(f, struct sock, file), deadline);
		else if (f && f->type == FILE_EPOLL)
			ep_plain(container_of(f, struct ep, file));
		if (f)
			file_put(f);
	}
	return left;
}

/* What is not Linux's stays known, and so do our own descriptors: what has arrived can be read. */
static void forget_all(bool keep)
{
	int top = fd_top();

	for (int fd = 0; fd <= top; fd++) {
		struct sock *s = sock_get(fd);
		bool linux_has_it = !s || sock_state(s) == SOCK_LINUX;

		if (s)
			sock_put(s);
		if (!keep || (linux_has_it && !fd_is_own(fd)))
			fd_forget(fd);
	}
}

void sandbox_enter(void)
{
	struct core *c;
	int saved = errno;
	uint32_t left;

	if (fd_top() < 0) { /* it has had no connection */
		atomic_store_explicit(&user_confined, true, memory_order_relaxed);
		return;
	}
	/* a vfork child has its parent's memory */
	if (user_is_confined() || fd_in_vfork() || !lock_take(&enter_lock))
		return;
	if (user_is_confined()) { /* by another thread, just now */
		lock_drop(&enter_lock);
		return;
	}
	handback_all();
	left = leave_all();
	/* other threads find nothing in the table from here on, and enter nothing */
	atomic_store_explicit(&user_confined, true, memory_order_seq_cst);
	c = atomic_load_explicit(&sock_core, memory_order_acquire);
	if (!left && c) {
		atomic_store_explicit(&sock_core, NULL, memory_order_release);
		core_kill(c);
	}
	forget_all(left != 0);
	lock_drop(&enter_lock);
	errno = saved;
}

bool sandbox_is_seccomp(unsigned op, const void *args)
{
	/* without a program: a question whether the kernel knows it */
	return op == SECCOMP_SET_MODE_STRICT || (op == SECCOMP_SET_MODE_FILTER && args);
}

PUBLIC int prctl(int option, ...)
{
	unsigned long a[4];
	va_list ap;

	va_start(ap, option);
	for (int i = 0; i < 4; i++)
		a[i] = va_arg(ap, unsigned long);
	va_end(ap);
	if (option == PR_SET_SECCOMP && (a[0] == SECCOMP_MODE_STRICT || (a[0] == SECCOMP_MODE_FILTER && a[1])))
		sandbox_enter();
	return libc()->prctl(option, a[0], a[1], a[2], a[3]);
}
