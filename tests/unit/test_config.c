/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The configuration file: defaults, every key, the errors it names, and printing it for reading again. */
/* links: service/config.c service/base/log.c service/base/addr.c */
/* libs: -linih */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "service/base/compiler.h"
#include "service/base/log.h"
#include "service/config.h"
#include "service/nic/nic.h"

static char path[] = "/tmp/test_config.XXXXXX";
static struct config config;
static char errors[16384]; /* what the last read() or check() said */

static int setup(void **state)
{
	int fd = mkstemp(path);

	(void)state;
	return fd < 0 ? -1 : close(fd);
}

static int teardown(void **state)
{
	(void)state;
	return unlink(path);
}

/* stderr goes to a file from here to errors_end(). Returns the descriptor to give back. */
static int errors_begin(FILE **to)
{
	int saved = dup(STDERR_FILENO);

	*to = tmpfile();
	assert_true(saved >= 0 && *to);
	fflush(stderr);
	assert_true(dup2(fileno(*to), STDERR_FILENO) >= 0);
	return saved;
}

static void errors_end(int saved, FILE *from)
{
	size_t n;

	fflush(stderr);
	assert_true(dup2(saved, STDERR_FILENO) >= 0);
	close(saved);
	rewind(from);
	n = fread(errors, 1, sizeof errors - 1, from);
	errors[n] = 0;
	fclose(from);
}

static int read_file(const char *name)
{
	FILE *f;
	int saved = errors_begin(&f), rc;

	config_default(&config);
	rc = config_read(&config, name);
	errors_end(saved, f);
	return rc;
}

static int read_bytes(const char *text, size_t len)
{
	FILE *f = fopen(path, "we");

	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
	return read_file(path);
}

static int read_text(const char *text)
{
	return read_bytes(text, strlen(text));
}

static int check(void)
{
	FILE *f;
	int saved = errors_begin(&f), rc = config_check(&config);

	errors_end(saved, f);
	return rc;
}

/* One line on stderr: "tapasd: PATH:@line: [section] key: ...; ..." */
static void assert_error(int line, const char *section_key)
{
	char want[256];

	snprintf(want, sizeof want, "tapasd: %s:%d: %s", path, line, section_key);
	if (!strstr(errors, want))
		fail_msg("wanted \"%s\", got \"%s\"", want, errors);
}

static int error_lines(void)
{
	int n = 0;

	for (const char *p = errors; (p = strchr(p, '\n')); p++)
		n++;
	return n;
}

static void defaults(void **state)
{
	struct config c;

	(void)state;
	config_default(&c);
	assert_string_equal(c.socket, "/run/tapas/tapasd.sock");
	assert_string_equal(c.group, "tapas");
	assert_false(c.exclusive);
	assert_true(c.accelerate);
	assert_int_equal(c.max_flows, 16384);
	assert_int_equal(c.max_apps, 256);
	assert_true(c.app_memory == 4ull << 30);
	assert_int_equal(c.log_level, LOG_LEVEL_INFO);
	assert_int_equal(c.attach, NIC_ATTACH_AUTO);
	assert_int_equal(c.ports, 0);
	assert_int_equal(c.addresses, 0);
	/* all but the interface is set */
	assert_int_equal(read_text("[service]\ninterface=eth0\n"), 0);
	snprintf(c.interface, sizeof c.interface, "eth0");
	assert_memory_equal(&c, &config, sizeof c);
	assert_int_equal(check(), 0);
	assert_string_equal(errors, "");
}

