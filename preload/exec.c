/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * exec and posix_spawn: connections that a new image inherits. An image that will load this
 * library is told which of them are FAST (INHERIT_ENV) and takes them over at its first use; for
 * any other they go back to Linux first. Any thread, also in a vfork child: nothing is allocated.
 *
 * system() and popen() come here too, see shell.c.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <limits.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "preload/inherit.h"
#include "preload/user.h"
#include "service/base/image.h"

#define LIST_MAX 100000 /* Linux takes 128 KiB in one string */

extern char **environ;

/* ---- the environment of the new image ---- */

static size_t env_count(char *const envp[])
{
	size_t n = 0;

	while (envp && envp[n])
		n++;
	return n;
}

/* @out has room for all of @envp, @entry and a NULL. */
static void env_copy(char **out, char *const envp[], char *entry)
{
	size_t n = 0;

	for (size_t i = 0; envp && envp[i]; i++)
		if (strncmp(envp[i], INHERIT_ENV "=", sizeof(INHERIT_ENV)))
			out[n++] = envp[i];
	if (entry)
		out[n++] = entry;
	out[n] = NULL;
}

/* Bytes for what a new image must be told; 0: nothing. */
static size_t exec_room(const void *key)
{
	size_t n = fd_top() < 0 || user_is_confined() ? 0 : inherit_count(key);

	return n ? MIN(sizeof(INHERIT_ENV) + n * INHERIT_ENTRY, (size_t)LIST_MAX) : 0;
}

/* What cannot be judged does not load us; a file that is not there is exec's own error. */
static bool image_loads_us(const char *image, bool search)
{
	char path[PATH_MAX];
	const char *file = search ? image_find(image, path) : image;
	int err = 0;

	return !file || (!image_obstacle(file, path, &err) && (!err || err == ENOENT));
}

/* The list for the new image in @entry (@room), as NAME=list; false: nothing to tell. */
static bool prepare(char *entry, size_t room, enum inherit_how how, const void *key, bool loads,
		    struct inherit_undo *undo)
{
	static const char name[] = INHERIT_ENV "=";

	if (!room)
		return false;
	memcpy(entry, name, sizeof(name));
	return inherit_list(entry + sizeof(name) - 1, room - sizeof(name), how, key, loads, undo) > 0;
}

/* ---- exec ---- */

enum exec_by { EXEC_PATH, EXEC_SEARCH, EXEC_FD };

/* @image: the file; with EXEC_SEARCH it may be looked for in PATH, with EXEC_FD it is what @fd has open. */
static int exec_image(enum exec_by by, const char *image, int fd, char *const argv[], char *const envp[])
{
	struct inherit_undo undo = {.n = 0};
	size_t room = exec_room(NULL);
	char entry[room + 1], *env[env_count(envp) + 2];
	bool loads = room && inherit_library_in(envp) && image_loads_us(image, by == EXEC_SEARCH);
	int ret;

	if (prepare(entry, room, INHERIT_EXEC, NULL, loads, &undo)) {
		env_copy(env, envp, entry);
		envp = env;
	}
	if (by == EXEC_FD)
		ret = libc()->fexecve(fd, argv, envp);
	else
		ret = (by == EXEC_SEARCH ? libc()->execvpe : libc()->execve)(image, argv, envp);
	inherit_failed(&undo);
	return ret;
}

PUBLIC int execve(const char *path, char *const argv[], char *const envp[])
{
	return exec_image(EXEC_PATH, path, -1, argv, envp);
}

PUBLIC int execv(const char *path, char *const argv[])
{
	return execve(path, argv, environ);
}

PUBLIC int execvpe(const char *file, char *const argv[], char *const envp[])
{
	return exec_image(EXEC_SEARCH, file, -1, argv, envp);
}

PUBLIC int execvp(const char *file, char *const argv[])
{
	return execvpe(file, argv, environ);
}

PUBLIC int fexecve(int fd, char *const argv[], char *const envp[])
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return exec_image(EXEC_FD, path, fd, argv, envp);
}

/* The variadic ones: the arguments up to NULL, and for execle() the environment behind it. */
static size_t args_count(va_list ap)
{
	size_t n = 0;

	while (va_arg(ap, char *))
		n++;
	return n;
}

#define EXEC_LIST(arg, call)                                    \
	do {                                                    \
		va_list ap_, count_;                            \
		size_t n_;                                      \
                                                                \
		va_start(ap_, arg);                             \
		va_copy(count_, ap_);                           \
		n_ = args_count(count_) + 1;                    \
		va_end(count_);                                 \
		{                                               \
			char *argv[n_ + 1], **env = environ;    \
                                                                \
			argv[0] = (char *)(uintptr_t)arg;       \
			for (size_t i_ = 1; i_ < n_; i_++)      \
				argv[i_] = va_arg(ap_, char *); \
			argv[n_] = va_arg(ap_, char *);         \
			if (with_env)                           \
				env = va_arg(ap_, char **);     \
			va_end(ap_);                            \
			return call;                            \
		}                                               \
	} while (0)

PUBLIC int execl(const char *path, const char *arg, ...)
{
	const bool with_env = false;

	EXEC_LIST(arg, execve(path, argv, env));
}

PUBLIC int execlp(const char *file, const char *arg, ...)
{
	const bool with_env = false;

	EXEC_LIST(arg, execvpe(file, argv, env));
}

PUBLIC int execle(const char *path, const char *arg, ...)
{
	const bool with_env = true;

	EXEC_LIST(arg, execve(path, argv, env));
}

/* ---- posix_spawn ---- */

typedef int spawn_fn(pid_t *pid, const char *image, const posix_spawn_file_actions_t *actions,
		     const posix_spawnattr_t *attr, char *const argv[], char *const envp[]);

static int spawn_image(spawn_fn *spawn, bool search, pid_t *pid, const char *image,
		       const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attr, char *const argv[],
		       char *const envp[])
{
	size_t room = exec_room(actions);
	char entry[room + 1], *env[env_count(envp) + 2];
	bool loads = room && inherit_library_in(envp) && image_loads_us(image, search);

	if (prepare(entry, room, INHERIT_SPAWN, actions, loads, NULL)) {
		env_copy(env, envp, entry);
		envp = env;
	}
	return spawn(pid, image, actions, attr, argv, envp);
}

PUBLIC int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
		       const posix_spawnattr_t *attr, char *const argv[], char *const envp[])
{
	return spawn_image(libc()->posix_spawn, false, pid, path, actions, attr, argv, envp);
}

PUBLIC int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
			const posix_spawnattr_t *attr, char *const argv[], char *const envp[])
{
	return spawn_image(libc()->posix_spawnp, true, pid, file, actions, attr, argv, envp);
}

/* What the child gets under another number is done inside libc. */
PUBLIC int posix_spawn_file_actions_adddup2(posix_spawn_file_actions_t *actions, int fd, int newfd)
{
	struct sock *s = sock_get(fd);

	if (s) {
		inherit_dup(s, fd, newfd, actions);
		sock_put(s);
	}
	return libc()->posix_spawn_file_actions_adddup2(actions, fd, newfd);
}
