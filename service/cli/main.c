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
#include "service/ipc/msg.h"

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
	fputs("See tapas(1). The service's socket is " IPC_SOCKET_PATH ", or $" IPC_SOCKET_ENV ".\n", f);
}

int cli_connect(void)
{
	const char *path = ipc_socket_path(getauxval(AT_SECURE) != 0);
	int fd = ipc_connect(path);

	if (fd >= 0)
		return fd;
	if (fd == -EACCES)
		cli_error("%s: permission denied: be root, or a member of the service's group (group= in tapas.conf)",
			  path);
	else
		cli_error("%s: %s: is tapasd running? (systemctl start tapasd)", path, strerror(-fd));
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
