/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * exec and posix_spawn: connections that a new image inherits. An image that will load this
 * library is told which of them are FAST (INHERIT_ENV) and takes them over at its first use; for
 * any other they go back to Linux first. Any thread, also in a vfork child: nothing is allocated.
 *
 * popen() and system() start their children inside libc, unseen; what those inherit besides
 * their pipes they do not use.
 */
#define _GNU_SOURCE 1
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload/inherit.h"
#include "preload/user.h"

#define LIST_MAX 100000 /* Linux takes 128 KiB in one string */
#define SCRIPT_DEPTH 4

extern char **environ;

/* ---- will the image load us? ---- */

static bool elf_is_dynamic(int fd, const Elf64_Ehdr *e)
{
	Elf64_Phdr p;

	if (e->e_ident[EI_CLASS] != ELFCLASS64 || e->e_phentsize != sizeof(p))
		return false;
	for (unsigned i = 0; i < e->e_phnum && i < 64; i++)
		if (syscall(SYS_pread64, fd, &p, sizeof(p), (off_t)(e->e_phoff + i * sizeof(p))) != sizeof(p))
			return false;
		else if (p.p_type == PT_INTERP)
			return true;
	return false;
}

/* The interpreter of a script, or "" */
static void script_interpreter(const char *line, size_t len, char *out, size_t size)
{
	size_t i = 2, n = 0;

	while (i < len && (line[i] == ' ' || line[i] == '\t'))
		i++;
	while (i < len && n + 1 < size && line[i] > ' ')
		out[n++] = line[i++];
	out[n] = 0;
}

static bool image_loads_us(const char *path, int depth)
{
	union {
		Elf64_Ehdr elf;
		char text[256];
	} head = {.text = ""};
	char next[200] = "";
	/* system calls: in a vfork child the table of descriptors is the parent's, and knows other files */
	int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	bool ok = false;
	ssize_t n;

	if (fd < 0) /* execute-only, or not there: exec itself will tell; a setuid image loads nothing */
		return errno == ENOENT;
	n = syscall(SYS_read, fd, &head, sizeof(head));
	if (n >= (ssize_t)sizeof(head.elf) && !memcmp(head.elf.e_ident, ELFMAG, SELFMAG))
		ok = elf_is_dynamic(fd, &head.elf) && !fstat(fd, &st) &&
		     !(st.st_mode & (S_ISUID | S_ISGID) && st.st_uid != geteuid());
	else if (n > 2 && !memcmp(head.text, "#!", 2))
		script_interpreter(head.text, (size_t)n, next, sizeof(next));
	else
		snprintf(next, sizeof(next), "/bin/sh"); /* what execvp() does with a text */
	syscall(SYS_close, fd);
	return next[0] ? depth > 0 && image_loads_us(next, depth - 1) : ok;
}

/* The file that execvp() would take. */
static const char *find_image(const char *file, char *buf)
{
	const char *path = getenv("PATH"), *end;

	if (strchr(file, '/'))
		return file;
	for (path = path ? path : "/bin:/usr/bin"; *path; path = *end ? end + 1 : end) {
		end = strchrnul(path, ':');
		snprintf(buf, PATH_MAX, "%.*s%s%s", (int)(end - path), path, end == path ? "" : "/", file);
		if (!access(buf, X_OK))
			return buf;
	}
	return file;
}

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

/* The list for the new image in @entry (@room), as NAME=list; false: nothing to tell. */
static bool prepare(const char *image, char *const envp[], char *entry, size_t room, enum inherit_how how,
		    const void *key, struct inherit_undo *undo)
{
	static const char name[] = INHERIT_ENV "=";

	if (!room)
		return false;
	memcpy(entry, name, sizeof(name));
	return inherit_list(entry + sizeof(name) - 1, room - sizeof(name), how, key,
			    inherit_library_in(envp) && image_loads_us(image, SCRIPT_DEPTH), undo) > 0;
}

/* ---- exec ---- */

PUBLIC int execve(const char *path, char *const argv[], char *const envp[])
{
	struct inherit_undo undo = {.n = 0};
	size_t room = exec_room(NULL);
	char entry[room + 1], *env[env_count(envp) + 2];
	bool told;
	int ret;

	told = prepare(path, envp, entry, room, INHERIT_EXEC, NULL, &undo);
	if (told)
		env_copy(env, envp, entry);
	ret = libc()->execve(path, argv, told ? env : envp);
	inherit_failed(&undo);
	return ret;
}

PUBLIC int execv(const char *path, char *const argv[])
{
	return execve(path, argv, environ);
}

PUBLIC int execvpe(const char *file, char *const argv[], char *const envp[])
{
	struct inherit_undo undo = {.n = 0};
	size_t room = exec_room(NULL);
	char entry[room + 1], *env[env_count(envp) + 2], buf[PATH_MAX];
	bool told;
	int ret;

	told = prepare(room ? find_image(file, buf) : file, envp, entry, room, INHERIT_EXEC, NULL, &undo);
	if (told)
		env_copy(env, envp, entry);
	ret = libc()->execvpe(file, argv, told ? env : envp);
	inherit_failed(&undo);
	return ret;
}

PUBLIC int execvp(const char *file, char *const argv[])
{
	return execvpe(file, argv, environ);
}

PUBLIC int fexecve(int fd, char *const argv[], char *const envp[])
{
	struct inherit_undo undo = {.n = 0};
	size_t room = exec_room(NULL);
	char entry[room + 1], *env[env_count(envp) + 2], path[32];
	bool told;
	int ret;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	told = prepare(path, envp, entry, room, INHERIT_EXEC, NULL, &undo);
	if (told)
		env_copy(env, envp, entry);
	ret = libc()->fexecve(fd, argv, told ? env : envp);
	inherit_failed(&undo);
	return ret;
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

PUBLIC int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
		       const posix_spawnattr_t *attr, char *const argv[], char *const envp[])
{
	size_t room = exec_room(actions);
	char entry[room + 1], *env[env_count(envp) + 2];

	if (!prepare(path, envp, entry, room, INHERIT_SPAWN, actions, NULL))
		return libc()->posix_spawn(pid, path, actions, attr, argv, envp);
	env_copy(env, envp, entry);
	return libc()->posix_spawn(pid, path, actions, attr, argv, env);
}

PUBLIC int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
			const posix_spawnattr_t *attr, char *const argv[], char *const envp[])
{
	size_t room = exec_room(actions);
	char entry[room + 1], *env[env_count(envp) + 2], buf[PATH_MAX];

	if (!prepare(room ? find_image(file, buf) : file, envp, entry, room, INHERIT_SPAWN, actions, NULL))
		return libc()->posix_spawnp(pid, file, actions, attr, argv, envp);
	env_copy(env, envp, entry);
	return libc()->posix_spawnp(pid, file, actions, attr, argv, env);
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
