/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finding the service's socket. Any thread; libc only, as it is also part of the library.
 *
 * What the environment may do: IPC_SOCKET_ENV names any path, as whoever sets it could as well set LD_PRELOAD.
 * XDG_RUNTIME_DIR is there without anybody having thought of us, and survives su and sudo: what lies there counts only
 * if neither the directories nor whoever listens can be another user's, as the service gets descriptors from us. Of a
 * process that has more rights than who started it, the environment decides nothing.
 */
#include "service/ipc/place.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/ipc/msg.h"

#define PLACE_HOME "XDG_RUNTIME_DIR"

int ipc_place_of_user(char out[IPC_PLACE_MAX])
{
	const char *home = secure_getenv(PLACE_HOME);
	int n;

	if (!home || home[0] != '/')
		return -ENOENT;
	n = snprintf(out, IPC_PLACE_MAX, "%s/tapas/tapasd.sock", home);
	return n < 0 || n >= IPC_PLACE_MAX ? -ENAMETOOLONG : 0;
}

int ipc_place_check(const char *path)
{
	struct stat st;

	if (lstat(path, &st))
		return -errno;
	if (!S_ISDIR(st.st_mode) || (st.st_uid != geteuid() && st.st_uid != 0) || st.st_mode & (S_IWGRP | S_IWOTH))
		return -EPERM;
	return 0;
}

static void place_add(struct ipc_places *p, const char *path, bool is_own)
{
	struct ipc_place *at = &p->at[p->n];

	if (strlen(path) >= sizeof at->path)
		at->path[0] = 0; /* too long for any socket: nobody is there */
	else
		strcpy(at->path, path);
	at->is_own = is_own;
	p->n++;
}

void ipc_places_find(struct ipc_places *out, bool is_secure)
{
	const char *named = is_secure ? NULL : getenv(IPC_SOCKET_ENV);
	char path[IPC_PLACE_MAX];

	out->n = 0;
	if (named && named[0]) {
		place_add(out, named, false);
		return;
	}
	place_add(out, IPC_SOCKET_PATH, false);
	if (!is_secure && !ipc_place_of_user(path))
		place_add(out, path, true);
}

/* $XDG_RUNTIME_DIR and its directory of ours. -ENOENT where there is none: nobody has started a service. */
static int place_check_own(const char *socket)
{
	char path[IPC_PLACE_MAX];
	int rc;

	strcpy(path, socket);
	*strrchr(path, '/') = 0;
	rc = ipc_place_check(path);
	if (rc)
		return rc;
	*strrchr(path, '/') = 0;
	return ipc_place_check(path[0] ? path : "/");
}

/* Who listens there (whoever called listen()) is us, or root. */
static bool place_is_peer_own(int sock)
{
	struct ucred cred;
	socklen_t len = sizeof cred;

	return !getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) && (cred.uid == geteuid() || cred.uid == 0);
}

static int place_connect(const struct ipc_place *at)
{
	int rc = at->is_own ? place_check_own(at->path) : 0, fd;

	if (rc)
		return rc;
	fd = at->path[0] ? ipc_connect(at->path) : -ENAMETOOLONG;
	if (fd < 0 || !at->is_own || place_is_peer_own(fd))
		return fd;
	close(fd);
	return -EPERM;
}

int ipc_places_connect(const struct ipc_places *p, const struct ipc_place **where)
{
	int first = -ENOENT, rc;

	for (unsigned i = 0; i < p->n; i++) {
		rc = place_connect(&p->at[i]);
		/* that nobody has started one of his own is no news */
		if (rc >= 0 || !i || rc != -ENOENT) {
			*where = &p->at[i];
			first = rc;
		}
		if (rc >= 0)
			return rc;
	}
	return first;
}
