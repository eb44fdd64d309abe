/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Any bytes as a configuration file. What is read without complaint stays within its bounds,
 * and printed it reads back as the same.
 */
/* links: service/config.c service/base/log.c service/base/addr.c */
/* libs: -linih */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "service/config.h"

#define REQUIRE(x)                        \
	do {                              \
		if (!(x))                 \
			__builtin_trap(); \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char file_path[64];
static int file_fd = -1;

static void file_open(void)
{
	file_fd = memfd_create("config", MFD_CLOEXEC);
	REQUIRE(file_fd >= 0);
	snprintf(file_path, sizeof file_path, "/proc/self/fd/%d", file_fd);
	stderr = fopen("/dev/null", "we"); /* the complaints; the fuzzer has its own */
	REQUIRE(stderr);
}

static int file_read(struct config *c, const void *data, size_t size)
{
	REQUIRE(ftruncate(file_fd, 0) == 0 && pwrite(file_fd, data, size, 0) == (ssize_t)size);
	config_default(c);
	return config_read(c, file_path);
}

static char *print(const struct config *c, size_t *len)
{
	char *text = NULL;
	FILE *f = open_memstream(&text, len);

	REQUIRE(f);
	config_print(c, f);
	fclose(f);
	return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct config c, again;
	size_t len, len_again;
	char *text, *text_again;
	int rc;

	if (file_fd < 0)
		file_open();
	rc = file_read(&c, data, size);
	REQUIRE(c.ports <= CONFIG_PORTS && c.addresses <= CONFIG_ADDRESSES);
	REQUIRE(c.max_flows >= 16 && c.max_flows <= 16384 && c.max_apps >= 1 && c.max_apps <= 256);
	REQUIRE(c.frames >= 512 && c.frames <= 65536 && c.log_level >= 0 && c.log_level <= 3);
	REQUIRE(memchr(c.interface, 0, sizeof c.interface) && memchr(c.gateway, 0, sizeof c.gateway));
	if (rc)
		return 0;
	config_check(&c);
	text = print(&c, &len);
	REQUIRE(file_read(&again, text, len) == 0);
	text_again = print(&again, &len_again);
	REQUIRE(len == len_again && memcmp(text, text_again, len) == 0);
	free(text);
	free(text_again);
	return 0;
}
