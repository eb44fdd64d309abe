/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Messages to people, on stderr. Under the journal each line carries its priority. */
#include "service/base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static struct {
	const char *name;
	enum log_level max;
	bool journal;
} log_state = {"tapas", LOG_LEVEL_INFO, false};

void log_open(const char *name, enum log_level max_level)
{
	log_state.name = name;
	log_state.max = max_level;
	log_state.journal = getenv("JOURNAL_STREAM") != NULL;
}

bool log_enabled(enum log_level level)
{
	return level <= log_state.max;
}

void log_write(enum log_level level, const char *fmt, ...)
{
	static const int priority[] = {3, 4, 6, 7};
	char line[512];
	int saved = errno;
	va_list ap;

	if (!log_enabled(level))
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	if (log_state.journal)
		fprintf(stderr, "<%d>%s\n", priority[level], line);
	else
		fprintf(stderr, "%s: %s\n", log_state.name, line);
	errno = saved;
}
