/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * system() and popen(): libc starts the shell inside itself, where it cannot be told which
 * connections it inherits. A program that has had a TCP socket gets them from here, made of
 * posix_spawn() (exec.c). Not in a packet's way. Any thread.
 *
 * As in libc: SIGINT and SIGQUIT are ignored and SIGCHLD is blocked while system() waits; it is a
 * cancellation point, and ends the shell then; a shell that popen() starts does not inherit the
 * streams of earlier calls; fclose() of such a stream is pclose(). fclose() is here for that, and tells the table.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <paths.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "preload/inherit.h"
#include "preload/standard.h"

extern char **environ;

/* ---- system ---- */

static pthread_mutex_t quiet_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned quiet_users; /* quiet_lock, as the next line */
static struct sigaction quiet_int, quiet_quit;

struct shell {
	pid_t pid;
	sigset_t mask; /* the caller's */
};

static void quiet_begin(void)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN};

	pthread_mutex_lock(&quiet_lock);
	if (!quiet_users++) {
		sigaction(SIGINT, &ignore, &quiet_int);
		sigaction(SIGQUIT, &ignore, &quiet_quit);
	}
	pthread_mutex_unlock(&quiet_lock);
}

static void quiet_end(void)
{
	pthread_mutex_lock(&quiet_lock);
	if (!--quiet_users) {
		sigaction(SIGINT, &quiet_int, NULL);
		sigaction(SIGQUIT, &quiet_quit, NULL);
	}
	pthread_mutex_unlock(&quiet_lock);
}

static pid_t wait_child_end(pid_t pid, int *status)
{
	pid_t got;

	do
		got = waitpid(pid, status, 0);
	while (got < 0 && errno == EINTR);
	return got;
}

/* Cancelled while it waited. */
static void shell_cancel(void *arg)
{
	struct shell *sh = arg;
	int status, state;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	kill(sh->pid, SIGKILL);
	wait_child_end(sh->pid, &status);
	pthread_setcancelstate(state, NULL);
	quiet_end();
	pthread_sigmask(SIG_SETMASK, &sh->mask, NULL);
}

/* The shell starts with the caller's mask, and with SIGINT and SIGQUIT as the caller had them. */
static int shell_start(struct shell *sh, const char *line)
{
	char *argv[] = {(char *)(uintptr_t) "sh", (char *)(uintptr_t) "-c", (char *)(uintptr_t)line, NULL};
	posix_spawnattr_t attr;
	sigset_t reset;
	int err;

	sigemptyset(&reset);
	pthread_mutex_lock(&quiet_lock);
	if (quiet_int.sa_handler != SIG_IGN)
		sigaddset(&reset, SIGINT);
	if (quiet_quit.sa_handler != SIG_IGN)
		sigaddset(&reset, SIGQUIT);
	pthread_mutex_unlock(&quiet_lock);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &sh->mask);
	posix_spawnattr_setsigdefault(&attr, &reset);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
	err = posix_spawn(&sh->pid, _PATH_BSHELL, NULL, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	return err;
}

PUBLIC int system(const char *line)
{
	struct shell sh;
	int status = -1, err;
	sigset_t block;

	if (fd_top() < 0 || !line)
		return libc()->system(line);
	sigemptyset(&block);
	sigaddset(&block, SIGCHLD);
	pthread_sigmask(SIG_BLOCK, &block, &sh.mask);
	quiet_begin();
	err = shell_start(&sh, line);
	if (!err) {
		pthread_cleanup_push(shell_cancel, &sh);
		if (wait_child_end(sh.pid, &status) != sh.pid)
			status = -1;
		pthread_cleanup_pop(0);
	} else {
		status = 127 << 8; /* as if the shell had ended so */
	}
	quiet_end();
	pthread_sigmask(SIG_SETMASK, &sh.mask, NULL);
	if (err)
		errno = err;
	return status;
}

/* ---- popen ---- */

struct stream_proc {
	struct stream_proc *_Atomic next;
	FILE *file;
	pid_t pid;
};

static pthread_mutex_t procs_lock = PTHREAD_MUTEX_INITIALIZER;
static struct stream_proc *_Atomic procs; /* with procs_lock, but for the look whether there is any */