static const char every_key[] =
	"[service]\ninterface=eth7\nlocal_only=yes\nmode=exclusive\nsocket=/tmp/s\ngroup=\nmax_flows=16\n"
	"max_apps=3\napp_memory=16M\nrx_buffer=16K\ntx_buffer=4M\nlog_level=warning\n"
	"[exclusive]\ntap=t0\naddress=10.0.0.1/24\naddress=2001:db8::1/128\n"
	"gateway=10.0.0.254\n"
	"[adopt]\naccelerate=off\nexchanges=0\nbytes=0\ntimeout_ms=10000\n"
	"[shadow]\nheartbeat_ms=100\nverdict_ms=10\n"
	"[tcp]\ncongestion=dctcp\nmin_rto_ms=1\ndelack_ms=400\nmax_retries=255\n"
	"dctcp_init_rate=1000\ndctcp_step=2000\ndctcp_min_rate=16G\n"
	"[nic]\nattach=demand\ndetach_ms=0\n"
	"[fast]\nspin_us=0\nframes=512\n"
	"[test]\nfail_adopt_every=4294967295\nfail_adopt_step=6\n"
	"[port 1]\n"
	"[port 6379]\naccelerate=YES\n"
	"[port 65535]\nexchanges=7\nbytes=18446744073709551615\n";

static void every_key_is_read(void **state)
{
	const struct config *c = &config;

	(void)state;
	assert_int_equal(read_text(every_key), 0);
	assert_string_equal(errors, "");
	assert_string_equal(c->interface, "eth7");
	assert_true(c->local_only);
	assert_true(c->exclusive && !c->accelerate);
	assert_string_equal(c->socket, "/tmp/s");
	assert_string_equal(c->group, "");
	assert_true(c->max_flows == 16 && c->max_apps == 3 && c->app_memory == 16u << 20);
	assert_true(c->rx_buffer == 16384 && c->tx_buffer == 4u << 20 && c->log_level == LOG_LEVEL_WARN);
	assert_string_equal(c->tap, "t0");
	assert_int_equal(c->addresses, 2);
	assert_string_equal(c->address[0], "10.0.0.1/24");
	assert_string_equal(c->address[1], "2001:db8::1/128");
	assert_string_equal(c->gateway, "10.0.0.254");
	assert_true(c->adopt_exchanges == 0 && c->adopt_bytes == 0 && c->adopt_timeout_ms == 10000);
	assert_true(c->heartbeat_ms == 100 && c->verdict_ms == 10);
	assert_string_equal(c->congestion, "dctcp");
	assert_true(c->min_rto_ms == 1 && c->delack_ms == 400 && c->max_retries == 255);
	assert_true(c->dctcp_init_rate == 1000 && c->dctcp_step == 2000 && c->dctcp_min_rate == 16ull << 30);
	assert_true(c->attach == NIC_ATTACH_DEMAND && c->detach_ms == 0);
	assert_true(c->spin_us == 0 && c->frames == 512);
	assert_true(c->fail_adopt_every == UINT32_MAX && c->fail_adopt_step == 6);
	assert_int_equal(check(), 0);
}

/* A port's section starts from [adopt]; one without keys is none. */
static void ports_start_from_adopt(void **state)
{
	const struct config_port *p = config.port;

	(void)state;
	assert_int_equal(read_text(every_key), 0);
	assert_int_equal(config.ports, 2);
	assert_true(p[0].port == 6379 && p[0].accelerate && p[0].adopt_exchanges == 0 && p[0].adopt_bytes == 0);
	assert_true(p[1].port == 65535 && !p[1].accelerate && p[1].adopt_exchanges == 7);
	assert_true(p[1].adopt_bytes == UINT64_MAX);
	/* the same port twice is one */
	assert_int_equal(read_text("[port 80]\nbytes=1\n[port 81]\nbytes=2\n[port 80]\nexchanges=9\n"), 0);
	assert_int_equal(config.ports, 2);
	assert_true(p[0].port == 80 && p[0].adopt_bytes == 1 && p[0].adopt_exchanges == 9);
}

static void at_most_64_ports(void **state)
{
	char text[8192];
	size_t n = 0;

	(void)state;
	for (int i = 1; i <= CONFIG_PORTS; i++)
		n += (size_t)snprintf(text + n, sizeof text - n, "[port %d]\nbytes=%d\n", i, i);
	assert_int_equal(read_text(text), 0);
	assert_int_equal(config.ports, CONFIG_PORTS);
	snprintf(text + n, sizeof text - n, "[port 1000]\nbytes=1\n");
	assert_int_equal(read_text(text), -EINVAL);
	assert_error(2 * CONFIG_PORTS + 2, "[port 1000] bytes: ");
	assert_int_equal(config.ports, CONFIG_PORTS);
}

