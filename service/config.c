/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Configuration. One table says for each key where it belongs, how it is read and where it
 * goes; reading, printing and the error messages all follow it. Main thread, at start.
 */
#include "service/config.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <stdlib.h>
#include <string.h>

#include "service/base/addr.h"
#include "service/base/compiler.h"
#include "service/base/log.h"
#include "service/ipc/abi.h"

enum key_type {
	KEY_TEXT,
	KEY_BOOL,
	KEY_U32,
	KEY_U64,
	KEY_MODE,
	KEY_LEVEL,
	KEY_ATTACH,
	KEY_LOCAL,
	KEY_ADDRESS,
	KEY_HOST
};

struct key {
	const char *section, *name;
	enum key_type type;
	size_t offset, size;
	uint64_t min, max;
	const char *hint; /* what a right value looks like */
};

#define AT(field) offsetof(struct config, field), sizeof(((struct config *)0)->field)
#define KB 1024ull
#define MB (1024ull * KB)
#define GB (1024ull * MB)

static const struct key keys[] = {
	{"service", "interface", KEY_TEXT, AT(interface), 0, 0, "the name of a network interface (see ip link)"},
	{"service", "local_only", KEY_BOOL, AT(local_only), 0, 0, "yes or no"},
	{"service", "mode", KEY_MODE, AT(exclusive), 0, 0, "shared or exclusive"},
	{"service", "socket", KEY_TEXT, AT(socket), 0, 0, "the path of the control socket"},
	{"service", "local", KEY_LOCAL, AT(local), 0, 0, "off, service or direct"},
	{"service", "group", KEY_TEXT, AT(group), 0, 0, "the name of a group"},
	{"service", "max_flows", KEY_U32, AT(max_flows), 16, IPC_FLOWS, "a number from 16 to 16384"},
	{"service", "max_apps", KEY_U32, AT(max_apps), 1, 256, "a number from 1 to 256"},
	{"service", "app_memory", KEY_U64, AT(app_memory), 16 * MB, 64 * GB, "a size from 16M to 64G"},
	{"service", "rx_buffer", KEY_U32, AT(rx_buffer), 16 * KB, 4 * MB, "a power of two from 16K to 4M"},
	{"service", "tx_buffer", KEY_U32, AT(tx_buffer), 16 * KB, 4 * MB, "a power of two from 16K to 4M"},
	{"service", "log_level", KEY_LEVEL, AT(log_level), 0, 0, "error, warning, info or debug"},
	{"exclusive", "tap", KEY_TEXT, AT(tap), 0, 0, "a name for the TAP interface, at most 15 characters"},
	{"exclusive", "address", KEY_ADDRESS, AT(address), 0, 0,
	 "an address with its prefix length, such as 10.0.0.1/24"},
	{"exclusive", "gateway", KEY_HOST, AT(gateway), 0, 0, "the address of the default router, such as 10.0.0.254"},
	{"adopt", "accelerate", KEY_BOOL, AT(accelerate), 0, 0, "yes or no"},
	{"adopt", "exchanges", KEY_U32, AT(adopt_exchanges), 0, 1000000, "a number from 0 to 1000000"},
	{"adopt", "bytes", KEY_U64, AT(adopt_bytes), 0, UINT64_MAX, "a number of bytes, such as 64K"},
	{"adopt", "timeout_ms", KEY_U32, AT(adopt_timeout_ms), 10, 10000, "milliseconds from 10 to 10000"},
	{"shadow", "heartbeat_ms", KEY_U32, AT(heartbeat_ms), 100, 3600000, "milliseconds from 100 to 3600000"},
	{"shadow", "verdict_ms", KEY_U32, AT(verdict_ms), 10, 10000, "milliseconds from 10 to 10000"},
	{"tcp", "congestion", KEY_TEXT, AT(congestion), 0, 0, "linux, cubic, reno or dctcp"},
	{"tcp", "min_rto_ms", KEY_U32, AT(min_rto_ms), 1, 10000, "milliseconds from 1 to 10000"},
	{"tcp", "delack_ms", KEY_U32, AT(delack_ms), 1, 400, "milliseconds from 1 to 400"},
	{"tcp", "max_retries", KEY_U32, AT(max_retries), 3, 255, "a number from 3 to 255"},
	{"tcp", "dctcp_init_rate", KEY_U64, AT(dctcp_init_rate), 1000, GB * 16, "bytes per second"},
	{"tcp", "dctcp_step", KEY_U64, AT(dctcp_step), 1000, GB * 16, "bytes per second"},
	{"tcp", "dctcp_min_rate", KEY_U64, AT(dctcp_min_rate), 1000, GB * 16, "bytes per second"},
	{"nic", "attach", KEY_ATTACH, AT(attach), 0, 0, "auto, always or demand"},
	{"nic", "detach_ms", KEY_U32, AT(detach_ms), 0, 3600000, "milliseconds from 0 to 3600000"},
	{"fast", "spin_us", KEY_U32, AT(spin_us), 0, 1000000, "microseconds from 0 to 1000000"},
	{"fast", "frames", KEY_U32, AT(frames), 512, 65536, "a power of two from 512 to 65536"},
	{"test", "fail_adopt_every", KEY_U32, AT(fail_adopt_every), 0, UINT32_MAX, "a number"},
	{"test", "fail_adopt_step", KEY_U32, AT(fail_adopt_step), 0, 6, "a number from 0 to 6"},
};

