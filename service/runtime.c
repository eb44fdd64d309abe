/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control socket's place. The host's service has /run/tapas, which its unit makes. A user's own has
 * $XDG_RUNTIME_DIR/tapas (see service/ipc/place.h for how it is found): made here with mode 0700, and used only if
 * nobody else can have made it or can put something into it. Programs give their descriptors to whoever listens there.
 */
#include "service/runtime.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/ipc/place.h"

int runtime_socket(struct config *c, char *why, unsigned why_size)
{
	int rc;

	static_assert(sizeof c->socket == IPC_PLACE_MAX, "both are paths of sockets");
	if (!c->local_only || !geteuid()) {
		strcpy(c->socket, IPC_SOCKET_PATH);
		return 0;
	}
	rc = ipc_place_of_user(c->socket);
	if (rc == -ENOENT)
		snprintf(why, why_size,
			 "no place for the control socket: set XDG_RUNTIME_DIR to a directory of yours with mode 0700, "
			 "or give -s SOCKET, or socket= in a file after -c");
	else if (rc)
		snprintf(why, why_size, "XDG_RUNTIME_DIR is too long for the path of a socket: give -s SOCKET");
	return rc;
}

/* Is the socket in the user's usual place? Then into @dir its directory. */
static bool runtime_is_own(const struct config *c, char dir[IPC_PLACE_MAX])
{
	if (!c->local_only || !geteuid() || ipc_place_of_user(dir) || strcmp(c->socket, dir))
		return false;
	*strrchr(dir, '/') = 0;
	return true;
}

static int runtime_not_own(const char *dir, int rc, char *why, unsigned why_size)
{
	if (rc == -EPERM)
		snprintf(why, why_size,
			 "%s must be a directory of yours, no symbolic link, and writable by you alone: set "
			 "XDG_RUNTIME_DIR to such a one, or give -s SOCKET",
			 dir);
	else
		snprintf(why, why_size, "%s: %s: set XDG_RUNTIME_DIR to a directory of yours, or give -s SOCKET", dir,
			 strerror(-rc));
	return rc;
}

/* Its mode may be wider than what was asked for, if it was there before. */
static int runtime_close_to_others(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), rc = 0;
	struct stat st;

	if (fd < 0)
		return errno == ELOOP || errno == ENOTDIR ? -EPERM : -errno;
	if (fstat(fd, &st) || st.st_uid != geteuid() || fchmod(fd, 0700))
		rc = -EPERM;
	close(fd);
	return rc;
}

int runtime_open(const struct config *c, char *why, unsigned why_size)
{
	char dir[IPC_PLACE_MAX], home[IPC_PLACE_MAX];
	int rc;

	if (!runtime_is_own(c, dir))
		return 0;
	strcpy(home, dir);
	*strrchr(home, '/') = 0;
	rc = ipc_place_check(home[0] ? home : "/");
	if (rc)
		return runtime_not_own(home, rc, why, why_size);
	if (mkdir(dir, 0700) && errno != EEXIST)
		return runtime_not_own(dir, -errno, why, why_size);
	rc = ipc_place_check(dir);
	if (!rc)
		rc = runtime_close_to_others(dir);
	return rc ? runtime_not_own(dir, rc, why, why_size) : 0;
}

void runtime_close(const struct config *c)
{
	char dir[IPC_PLACE_MAX];

	/* not empty: another one is there, or has begun to be */
	if (runtime_is_own(c, dir) && rmdir(dir))
		return;
}