static void at_most_8_addresses(void **state)
{
	char text[1024] = "[exclusive]\n";

	(void)state;
	for (int i = 0; i < CONFIG_ADDRESSES; i++)
		strcat(text, "address=10.0.0.1/24\n");
	assert_int_equal(read_text(text), 0);
	assert_int_equal(config.addresses, CONFIG_ADDRESSES);
	strcat(text, "address=10.0.0.1/24\n");
	assert_int_equal(read_text(text), -EINVAL);
	assert_error(CONFIG_ADDRESSES + 2, "[exclusive] address: ");
	assert_int_equal(config.addresses, CONFIG_ADDRESSES);
}

static void wrong_values_are_named(void **state)
{
	static const char *const table[][3] = {
		{"service", "interface", "a-name-of-16-chr"},
		{"service", "mode", "both"},
		{"service", "mode", ""},
		{"service", "max_flows", "15"},
		{"service", "max_flows", "16385"},
		{"service", "max_flows", "4294967312"}, /* 16 in 32 bits */
		{"service", "max_flows", "-1"},
		{"service", "max_flows", "+16"},
		{"service", "max_flows", "0x10"},
		{"service", "max_flows", "64 K"},
		{"service", "max_flows", "64KB"},
		{"service", "max_flows", ""},
		{"service", "app_memory", "17179869185G"}, /* 1G in 64 bits */
		{"service", "app_memory", "99999999999999999999"},
		{"service", "rx_buffer", "8M"},
		{"service", "log_level", "loud"},
		{"nic", "attach", "sometimes"},
		{"nic", "detach_ms", "3600001"},
		{"exclusive", "tap", "a-name-of-16-chr"},
		{"exclusive", "address", "10.0.0.1"},
		{"exclusive", "address", "10.0.0.1/33"},
		{"exclusive", "address", "10.0.0.1/"},
		{"exclusive", "address", "10.0.0.1/24K"},
		{"exclusive", "address", "10.0.0/24"},
		{"exclusive", "address", "fe80::1/129"},
		{"exclusive", "address", "/24"},
		{"exclusive", "address", "eth0/24"},
		{"exclusive", "address", "1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1/24"},
		{"exclusive", "gateway", "router"},
		{"exclusive", "gateway", "10.0.0.254/24"},
		{"adopt", "accelerate", "maybe"},
		{"adopt", "bytes", "18446744073709551616"},
		{"adopt", "bytes", "1.5M"},
		{"adopt", "timeout_ms", "9"},
		{"tcp", "congestion", "a-name-of-16-chr"},
		{"tcp", "delack_ms", "401"},
		{"test", "fail_adopt_step", "7"},
		{"service", "speed", "1"},
		{"adopt", "interface", "eth0"},
		{"Service", "interface", "eth0"},
		{"speed", "fast", "1"},
		{"", "interface", "eth0"},
		{"port 80", "accelerate", "2"},
		{"port 80", "exchanges", "1000001"},
		{"port 80", "bytes", "x"},
		{"port 80", "speed", "x"},
		{"port 0", "bytes", "1"},
		{"port 65536", "bytes", "1"},
		{"port -1", "bytes", "1"},
		{"port", "bytes", "1"},
		{"ports", "bytes", "1"},
		{"port http", "bytes", "1"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		char text[256], want[128];

		snprintf(text, sizeof text, "# one\n\n[%s]\n; four\n%s = %s\n", table[i][0], table[i][1], table[i][2]);
		snprintf(want, sizeof want, "[%s] %s: ", table[i][0], table[i][1]);
		if (read_text(text) != -EINVAL)
			fail_msg("accepted: [%s] %s=%s", table[i][0], table[i][1], table[i][2]);
		assert_error(5, want);
		assert_int_equal(error_lines(), 1);
		assert_non_null(strstr(errors, "; ")); /* what is wrong; what to do */
	}
}

/* A refused value leaves what was there. */
static void wrong_values_are_not_stored(void **state)
{
	struct config c;

	(void)state;
	config_default(&c);
	assert_int_equal(read_text("[service]\nmode=x\nsocket=\nmax_flows=1\napp_memory=1\nlog_level=x\n[exclusive]\n"
				   "address=x/1\ngateway=x\n[adopt]\naccelerate=x\nbytes=x\n"),
			 -EINVAL);
	c.socket[0] = 0; /* empty is a text */
	memset(c.socket, 0, sizeof c.socket);
	memset(config.socket, 0, sizeof config.socket);
	assert_memory_equal(&c, &config, sizeof c);
	assert_int_equal(error_lines(), 8); /* all at once */
}

static void lines_that_are_none(void **state)
{
	(void)state;
	assert_int_equal(read_text("[service]\ninterface=eth0\nhello\n"), -EINVAL);
	assert_error(3, "not a section");
	assert_int_equal(read_text("[service\ninterface=eth0\n"), -EINVAL);
	assert_error(1, "not a section");
	assert_int_equal(read_bytes("[service]\ninterface=eth0\0 mode=x\n", 33), -EINVAL);
	assert_error(2, "too long, or not text");
	assert_int_equal(read_text(""), 0);
	assert_int_equal(read_text("\n\n  \n\t\r\n# x\n;y"), 0);
}

static void layout_does_not_matter(void **state)
{
	(void)state;
	/* a byte order mark, carriage returns, blanks, indentation, no end of the last line */
	assert_int_equal(read_text("\xef\xbb\xbf[service]\r\n  interface = eth0 \r\n\tgroup=adm ; not root\r\n"
				   "    mode : exclusive\r\n\n      max_apps=7"),
			 0);
	assert_string_equal(config.interface, "eth0");
	assert_string_equal(config.group, "adm");
	assert_true(config.exclusive && config.max_apps == 7);
}

/* Long comments are comments; long lines are refused; either way the lines after keep their numbers. */
static void long_lines(void **state)
{
	static const size_t around[] = {100, 195, 196, 197, 198, 199, 200, 201, 202, 399, 400, 5000};
	char text[5200];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(around); i++) {
		int n = snprintf(text, sizeof text, "[service]\n  #%0*d\nmax_apps=5\nspeed=1\n", (int)around[i], 0);

		assert_true(n > 0 && (size_t)n < sizeof text);
		assert_int_equal(read_text(text), -EINVAL);
		assert_error(4, "[service] speed: ");
		assert_int_equal(error_lines(), 1);
		assert_int_equal(config.max_apps, 5);

		snprintf(text, sizeof text, "[service]\nsocket=/%0*d\nmax_apps=5\nspeed=1\n", (int)around[i], 0);
		assert_int_equal(read_text(text), -EINVAL);
		assert_error(4, "[service] speed: ");
		assert_int_equal(config.max_apps, 5);
		assert_int_equal(error_lines(), around[i] > 106 ? 2 : 1);
	}
}

