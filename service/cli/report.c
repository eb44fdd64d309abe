/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `tapas status|flows|listeners|stats` and `tapas top`: the service's JSON, as it is or as tables. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <termios.h>
#include <unistd.h>

#include "service/base/compiler.h"
#include "service/cli/cli.h"
#include "service/ipc/abi.h"
#include "service/ipc/msg.h"

#define REPORT_MAX (256u << 20)

static json_t *report_load(int fd, uint64_t len)
{
	json_error_t err;
	json_t *o;
	char *text;

	if (!len || len > REPORT_MAX)
		return NULL;
	text = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
	if (text == MAP_FAILED)
		return NULL;
	o = json_loadb(text, len, 0, &err);
	munmap(text, len);
	return o;
}

json_t *cli_ask(const char *request)
{
	struct ipc_msg m = {.magic = IPC_MAGIC, .type = IPC_MSG_ADMIN};
	int sock = cli_connect(), fds[IPC_MSG_FDS], nfds = 0, rc;
	json_t *o = NULL;

	if (sock < 0)
		return NULL;
	snprintf(m.text, sizeof m.text, "%s", request);
	rc = ipc_msg_send(sock, &m, NULL, 0);
	if (!rc)
		rc = ipc_msg_recv(sock, &m, fds, &nfds, 0);
	if (rc > 0 && ipc_msg_check(&m, (size_t)rc, nfds, false) == 0 && m.type == IPC_MSG_ADMIN)
		o = report_load(fds[0], m.arg[0]);
	else if (rc > 0 && m.type == IPC_MSG_REFUSED)
		cli_error("%.*s", (int)sizeof m.text, m.text);
	for (int i = 0; i < nfds; i++)
		close(fds[i]);
	close(sock);
	if (!o && !(rc > 0 && m.type == IPC_MSG_REFUSED))
		cli_error("no report from the service%s%s", rc < 0 ? ": " : "", rc < 0 ? strerror(-rc) : "");
	return o;
}

/* ---- reading fields ---- */

static long long num(const json_t *o, const char *name)
{
	return json_integer_value(json_object_get(o, name));
}

static const char *text(const json_t *o, const char *name)
{
	const char *s = json_string_value(json_object_get(o, name));

	return s ? s : "";
}

static bool flag(const json_t *o, const char *name)
{
	return json_is_true(json_object_get(o, name));
}

static const char *size_text(long long v, char *buf, size_t size)
{
	static const char suffix[] = " KMGT";
	unsigned k = 0;
	double d = (double)v;

	for (; d >= 10000 && k < sizeof suffix - 2; k++)
		d /= 1024;
	snprintf(buf, size, k ? "%.1f%c" : "%.0f", d, suffix[k]);
	return buf;
}

static void endpoint(const json_t *f, const char *addr, const char *port, char *buf, size_t size)
{
	const char *a = text(f, addr);

	snprintf(buf, size, strchr(a, ':') ? "[%s]:%lld" : "%s:%lld", a, num(f, port));
}

/* ---- tables ---- */

static void print_status(const json_t *o)
{
	const json_t *f = json_object_get(o, "flows");

	printf("tapasd %s, pid %lld, up %lld s\n", text(o, "version"), num(o, "pid"), num(o, "uptime_s"));
	if (!strcmp(text(o, "mode"), "local"))
		puts("interface   none: connections within this host only");
	else
		printf("interface   %s, %s mode, %s XDP%s%s, %zu queue(s)\n", text(o, "interface"), text(o, "mode"),
		       text(o, "xdp"), flag(o, "attached") ? "" : " (detached: no FAST connection)",
		       flag(o, "zerocopy") ? ", zero copy" : "", json_array_size(json_object_get(o, "threads")));
	printf("flows       %lld fast, %lld adopting, %lld closing, %lld in time-wait, %lld silenced; at most %lld\n",
	       num(f, "fast"), num(f, "adopting"), num(f, "closing"), num(f, "time_wait"), num(f, "muted"),
	       num(f, "max"));
	printf("programs    %lld, listening on %lld socket(s)\n", num(o, "apps"), num(o, "listeners"));
}

void cli_print_flows(const json_t *o, int rows)
{
	const json_t *list = json_object_get(o, "flows");
	json_t *f;
	size_t i;

	printf("%-9s %-22s %-22s %7s %-12s %4s %8s %8s %7s %8s %6s %s\n", "STATE", "LOCAL", "REMOTE", "PID", "COMMAND",
	       "FD", "RX", "TX", "RTT us", "RATE", "REXMIT", "VERDICT");
	json_array_foreach (list, i, f) {
		char local[64], remote[64], rx[16], tx[16], rate[16];
		const char *reason = text(f, "reason");

		if (rows >= 0 && (int)i >= rows)
			break;
		endpoint(f, "local_addr", "local_port", local, sizeof local);
		endpoint(f, "remote_addr", "remote_port", remote, sizeof remote);
		printf("%-9s %-22s %-22s %7lld %-12.12s %4lld %8s %8s %7lld %8s %6lld %s\n", text(f, "state"), local,
		       remote, num(f, "pid"), text(f, "command"), num(f, "fd"),
		       size_text(num(f, "rx_bytes"), rx, sizeof rx), size_text(num(f, "tx_bytes"), tx, sizeof tx),
		       num(f, "rtt_us"), num(f, "rate_bps") ? size_text(num(f, "rate_bps"), rate, sizeof rate) : "-",
		       num(f, "retransmissions"), reason[0] ? reason : text(f, "verdict"));
	}
}

