/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The C library's own functions behind the ones that are interposed. */
#ifndef PRELOAD_LIBC_H
#define PRELOAD_LIBC_H

#include <aio.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "service/base/compiler.h"

/* result, name, parameters */
#define LIBC_LIST(X)                                                                                            \
	X(int, socket, (int, int, int))                                                                         \
	X(int, accept, (int, struct sockaddr *, socklen_t *))                                                   \
	X(int, accept4, (int, struct sockaddr *, socklen_t *, int))                                             \
	X(int, connect, (int, const struct sockaddr *, socklen_t))                                              \
	X(int, bind, (int, const struct sockaddr *, socklen_t))                                                 \
	X(int, listen, (int, int))                                                                              \
	X(int, shutdown, (int, int))                                                                            \
	X(int, execve, (const char *, char *const *, char *const *))                                            \
	X(int, execvpe, (const char *, char *const *, char *const *))                                           \
	X(int, fexecve, (int, char *const *, char *const *))                                                    \
	X(int, posix_spawn,                                                                                     \
	  (pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const *, \
	   char *const *))                                                                                      \
	X(int, posix_spawnp,                                                                                    \
	  (pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const *, \
	   char *const *))                                                                                      \
	X(int, posix_spawn_file_actions_adddup2, (posix_spawn_file_actions_t *, int, int))                      \
	X(int, system, (const char *))                                                                          \
	X(FILE *, popen, (const char *, const char *))                                                          \
	X(int, pclose, (FILE *))                                                                                \
	X(int, fclose, (FILE *))                                                                                \
	X(pid_t, vfork, (void))                                                                                 \
	X(int, close, (int))                                                                                    \
	X(int, close_range, (unsigned, unsigned, int))                                                          \
	X(int, dup, (int))                                                                                      \
	X(int, dup2, (int, int))                                                                                \
	X(int, dup3, (int, int, int))                                                                           \
	X(int, fcntl, (int, int, ...))                                                                          \
	X(int, fcntl64, (int, int, ...))                                                                        \
	X(int, ioctl, (int, unsigned long, ...))                                                                \
	X(int, getsockopt, (int, int, int, void *, socklen_t *))                                                \
	X(int, setsockopt, (int, int, int, const void *, socklen_t))                                            \
	X(ssize_t, read, (int, void *, size_t))                                                                 \
	X(ssize_t, readv, (int, const struct iovec *, int))                                                     \
	X(ssize_t, preadv2, (int, const struct iovec *, int, off_t, int))                                       \
	X(ssize_t, preadv64v2, (int, const struct iovec *, int, off_t, int))                                    \
	X(ssize_t, recv, (int, void *, size_t, int))                                                            \
	X(ssize_t, recvfrom, (int, void *, size_t, int, struct sockaddr *, socklen_t *))                        \
	X(ssize_t, recvmsg, (int, struct msghdr *, int))                                                        \
	X(int, recvmmsg, (int, struct mmsghdr *, unsigned, int, struct timespec *))                             \
	X(ssize_t, write, (int, const void *, size_t))                                                          \
	X(ssize_t, writev, (int, const struct iovec *, int))                                                    \
	X(ssize_t, pwritev2, (int, const struct iovec *, int, off_t, int))                                      \
	X(ssize_t, pwritev64v2, (int, const struct iovec *, int, off_t, int))                                   \
	X(ssize_t, send, (int, const void *, size_t, int))                                                      \
	X(ssize_t, sendto, (int, const void *, size_t, int, const struct sockaddr *, socklen_t))                \
	X(ssize_t, sendmsg, (int, const struct msghdr *, int))                                                  \
	X(int, sendmmsg, (int, struct mmsghdr *, unsigned, int))                                                \
	X(ssize_t, sendfile, (int, int, off_t *, size_t))                                                       \
	X(ssize_t, splice, (int, off_t *, int, off_t *, size_t, unsigned))                                      \
	X(FILE *, fdopen, (int, const char *))                                                                  \
	X(int, vdprintf, (int, const char *, va_list))                                                          \
	X(int, __vdprintf_chk, (int, int, const char *, va_list))                                               \
	X(int, aio_read, (struct aiocb *))                                                                      \
	X(int, aio_write, (struct aiocb *))                                                                     \
	X(int, lio_listio, (int, struct aiocb *const *, int, struct sigevent *))                                \
	X(long, syscall, (long, ...))                                                                           \
	X(int, prctl, (int, ...))                                                                               \
	X(int, poll, (struct pollfd *, nfds_t, int))                                                            \
	X(int, ppoll, (struct pollfd *, nfds_t, const struct timespec *, const sigset_t *))                     \
	X(int, select, (int, fd_set *, fd_set *, fd_set *, struct timeval *))                                   \
	X(int, pselect, (int, fd_set *, fd_set *, fd_set *, const struct timespec *, const sigset_t *))         \
	X(int, epoll_create, (int))                                                                             \
	X(int, epoll_create1, (int))                                                                            \
	X(int, epoll_ctl, (int, int, int, struct epoll_event *))                                                \
	X(int, epoll_wait, (int, struct epoll_event *, int, int))                                               \
	X(int, epoll_pwait, (int, struct epoll_event *, int, int, const sigset_t *))                            \
	X(int, epoll_pwait2, (int, struct epoll_event *, int, const struct timespec *, const sigset_t *))

struct libc {
#define X(type, name, args) type(*name) args;
	LIBC_LIST(X)
#undef X
	bool ready;
};

extern struct libc libc_table;
void libc_resolve(void);

/* Found on first use: another library's constructor may call us before our own has run. */
static inline const struct libc *libc(void)
{
	if (unlikely(!libc_table.ready))
		libc_resolve();
	return &libc_table;
}

#define PUBLIC __attribute__((visibility("default")))

#endif