static void files_that_cannot_be_read(void **state)
{
	(void)state;
	assert_int_equal(read_file("/nonexistent/tapas.conf"), -ENOENT);
	assert_string_equal(errors, ""); /* the caller knows whether it had to be there */
	assert_int_equal(read_file("/tmp"), -EISDIR);
	assert_non_null(strstr(errors, "tapasd: /tmp: "));
	assert_int_equal(read_file("/dev/null/x"), -ENOTDIR);
	assert_non_null(strstr(errors, "tapasd: /dev/null/x: "));
}

/* What config_print() writes of @c reads back as the same. */
static void assert_prints_back(const struct config *c)
{
	FILE *f = fopen(path, "we");

	assert_non_null(f);
	config_print(c, f);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(read_file(path), 0);
	assert_string_equal(errors, "");
}

static void printed_and_read_again(void **state)
{
	struct config c;

	(void)state;
	config_default(&c);
	assert_prints_back(&c);
	assert_memory_equal(&c, &config, sizeof c);

	assert_int_equal(read_text(every_key), 0);
	c = config;
	assert_prints_back(&c);
	/* texts that were shorter than the default leave some of it behind their end */
	memset(c.socket + strlen(c.socket), 0, sizeof c.socket - strlen(c.socket));
	memset(config.socket + strlen(config.socket), 0, sizeof c.socket - strlen(config.socket));
	assert_memory_equal(&c, &config, sizeof c);
}

