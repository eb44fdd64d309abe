/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tapasd's command line. The order of what counts: an option, the file, what goes without saying. An ordinary user's
 * service has no part in the host's: the file in /etc is about that one and is not read for it.
 */
#include "service/options.h"

#include <errno.h>
#include <getopt.h>
#include <string.h>
#include <unistd.h>

#include "service/base/log.h"
#include "service/base/version.h"
#include "service/ipc/place.h"
#include "service/runtime.h"

static const char usage[] =
	"usage: tapasd [-c FILE] [-i INTERFACE] [-s SOCKET] [-n] [-d]\n"
	"       tapasd --local-only [-c FILE] [-s SOCKET] [-n] [-d]\n"
	"       tapasd -h | -V\n"
	"  -c FILE           configuration (default " CONFIG_PATH ", if it exists; none for another user than root\n"
	"                    with --local-only)\n"
	"  -i INTERFACE      interface to accelerate; overrides the configuration\n"
	"  -L, --local-only  only connections within this host: no interface, no privilege; any user may start it\n"
	"  -s SOCKET         path of the control socket; overrides the configuration\n"
	"  -n                print the effective configuration and exit\n"
	"  -d                log each connection's changes of state\n"
	"  -h, --help        this help\n"
	"  -V, --version     version\n"
	"See tapasd(8) and tapas.conf(5).\n";

struct options {
	const char *file, *interface, *socket;
	bool local_only, print, debug;
};

#define OPTIONS_USAGE 3 /* exit status 2 */

static int options_usage(void)
{
	fputs(usage, stderr);
	return OPTIONS_USAGE;
}

/* As options_read(). */
static int options_parse(int argc, char **argv, struct options *op)
{
	static const struct option names[] = {{"local-only", no_argument, NULL, 'L'},
					      {"help", no_argument, NULL, 'h'},
					      {"version", no_argument, NULL, 'V'},
					      {0}};
	int o;

	while ((o = getopt_long(argc, argv, "c:i:s:LndhV", names, NULL)) != -1) {
		switch (o) {
		case 'c':
			op->file = optarg;
			break;
		case 'i':
			op->interface = optarg;
			break;
		case 's':
			op->socket = optarg;
			break;
		case 'L':
			op->local_only = true;
			break;
		case 'n':
			op->print = true;
			break;
		case 'd':
			op->debug = true;
			break;
		case 'h':
			fputs(usage, stdout);
			return 1;
		case 'V':
			puts("tapasd " TAPAS_VERSION);
			return 1;
		default:
			return options_usage();
		}
	}
	if (op->local_only && op->interface) {
		fputs("tapasd: --local-only has no interface: leave out one of -i and --local-only\n", stderr);
		return OPTIONS_USAGE;
	}
	return optind < argc ? options_usage() : 0;
}

static int options_file(const struct options *op, struct config *cfg)
{
	int rc;

	if (!op->file && op->local_only && geteuid())
		return 0;
	rc = config_read(cfg, op->file ? op->file : CONFIG_PATH);
	if (rc == -ENOENT && op->file)
		fprintf(stderr, "tapasd: %s: no such file: give the configuration's path after -c\n", op->file);
	return rc == -ENOENT && !op->file ? 0 : rc;
}

/* What the file says of an interface is not for this one. A user's own service is for that user. */
static void options_local_only(struct config *cfg)
{
	cfg->local_only = true;
	if (cfg->local == CONFIG_LOCAL_OFF)
		cfg->local = CONFIG_LOCAL_DIRECT; /* there is nothing else to do */
	cfg->interface[0] = 0;
	cfg->exclusive = false;
	if (geteuid())
		cfg->group[0] = 0;
}

static int options_socket(const struct options *op, struct config *cfg)
{
	char why[256];

	if (op->socket && (!op->socket[0] || strlen(op->socket) >= sizeof cfg->socket)) {
		fprintf(stderr, "tapasd: -s %s: give a path of 1 to %zu characters\n", op->socket,
			sizeof cfg->socket - 1);
		return -EINVAL;
	}
	if (op->socket)
		strcpy(cfg->socket, op->socket);
	if (!cfg->socket[0] && runtime_socket(cfg, why, sizeof why)) {
		fprintf(stderr, "tapasd: %s\n", why);
		return -EINVAL;
	}
	return 0;
}

int options_read(int argc, char **argv, struct config *cfg)
{
	struct options op = {0};
	int rc = options_parse(argc, argv, &op);

	if (rc)
		return rc;
	config_default(cfg);
	cfg->socket[0] = 0; /* set by the file? */
	if (options_file(&op, cfg))
		return 2;
	if (op.interface)
		snprintf(cfg->interface, sizeof cfg->interface, "%s", op.interface);
	if (op.local_only || cfg->local_only)
		options_local_only(cfg);
	if (op.debug)
		cfg->log_level = LOG_LEVEL_DEBUG;
	if (options_socket(&op, cfg) || config_check(cfg))
		return 2;
	if (op.print) {
		config_print(cfg, stdout);
		return 1;
	}
	return 0;
}