/* Names of the values 0, 1, ... */
static const char *const levels[] = {"error", "warning", "info", "debug", NULL};
static const char *const locals[] = {"off", "service", "direct", NULL};      /* enum config_local */
static const char *const attachments[] = {"auto", "always", "demand", NULL}; /* enum nic_attach */

void config_default(struct config *c)
{
	*c = (struct config){
		.socket = "/run/tapas/tapasd.sock",
		.group = "tapas",
		.local = CONFIG_LOCAL_OFF,
		.max_flows = IPC_FLOWS,
		.max_apps = 256,
		.app_memory = 4 * GB,
		.rx_buffer = 64 * KB,
		.tx_buffer = 64 * KB,
		.log_level = LOG_LEVEL_INFO,
		.tap = "tapas0",
		.accelerate = true,
		.adopt_exchanges = 2,
		.adopt_bytes = 64 * KB,
		.adopt_timeout_ms = 100,
		.heartbeat_ms = 10000,
		.verdict_ms = 30,
		.congestion = "linux",
		.min_rto_ms = 200,
		.delack_ms = 20,
		.max_retries = 15,
		.dctcp_init_rate = 1250000,
		.dctcp_step = 1250000,
		.dctcp_min_rate = 1250000,
		.detach_ms = 10000,
		.spin_us = 20,
		.frames = 8192,
	};
}

/* ---- values ---- */

static int value_bool(const char *text, bool *out)
{
	static const char *const yes[] = {"yes", "true", "on", "1"}, *const no[] = {"no", "false", "off", "0"};

	for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
		if (!strcasecmp(text, yes[i]) || !strcasecmp(text, no[i])) {
			*out = !strcasecmp(text, yes[i]);
			return 0;
		}
	}
	return -EINVAL;
}

static int value_number(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
	static const char suffixes[] = "KMG";
	unsigned long long v;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	v = strtoull(text, &end, 10);
	if (errno)
		return -EINVAL;
	if (*end) {
		const char *s = strchr(suffixes, toupper((unsigned char)*end));

		if (!s || end[1] || v > UINT64_MAX >> (10 * (s - suffixes + 1)))
			return -EINVAL;
		v <<= 10 * (s - suffixes + 1);
	}
	if (v < min || v > max)
		return -EINVAL;
	*out = v;
	return 0;
}

static int value_choice(const char *text, const char *const *names, int *out)
{
	for (int i = 0; names[i]; i++)
		if (!strcmp(text, names[i])) {
			*out = i;
			return 0;
		}
	return -EINVAL;
}

static int value_text(const char *text, char *out, size_t size)
{
	if (strlen(text) >= size)
		return -EINVAL;
	strcpy(out, text);
	return 0;
}

/* ADDRESS/LENGTH, one more of them. */
static int value_address(const char *text, struct config *c)
{
	const char *slash = strchr(text, '/');
	char host[sizeof c->address[0]];
	struct ip_addr a;
	uint64_t prefix;

	if (c->addresses == CONFIG_ADDRESSES || !slash || strlen(text) >= sizeof host)
		return -EINVAL;
	memcpy(host, text, (size_t)(slash - text));
	host[slash - text] = 0;
	if (ip_addr_parse(host, &a) || !isdigit((unsigned char)text[strlen(text) - 1]) ||
	    value_number(slash + 1, 0, strchr(host, ':') ? 128 : 32, &prefix))
		return -EINVAL;
	return value_text(text, c->address[c->addresses++], sizeof c->address[0]);
}

static int value_host(const char *text, char *out, size_t size)
{
	struct ip_addr a;

	return text[0] && ip_addr_parse(text, &a) ? -EINVAL : value_text(text, out, size);
}