static void shipped_file(void **state)
{
	struct config c;

	(void)state;
	if (access("conf/tapas.conf", R_OK))
		skip();
	config_default(&c);
	assert_int_equal(read_file("conf/tapas.conf"), 0);
	assert_string_equal(errors, "");
	assert_memory_equal(&c, &config, sizeof c);
}

/* "#key=value": the commented lines of the shipped file are right, and say the defaults. */
static void shipped_file_says_the_defaults(void **state)
{
	FILE *from = fopen("conf/tapas.conf", "re"), *to;
	char line[512];

	(void)state;
	if (!from)
		skip();
	to = fopen(path, "we");
	assert_non_null(to);
	while (fgets(line, sizeof line, from))
		fputs(line[0] == '#' && line[1] != ' ' ? line + 1 : line, to);
	fclose(from);
	assert_int_equal(fclose(to), 0);
	assert_int_equal(read_file(path), 0);
	assert_string_equal(errors, "");
	assert_int_equal(check(), 0);
	assert_int_equal(config.ports, 1);
	assert_int_equal(config.port[0].port, 6379);
	assert_int_equal(config.addresses, 1);
	config.ports = config.addresses = 0;
	memset(config.port, 0, sizeof config.port);
	memset(config.address, 0, sizeof config.address);
	memset(config.gateway, 0, sizeof config.gateway);
	memset(config.interface, 0, sizeof config.interface);
	struct config c;

	config_default(&c);
	assert_memory_equal(&c, &config, sizeof c);
}

static void what_makes_no_sense_together(void **state)
{
	static const char *const table[] = {
		"[service]\nmax_apps=1\n", /* no interface */
		"[service]\ninterface=e\nrx_buffer=17K\n",
		"[service]\ninterface=e\ntx_buffer=100000\n",
		"[service]\ninterface=e\n[fast]\nframes=1000\n",
		"[service]\ninterface=e\n[exclusive]\ntap=e\n",
		"[service]\ninterface=e\n[exclusive]\ntap=\n",
		"[service]\ninterface=e\n[tcp]\ncongestion=bbr\n",
		"[service]\ninterface=e\n[tcp]\ncongestion=\n",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		assert_int_equal(read_text(table[i]), 0);
		assert_int_equal(check(), -EINVAL);
		assert_int_equal(error_lines(), 1);
	}
	/* connections within the host have no interface */
	assert_int_equal(read_text("[service]\nlocal_only=yes\n"), 0);
	assert_int_equal(check(), 0);
	assert_string_equal(errors, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults),
		cmocka_unit_test(every_key_is_read),
		cmocka_unit_test(ports_start_from_adopt),
		cmocka_unit_test(at_most_64_ports),
		cmocka_unit_test(at_most_8_addresses),
		cmocka_unit_test(wrong_values_are_named),
		cmocka_unit_test(wrong_values_are_not_stored),
		cmocka_unit_test(lines_that_are_none),
		cmocka_unit_test(layout_does_not_matter),
		cmocka_unit_test(long_lines),
		cmocka_unit_test(files_that_cannot_be_read),
		cmocka_unit_test(printed_and_read_again),
		cmocka_unit_test(shipped_file),
		cmocka_unit_test(shipped_file_says_the_defaults),
		cmocka_unit_test(what_makes_no_sense_together),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
