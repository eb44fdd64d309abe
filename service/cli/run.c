/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `tapas run`: puts the library into LD_PRELOAD and becomes the command. What can't be
 * accelerated (no service, or a program that can't load the library, see image.h) is said
 * in one line, and the command runs all the same.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service/base/compiler.h"
#include "service/base/image.h"
#include "service/cli/cli.h"

#define LIBRARY "libtapas-preload.so"
#ifndef LIBDIR
#define LIBDIR "/usr/local/lib"
#endif

/* Beside the program (a build tree), where `make install` puts it, or the system's places. */
static const char *run_library(void)
{
	static char path[PATH_MAX];
	static const char *const places[] = {LIBDIR "/" LIBRARY, "/usr/local/lib/" LIBRARY, "/usr/lib/" LIBRARY,
					     "/usr/lib/x86_64-linux-gnu/" LIBRARY};
	ssize_t n = readlink("/proc/self/exe", path, sizeof path - sizeof LIBRARY - 1);
	char *slash;

	if (n > 0) {
		path[n] = 0;
		slash = strrchr(path, '/');
		strcpy(slash + 1, LIBRARY);
		if (access(path, R_OK) == 0)
			return path;
	}
	for (size_t i = 0; i < ARRAY_SIZE(places); i++)
		if (access(places[i], R_OK) == 0)
			return places[i];
	return NULL;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static int run_preload(void)
{
	const char *library = run_library(), *old = getenv("LD_PRELOAD");
	char value[2 * PATH_MAX];

	if (!library) {
		cli_error("%s is not installed beside tapas or in %s: running on plain Linux", LIBRARY, LIBDIR);
		return 0;
	}
	snprintf(value, sizeof value, "%s%s%s", library, old && old[0] ? ":" : "", old ? old : "");
	return setenv("LD_PRELOAD", value, 1);
}

/*
 * Say so now if nothing will be accelerated; the library itself is silent about it. What was found is pinned for all that
 * the command starts: two ends of a connection meet only in the same service. If there was none, each looks for itself.
 */
static int run_find_service(void)
{
	const struct ipc_place *where;
	int fd = cli_find(&where);

	if (fd < 0) {
		cli_error("%s: %s: no service, running on plain Linux", where->path, cli_find_error(fd, where));
		return 0;
	}
	close(fd);
	return setenv(IPC_SOCKET_ENV, where->path, 1);
}

int cli_run(int argc, char **argv)
{
	char path[PATH_MAX];
	const char *why;
	int at = 1, err;

	if (at < argc && !strcmp(argv[at], "-v")) {
		setenv("TAPAS_VERBOSE", "1", 1);
		at++;
	}
	if (at < argc && !strcmp(argv[at], "--"))
		at++;
	if (at >= argc || (argv[at][0] == '-' && at == 1)) {
		cli_error("usage: tapas run [-v] COMMAND [ARGUMENT...]");
		return CLI_USAGE;
	}
	why = image_find(argv[at], path) ? image_obstacle(path, path, &err) : NULL;
	if (why) {
		if (!strcmp(base_name(path), base_name(argv[at])))
			cli_error("%s cannot be accelerated: %s; running on plain Linux", argv[at], why);
		else
			cli_error("%s cannot be accelerated: %s runs it, and %s; running on plain Linux", argv[at],
				  path, why);
	} else {
		if (run_find_service() || run_preload()) {
			cli_error("no memory for the environment");
			return CLI_FAILED;
		}
	}
	execvp(argv[at], argv + at);
	cli_error("%s: %s", argv[at], strerror(errno));
	return errno == ENOENT ? 127 : 126;
}
