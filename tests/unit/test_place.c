/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where the service is looked for, in which order, and which directories and listeners are not trusted. */
/* links: service/ipc/place.c service/ipc/msg.c */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "service/ipc/msg.h"
#include "service/ipc/place.h"

#define NOBODY 65534

static char home[] = "/tmp/test_place.XXXXXX"; /* XDG_RUNTIME_DIR */
static char dir[64], path[80];
static int listener = -1;

static int start(void **state)
{
	(void)state;
	strcpy(strrchr(home, '.') + 1, "XXXXXX");
	if (!mkdtemp(home))
		return -1;
	snprintf(dir, sizeof dir, "%s/tapas", home);
	snprintf(path, sizeof path, "%s/tapasd.sock", dir);
	unsetenv(IPC_SOCKET_ENV);
	return setenv("XDG_RUNTIME_DIR", home, 1);
}

static int stop(void **state)
{
	(void)state;
	if (listener >= 0)
		close(listener);
	listener = -1;
	unlink(path);
	if (rmdir(dir))
		unlink(dir);
	return rmdir(home);
}

static void serve(const char *at)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};

	snprintf(sa.sun_path, sizeof sa.sun_path, "%s", at);
	listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&sa, sizeof sa), 0);
	assert_int_equal(listen(listener, 8), 0);
}

/* The user's place alone: the host's may be there, and is tried first. */
static int connect_own(void)
{
	struct ipc_places p;
	const struct ipc_place *where = NULL;
	int rc;

	ipc_places_find(&p, false);
	assert_int_equal(p.n, 2);
	assert_true(p.at[1].is_own);
	p.at[0] = p.at[1];
	p.n = 1;
	rc = ipc_places_connect(&p, &where);
	assert_ptr_equal(where, &p.at[0]);
	if (rc >= 0)
		close(rc);
	return rc < 0 ? rc : 0;
}

static void order(void **state)
{
	struct ipc_places p;

	(void)state;
	ipc_places_find(&p, false);
	assert_int_equal(p.n, 2);
	assert_string_equal(p.at[0].path, IPC_SOCKET_PATH);
	assert_false(p.at[0].is_own);
	assert_string_equal(p.at[1].path, path);
	assert_true(p.at[1].is_own);
	setenv(IPC_SOCKET_ENV, "", 1);
	ipc_places_find(&p, false);
	assert_int_equal(p.n, 2);
	setenv(IPC_SOCKET_ENV, "/tmp/x.sock", 1);
	ipc_places_find(&p, false);
	assert_int_equal(p.n, 1);
	assert_string_equal(p.at[0].path, "/tmp/x.sock");
	assert_false(p.at[0].is_own);
}

static void the_environment_of_a_set_user_id_program(void **state)
{
	struct ipc_places p;

	(void)state;
	setenv(IPC_SOCKET_ENV, "/tmp/x.sock", 1);
	ipc_places_find(&p, true);
	assert_int_equal(p.n, 1);
	assert_string_equal(p.at[0].path, IPC_SOCKET_PATH);
}

static void no_place_of_a_user(void **state)
{
	static const char *const none[] = {"", "run", "./run", "../run"};
	struct ipc_places p;
	char longer[200];

	(void)state;
	for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
		setenv("XDG_RUNTIME_DIR", none[i], 1);
		ipc_places_find(&p, false);
		assert_int_equal(p.n, 1);
	}
	unsetenv("XDG_RUNTIME_DIR");
	ipc_places_find(&p, false);
	assert_int_equal(p.n, 1);
	memset(longer, 'a', sizeof longer - 1);
	longer[0] = '/';
	longer[sizeof longer - 1] = 0;
	setenv("XDG_RUNTIME_DIR", longer, 1);
	ipc_places_find(&p, false);
	assert_int_equal(p.n, 1);
	longer[IPC_PLACE_MAX - sizeof "/tapas/tapasd.sock"] = 0; /* the longest that fits */
	setenv("XDG_RUNTIME_DIR", longer, 1);
	ipc_places_find(&p, false);
	assert_int_equal(p.n, 2);
	assert_int_equal(strlen(p.at[1].path), IPC_PLACE_MAX - 1);
}

static void a_path_too_long_is_nobody(void **state)
{
	const struct ipc_place *where;
	struct ipc_places p;
	char longer[200];

	(void)state;
	memset(longer, 'a', sizeof longer - 1);
	longer[sizeof longer - 1] = 0;
	setenv(IPC_SOCKET_ENV, longer, 1);
	ipc_places_find(&p, false);
	assert_int_equal(p.n, 1);
	assert_int_equal(ipc_places_connect(&p, &where), -ENAMETOOLONG);
}

static void found(void **state)
{
	(void)state;
	assert_int_equal(connect_own(), -ENOENT);
	assert_int_equal(mkdir(dir, 0700), 0);
	assert_int_equal(connect_own(), -ENOENT);
	serve(path);
	assert_int_equal(connect_own(), 0);
}