static int value_store(struct config *c, const struct key *k, const char *text)
{
	void *p = (char *)c + k->offset;
	uint64_t v = 0;
	int rc;

	switch (k->type) {
	case KEY_TEXT:
		return value_text(text, p, k->size);
	case KEY_BOOL:
		return value_bool(text, p);
	case KEY_U32:
		rc = value_number(text, k->min, k->max, &v);
		if (!rc)
			*(uint32_t *)p = (uint32_t)v;
		return rc;
	case KEY_U64:
		rc = value_number(text, k->min, k->max, &v);
		if (!rc)
			*(uint64_t *)p = v;
		return rc;
	case KEY_MODE:
		if (strcmp(text, "shared") && strcmp(text, "exclusive"))
			return -EINVAL;
		*(bool *)p = !strcmp(text, "exclusive");
		return 0;
	case KEY_LEVEL:
		return value_choice(text, levels, p);
	case KEY_ATTACH:
		return value_choice(text, attachments, p);
	case KEY_LOCAL:
		return value_choice(text, locals, p);
	case KEY_ADDRESS:
		return value_address(text, c);
	case KEY_HOST:
		return value_host(text, p, k->size);
	}
	return -EINVAL;
}

/* ---- reading ---- */

/* Debian's libinih gives its handler no line number: the lines are counted as they are read. */
struct reader {
	struct config *config;
	const char *path;
	FILE *file;
	int line, error; /* errno of a read that failed */
	bool failed;
};

/*
 * One whole line. Blanks before it are dropped, as libinih would take an indented line for more of
 * the value above it; one that is too long is refused, as libinih would go on in the middle of it.
 */
static char *reader_line(char *text, int size, void *stream)
{
	struct reader *r = stream;
	bool whole = true;
	int c = getc(r->file), len = 0;

	if (c == EOF) {
		r->error = ferror(r->file) ? errno : 0;
		return NULL;
	}
	r->line++;
	for (; c != EOF && c != '\n'; c = getc(r->file)) {
		if (!len && isspace(c))
			continue;
		whole &= c && len < size - 2;
		if (whole)
			text[len++] = (char)c;
	}
	if (!whole && (!len || !strchr("#;", text[0]))) {
		fprintf(stderr, "tapasd: %s:%d: too long, or not text; mend or remove the line\n", r->path, r->line);
		r->failed = true;
		len = 0;
	}
	text[len++] = '\n';
	text[len] = 0;
	return text;
}

static int reader_error(struct reader *r, const char *section, const char *name, const char *what, const char *hint)
{
	fprintf(stderr, "tapasd: %s:%d: [%s] %s: %s; %s\n", r->path, r->line, section, name, what, hint);
	r->failed = true;
	return 1; /* go on: all errors at once */
}

/* [port N]: the policy of one local port. Returns NULL if the section is none, or there are too many. */
static struct config_port *reader_port(struct config *c, const char *section)
{
	uint64_t port;

	if (strncmp(section, "port ", 5) || value_number(section + 5, 1, 65535, &port))
		return NULL;
	for (unsigned i = 0; i < c->ports; i++)
		if (c->port[i].port == port)
			return &c->port[i];
	if (c->ports == CONFIG_PORTS)
		return NULL;
	c->port[c->ports] = (struct config_port){(uint16_t)port, c->accelerate, c->adopt_exchanges, c->adopt_bytes};
	return &c->port[c->ports++];
}

static int reader_port_key(struct reader *r, const char *section, const char *name, const char *value)
{
	struct config_port *p = reader_port(r->config, section);
	uint64_t v;

	if (!p)
		return reader_error(r, section, name, "not a section for one port",
				    "write [port N] with N from 1 to 65535, at most 64 of them");
	if (!strcmp(name, "accelerate"))
		return value_bool(value, &p->accelerate)
			       ? reader_error(r, section, name, "not a value it can have", "write yes or no")
			       : 1;
	if (!strcmp(name, "exchanges")) {
		if (value_number(value, 0, 1000000, &v))
			return reader_error(r, section, name, "not a value it can have",
					    "write a number from 0 to 1000000");
		p->adopt_exchanges = (uint32_t)v;
		return 1;
	}
	if (!strcmp(name, "bytes"))
		return value_number(value, 0, UINT64_MAX, &p->adopt_bytes)
			       ? reader_error(r, section, name, "not a value it can have",
					      "write a number of bytes, such as 64K")
			       : 1;
	return reader_error(r, section, name, "no such key", "a port has accelerate, exchanges and bytes");
}