static void print_listeners(const json_t *o)
{
	json_t *l;
	size_t i;

	printf("%-28s %7s %-16s %4s %-10s %9s %9s %9s\n", "LISTENS ON", "PID", "COMMAND", "FD", "ACCELERATE",
	       "EXCHANGES", "BYTES", "ADOPTED");
	json_array_foreach (json_object_get(o, "listeners"), i, l) {
		char addr[64], bytes[16];

		endpoint(l, "addr", "port", addr, sizeof addr);
		printf("%-28s %7lld %-16s %4lld %-10s %9lld %9s %9lld\n", addr, num(l, "pid"), text(l, "command"),
		       num(l, "fd"), flag(l, "accelerate") ? "yes" : "no", num(l, "exchanges"),
		       size_text(num(l, "bytes"), bytes, sizeof bytes), num(l, "adopted"));
	}
}

static void print_stats(const json_t *o, bool all)
{
	json_t *c;
	size_t i;

	json_array_foreach (json_object_get(o, "counters"), i, c)
		if (all || num(c, "value"))
			printf("%-20s %15lld  %s\n", text(c, "name"), num(c, "value"), text(c, "help"));
}

int cli_report(int argc, char **argv)
{
	bool json = false, all = false;
	json_t *o;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--json")) {
			json = true;
		} else if (!strcmp(argv[0], "stats") && !strcmp(argv[i], "-a")) {
			all = true;
		} else {
			cli_error("%s does not take \"%s\": see tapas --help", argv[0], argv[i]);
			return CLI_USAGE;
		}
	}
	o = cli_ask(argv[0]);
	if (!o)
		return CLI_FAILED;
	if (json) {
		json_dumpf(o, stdout, JSON_INDENT(2));
		putchar('\n');
	} else if (!strcmp(argv[0], "status")) {
		print_status(o);
	} else if (!strcmp(argv[0], "flows")) {
		cli_print_flows(o, -1);
	} else if (!strcmp(argv[0], "listeners")) {
		print_listeners(o);
	} else {
		print_stats(o, all);
	}
	json_decref(o);
	return fflush(stdout) ? CLI_FAILED : CLI_OK;
}

/* ---- release ---- */

int cli_release(int argc, char **argv)
{
	const char *number = argc == 2 ? argv[1] : argc == 3 && !strcmp(argv[1], "flow") ? argv[2] : NULL;
	bool json = argc > 2 && !strcmp(argv[argc - 1], "--json");
	char request[64];
	json_t *o;

	if (json)
		number = argc == 3 ? argv[1] : argc == 4 && !strcmp(argv[1], "flow") ? argv[2] : NULL;
	if (number && !strcmp(number, "--all") && argc - json == 2) {
		snprintf(request, sizeof request, "release all");
	} else if (number && number[0] && number[strspn(number, "0123456789")] == 0 && strlen(number) < 10) {
		snprintf(request, sizeof request, "release %s %s", argc - json == 2 ? "pid" : "flow", number);
	} else {
		cli_error("release takes a process id, \"flow\" and its id (tapas flows --json), or --all");
		return CLI_USAGE;
	}
	o = cli_ask(request);
	if (!o)
		return CLI_FAILED;
	if (json) {
		json_dumpf(o, stdout, JSON_INDENT(2));
		putchar('\n');
	} else {
		printf("%lld connection(s) given back to Linux\n", num(o, "released"));
	}
	json_decref(o);
	return fflush(stdout) ? CLI_FAILED : CLI_OK;
}

/* ---- top ---- */

static struct termios top_saved;

static void top_restore(void)
{
	tcsetattr(STDIN_FILENO, TCSANOW, &top_saved);
}

/* Keys one by one, without echo, until the program ends. */
static bool top_keys(void)
{
	struct termios t;

	if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &top_saved))
		return false;
	t = top_saved;
	t.c_lflag &= (tcflag_t) ~(ICANON | ECHO);
	atexit(top_restore);
	return tcsetattr(STDIN_FILENO, TCSANOW, &t) == 0;
}

/* Wait for @ms. Returns true if the user wants to leave. */
static bool top_wait(bool keys, int ms)
{
	struct pollfd p = {.fd = keys ? STDIN_FILENO : -1, .events = POLLIN};
	char key;

	return poll(&p, 1, ms) > 0 && read(STDIN_FILENO, &key, 1) == 1 && (key == 'q' || key == 'Q');
}

static int top_once(bool tty)
{
	struct winsize ws = {.ws_row = 24};
	json_t *status = cli_ask("status"), *flows = status ? cli_ask("flows") : NULL;

	if (!flows) {
		json_decref(status);
		return CLI_FAILED;
	}
	if (tty) {
		ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws);
		fputs("\033[H\033[2J", stdout);
	}
	print_status(status);
	putchar('\n');
	cli_print_flows(flows, tty ? (ws.ws_row > 8 ? ws.ws_row - 8 : 1) : -1);
	json_decref(status);
	json_decref(flows);
	return fflush(stdout) ? CLI_FAILED : CLI_OK;
}

int cli_top(int argc, char **argv)
{
	bool tty = isatty(STDOUT_FILENO), keys;
	long count = -1;
	double delay = 1;
	int o, rc = CLI_OK;

	optind = 1;
	while ((o = getopt(argc, argv, "n:d:")) != -1) {
		if (o == 'n')
			count = strtol(optarg, NULL, 10);
		else if (o == 'd')
			delay = strtod(optarg, NULL);
		else
			return CLI_USAGE;
	}
	if (optind < argc || delay < 0.1 || count == 0) {
		cli_error("top takes -n COUNT (1 or more) and -d SECONDS (0.1 or more)");
		return CLI_USAGE;
	}
	keys = tty && top_keys();
	while (rc == CLI_OK && count) {
		rc = top_once(tty);
		if (count > 0)
			count--;
		if (rc == CLI_OK && count && top_wait(keys, (int)(delay * 1000)))
			break;
	}
	return rc;
}