/* "r" or "w", and 'e' at will. */
static bool mode_check(const char *mode, bool *reads, bool *cloexec)
{
	bool writes = false;

	*reads = *cloexec = false;
	for (; *mode; mode++) {
		if (*mode == 'r')
			*reads = true;
		else if (*mode == 'w')
			writes = true;
		else if (*mode == 'e')
			*cloexec = true;
		else
			return false;
	}
	return *reads != writes;
}

/* procs_lock held. @theirs becomes standard input or output of a shell. */
static int proc_start(struct stream_proc *p, const char *line, int theirs, bool reads)
{
	char *argv[] = {(char *)(uintptr_t) "sh", (char *)(uintptr_t) "-c", (char *)(uintptr_t)line, NULL};
	posix_spawn_file_actions_t actions;
	int err;

	posix_spawn_file_actions_init(&actions);
	err = posix_spawn_file_actions_adddup2(&actions, theirs, reads ? STDOUT_FILENO : STDIN_FILENO);
	for (struct stream_proc *q = procs; q && !err; q = q->next) {
		int fd = fileno(q->file);

		if (fd >= 0 && fd != (reads ? STDOUT_FILENO : STDIN_FILENO))
			err = posix_spawn_file_actions_addclose(&actions, fd);
	}
	if (!err)
		err = posix_spawn(&p->pid, _PATH_BSHELL, &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	return err;
}

PUBLIC FILE *popen(const char *line, const char *mode)
{
	bool reads, cloexec;
	struct stream_proc *p;
	int fds[2], err;

	if (fd_top() < 0 || !mode_check(mode, &reads, &cloexec))
		return libc()->popen(line, mode);
	if (pipe2(fds, O_CLOEXEC))
		return NULL;
	p = calloc(1, sizeof(*p));
	if (p)
		p->file = libc()->fdopen(fds[!reads], reads ? "r" : "w");
	if (!p || !p->file) {
		free(p);
		close(fds[0]);
		close(fds[1]);
		errno = ENOMEM;
		return NULL;
	}
	pthread_mutex_lock(&procs_lock);
	err = proc_start(p, line, fds[reads], reads);
	if (!err) {
		p->next = procs;
		procs = p;
	}
	pthread_mutex_unlock(&procs_lock);
	close(fds[reads]);
	if (!err) {
		FILE *f = p->file;

		if (!cloexec)
			fcntl(fileno(f), F_SETFD, 0);
		return f;
	}
	libc()->fclose(p->file);
	free(p);
	errno = err;
	return NULL;
}

/* Is @f such a stream? It ends then, and *@status is its shell's. */
static bool proc_end(FILE *f, int *status)
{
	struct stream_proc *_Atomic *at = &procs, *p;
	int state;

	if (likely(!procs))
		return false;
	pthread_mutex_lock(&procs_lock);
	while ((p = *at) && p->file != f)
		at = &p->next;
	if (p)
		*at = p->next;
	pthread_mutex_unlock(&procs_lock);
	if (!p)
		return false;
	libc()->fclose(f);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	if (wait_child_end(p->pid, status) != p->pid)
		*status = -1;
	pthread_setcancelstate(state, NULL);
	free(p);
	return true;
}

PUBLIC int pclose(FILE *f)
{
	int status;

	return proc_end(f, &status) ? status : libc()->pclose(f);
}

/* Also the end of a descriptor. */
PUBLIC int fclose(FILE *f)
{
	int status, saved = errno, err = 0, fd = fileno(f);
	struct sock *s = NULL;

	if (proc_end(f, &status))
		return status;
	if (file_get_any(fd) && !fd_is_own(fd)) {
		if (standard_is_taken(fd) && fflush(f)) /* what it has goes by the library, as long as that knows @fd */
			err = errno;
		s = close_begin(fd);
	}
	errno = saved;
	status = libc()->fclose(f);
	close_end(s);
	if (err)
		errno = err;
	return err ? EOF : status;
}

/* ---- fork ---- */

void shell_child(void)
{
	/* their holders are not here */
	pthread_mutex_init(&quiet_lock, NULL);
	pthread_mutex_init(&procs_lock, NULL);
}