static int reader_key(void *user, const char *section, const char *name, const char *value)
{
	struct reader *r = user;
	bool known = false;
	char hint[160];

	if (!strncmp(section, "port", 4))
		return reader_port_key(r, section, name, value);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		known |= !strcmp(section, keys[i].section);
		if (strcmp(section, keys[i].section) || strcmp(name, keys[i].name))
			continue;
		if (!value_store(r->config, &keys[i], value))
			return 1;
		snprintf(hint, sizeof hint, "write %s", keys[i].hint);
		return reader_error(r, section, name, "not a value it can have", hint);
	}
	return reader_error(r, section, name, known ? "no such key" : "no such section",
			    "see tapas.conf(5) for those there are");
}

int config_read(struct config *c, const char *path)
{
	struct reader r = {.config = c, .path = path, .file = fopen(path, "re")};
	int rc;

	if (!r.file) {
		rc = -errno;
		if (rc != -ENOENT)
			fprintf(stderr, "tapasd: %s: %s\n", path, strerror(-rc));
		return rc;
	}
	rc = ini_parse_stream(reader_line, &r, reader_key, &r);
	fclose(r.file);
	if (r.error) {
		fprintf(stderr, "tapasd: %s: %s\n", path, strerror(r.error));
		return -r.error;
	}
	if (rc > 0) {
		fprintf(stderr, "tapasd: %s:%d: not a section, key=value or comment; mend or remove the line\n", path,
			rc);
		return -EINVAL;
	}
	return rc < 0 || r.failed ? -EINVAL : 0;
}

/* ---- checking and printing ---- */

static int check_fail(const char *what)
{
	fprintf(stderr, "tapasd: %s\n", what);
	return -EINVAL;
}

static bool power_of_two(uint32_t v)
{
	return v && !(v & (v - 1));
}

int config_check(const struct config *c)
{
	if (!c->interface[0] && !c->local_only)
		return check_fail("no interface: set interface= in the [service] section of tapas.conf, or give -i, or "
				  "--local-only");
	if (!power_of_two(c->rx_buffer) || !power_of_two(c->tx_buffer))
		return check_fail("[service] rx_buffer and tx_buffer must be powers of two, such as 64K");
	if (!power_of_two(c->frames))
		return check_fail("[fast] frames must be a power of two, such as 8192");
	if (!c->tap[0] || !strcmp(c->tap, c->interface))
		return check_fail("[exclusive] tap must be a name of its own, not the interface's");
	if (strcmp(c->congestion, "linux") && strcmp(c->congestion, "cubic") && strcmp(c->congestion, "reno") &&
	    strcmp(c->congestion, "dctcp"))
		return check_fail("[tcp] congestion must be linux, cubic, reno or dctcp");
	return 0;
}

static void print_value(const struct config *c, const struct key *k, FILE *f)
{
	const void *p = (const char *)c + k->offset;

	switch (k->type) {
	case KEY_TEXT:
	case KEY_HOST:
		fprintf(f, "%s=%s\n", k->name, (const char *)p);
		return;
	case KEY_BOOL:
		fprintf(f, "%s=%s\n", k->name, *(const bool *)p ? "yes" : "no");
		return;
	case KEY_U32:
		fprintf(f, "%s=%u\n", k->name, *(const uint32_t *)p);
		return;
	case KEY_U64:
		fprintf(f, "%s=%llu\n", k->name, (unsigned long long)*(const uint64_t *)p);
		return;
	case KEY_MODE:
		fprintf(f, "%s=%s\n", k->name, *(const bool *)p ? "exclusive" : "shared");
		return;
	case KEY_LEVEL:
		fprintf(f, "%s=%s\n", k->name, levels[*(const int *)p]);
		return;
	case KEY_ATTACH:
		fprintf(f, "%s=%s\n", k->name, attachments[*(const int *)p]);
		return;
	case KEY_LOCAL:
		fprintf(f, "%s=%s\n", k->name, locals[*(const int *)p]);
		return;
	case KEY_ADDRESS:
		for (unsigned i = 0; i < c->addresses; i++)
			fprintf(f, "%s=%s\n", k->name, c->address[i]);
		return;
	}
}

void config_print(const struct config *c, FILE *f)
{
	const char *section = "";

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		if (strcmp(section, keys[i].section))
			fprintf(f, "%s[%s]\n", i ? "\n" : "", keys[i].section);
		section = keys[i].section;
		print_value(c, &keys[i], f);
	}
	for (unsigned i = 0; i < c->ports; i++)
		fprintf(f, "\n[port %u]\naccelerate=%s\nexchanges=%u\nbytes=%llu\n", c->port[i].port,
			c->port[i].accelerate ? "yes" : "no", c->port[i].adopt_exchanges,
			(unsigned long long)c->port[i].adopt_bytes);
}
