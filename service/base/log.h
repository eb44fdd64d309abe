/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Messages to people: one line on stderr with an <N> priority prefix when stderr is the
 * journal, plain otherwise. log_err: something failed and the service says what to do;
 * log_warn: it goes on with less; log_info: state an operator wants once; log_debug: per
 * connection, off by default. errno is preserved. Slow threads only.
 */
#ifndef SERVICE_BASE_LOG_H
#define SERVICE_BASE_LOG_H

#include <stdbool.h>

#include "service/base/compiler.h"

enum log_level { LOG_LEVEL_ERR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Must be called before threads start. @name prefixes every line when not under the journal. */
void log_open(const char *name, enum log_level max_level);
void log_write(enum log_level level, const char *fmt, ...) format_printf(2, 3);
bool log_enabled(enum log_level level);

#define log_err(...) log_write(LOG_LEVEL_ERR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)                                           \
	do {                                                     \
		if (log_enabled(LOG_LEVEL_DEBUG))                \
			log_write(LOG_LEVEL_DEBUG, __VA_ARGS__); \
	} while (0)

#endif
