/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `tapas`: finds the command and gives it its arguments. */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "service/base/compiler.h"
#include "service/base/version.h"
#include "service/cli/cli.h"

static const struct command {
	const char *name, *arguments, *help;
	int (*run)(int argc, char **argv);
} commands[] = {
	{"run", "[-v] COMMAND [ARGUMENT...]", "start a program with its TCP accelerated", cli_run},
	{"status", "[--json]", "the service: interface, mode, numbers of flows", cli_report},
	{"flows", "[--json]", "connections: owner, state, bytes, RTT, rate, Linux's last verdict", cli_report},
	{"listeners", "[--json]", "listening sockets and when their connections are adopted", cli_report},
	{"stats", "[--json] [-a]", "counters; -a also those that are zero", cli_report},
	{"top", "[-n COUNT] [-d SECONDS]", "a live table of flows", cli_top},
	{"release", "PID | flow ID | --all", "give connections back to Linux", cli_release},
	{"capture", "[-w FILE] [-c COUNT] [FILTER]", "FAST flows' frames as pcapng, to a file or stdout", cli_capture},
};

void cli_error(const char *fmt, ...)
{
	va_list ap;

	fputs("tapas: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

static void usage(FILE *f)
{
	fputs("usage: tapas COMMAND [ARGUMENT...]\n", f);
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		fprintf(f, "  %-10s %-30s %s\n", commands[i].name, commands[i].arguments, commands[i].help);
	fputs("See tapas(1). The service's socket is $" IPC_SOCKET_ENV ", or " IPC_SOCKET_PATH
	      ", or $XDG_RUNTIME_DIR/tapas/tapasd.sock.\n",
	      f);
}

int cli_find(const struct ipc_place **where)
{
	static struct ipc_places places;

	ipc_places_find(&places, getauxval(AT_SECURE) != 0);
	return ipc_places_connect(&places, where);
}

const char *cli_find_error(int rc, const struct ipc_place *where)
{
	if (rc == -EPERM && where->is_own)
		return "not used: it and its directory must be yours alone, and no symbolic links";
	if (rc == -EACCES && !where->is_own)
		return "permission denied: be root, or a member of the service's group (group= in tapas.conf)";
	return strerror(-rc);
}

int cli_connect(void)
{
	const struct ipc_place *where;
	int fd = cli_find(&where);

	if (fd >= 0)
		return fd;
	cli_error("%s: %s%s", where->path, cli_find_error(fd, where),
		  fd == -ENOENT || fd == -ECONNREFUSED
			  ? ": is tapasd running? (systemctl start tapasd, or, as any user, tapasd --local-only)"
			  : "");
	return -1;
}

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_DFL);
	if (argc < 2) {
		usage(stderr);
		return CLI_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		usage(stdout);
		return CLI_OK;
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		puts("tapas " TAPAS_VERSION);
		return CLI_OK;
	}
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].run(argc - 1, argv + 1);
	cli_error("no command \"%s\": see tapas --help", argv[1]);
	return CLI_USAGE;
}
