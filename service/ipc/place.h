/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where the service is found: the environment's word (IPC_SOCKET_ENV); or the host's service, and, where that is not
 * to be had, the user's own (`tapasd --local-only`). Both ends of a local connection must find the same one, so
 * `tapas run` says what it has found to what it starts.
 */
#ifndef SERVICE_IPC_PLACE_H
#define SERVICE_IPC_PLACE_H

#include <stdbool.h>

#define IPC_SOCKET_PATH "/run/tapas/tapasd.sock"
#define IPC_SOCKET_ENV "TAPAS_SOCKET"
#define IPC_PLACE_MAX 108 /* of a path, with its 0: what struct sockaddr_un holds */
#define IPC_PLACES 2

struct ipc_place {
	char path[IPC_PLACE_MAX];
	bool is_own; /* in a directory that the environment names: must belong to us or to root, and so must who listens */
};

struct ipc_places {
	struct ipc_place at[IPC_PLACES]; /* to be tried in this order */
	unsigned n;
};

/* Where this process looks. @is_secure: set-user-id and the like (AT_SECURE), the environment has no say. */
void ipc_places_find(struct ipc_places *out, bool is_secure);
/*
 * Connect to the first that answers. Returns a close-on-exec descriptor, and its place in *@where; or -errno (-EPERM:
 * not ours, see is_own), and in *@where the place that it is about.
 */
int ipc_places_connect(const struct ipc_places *p, const struct ipc_place **where);

/*
 * The socket of a user's own service, $XDG_RUNTIME_DIR/tapas/tapasd.sock. Returns 0, -ENOENT (not set, or not absolute)
 * or -ENAMETOOLONG.
 */
int ipc_place_of_user(char out[IPC_PLACE_MAX]);
/*
 * May what is in directory @path be trusted: is it one, no symbolic link, of us or of root, and writable by nobody
 * else? Returns 0, -EPERM: no, or -errno.
 */
int ipc_place_check(const char *path);

#endif