static void the_second_is_tried(void **state)
{
	struct ipc_places p = {.n = 2};
	const struct ipc_place *where;
	int fd;

	(void)state;
	snprintf(p.at[0].path, sizeof p.at[0].path, "%s/none", home);
	p.at[1] = (struct ipc_place){.is_own = true};
	strcpy(p.at[1].path, path);
	assert_int_equal(ipc_places_connect(&p, &where), -ENOENT);
	assert_ptr_equal(where, &p.at[0]);
	assert_int_equal(mkdir(dir, 0700), 0);
	serve(path);
	fd = ipc_places_connect(&p, &where);
	assert_true(fd >= 0);
	close(fd);
	assert_ptr_equal(where, &p.at[1]);
	/* what is wrong there is worth more than that nobody is at the first */
	assert_int_equal(chmod(dir, 0777), 0);
	assert_int_equal(ipc_places_connect(&p, &where), -EPERM);
	assert_ptr_equal(where, &p.at[1]);
}

static void directories_that_others_write_to(void **state)
{
	(void)state;
	assert_int_equal(mkdir(dir, 0700), 0);
	serve(path);
	for (mode_t bit = 0020; bit; bit = bit == 0020 ? 0002 : 0) {
		assert_int_equal(chmod(dir, 0700 | bit), 0);
		assert_int_equal(connect_own(), -EPERM);
		assert_int_equal(chmod(dir, 0700), 0);
		assert_int_equal(chmod(home, 0700 | bit), 0);
		assert_int_equal(connect_own(), -EPERM);
		assert_int_equal(chmod(home, 0700), 0);
	}
	assert_int_equal(connect_own(), 0);
}

static void symbolic_links(void **state)
{
	char real[80], other[96];

	(void)state;
	snprintf(real, sizeof real, "%s/real", home);
	snprintf(other, sizeof other, "%s/tapasd.sock", real);
	assert_int_equal(mkdir(real, 0700), 0);
	assert_int_equal(symlink(real, dir), 0);
	serve(other);
	assert_int_equal(connect_own(), -EPERM);
	unlink(other);
	rmdir(real);
	unlink(dir);
	assert_int_equal(connect_own(), -ENOENT);
	/* something that is no directory */
	fclose(fopen(dir, "we"));
	assert_int_equal(connect_own(), -EPERM);
}

/* In a child: as another user, which of course has no way back. */
static int as_nobody(int (*what)(void))
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(setresgid(NOBODY, NOBODY, NOBODY) || setresuid(NOBODY, NOBODY, NOBODY) ? 99 : -what());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return -WEXITSTATUS(status);
}

static void somebody_elses(void **state)
{
	(void)state;
	if (geteuid())
		skip();
	assert_int_equal(mkdir(dir, 0755), 0);
	serve(path);
	assert_int_equal(chmod(home, 0755), 0);
	assert_int_equal(chmod(path, 0777), 0);
	assert_int_equal(as_nobody(connect_own), 0); /* root's */
	assert_int_equal(chown(dir, 4711, 4711), 0);
	assert_int_equal(as_nobody(connect_own), -EPERM);
	assert_int_equal(connect_own(), -EPERM); /* root trusts nobody either */
	assert_int_equal(chown(dir, 0, 0), 0);
	assert_int_equal(chown(home, 4711, 4711), 0);
	assert_int_equal(as_nobody(connect_own), -EPERM);
	assert_int_equal(connect_own(), -EPERM);
	assert_int_equal(chown(home, NOBODY, NOBODY), 0);
	assert_int_equal(as_nobody(connect_own), 0);
}

/* The socket that listens is another user's, in a directory that is right. */
static void somebody_else_listens(void **state)
{
	int ready[2];
	pid_t pid;
	char c;

	(void)state;
	if (geteuid())
		skip();
	assert_int_equal(mkdir(dir, 0777), 0);
	assert_int_equal(chmod(home, 0755) | chmod(dir, 0777), 0);
	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (!pid) {
		if (setresgid(NOBODY, NOBODY, NOBODY) || setresuid(NOBODY, NOBODY, NOBODY))
			_exit(1);
		serve(path);
		if (write(ready[1], "", 1) == 1)
			pause();
		_exit(0);
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	assert_int_equal(chmod(dir, 0755), 0);
	assert_int_equal(connect_own(), -EPERM);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(ready[0]);
	close(ready[1]);
}

#define WITH_HOME(f) cmocka_unit_test_setup_teardown(f, start, stop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_HOME(order),
		WITH_HOME(the_environment_of_a_set_user_id_program),
		WITH_HOME(no_place_of_a_user),
		WITH_HOME(a_path_too_long_is_nobody),
		WITH_HOME(found),
		WITH_HOME(the_second_is_tried),
		WITH_HOME(directories_that_others_write_to),
		WITH_HOME(symbolic_links),
		WITH_HOME(somebody_elses),
		WITH_HOME(somebody_else_listens),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
