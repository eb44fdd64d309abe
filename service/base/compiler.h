/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Compiler attributes and small macros that every layer may use. */
#ifndef SERVICE_BASE_COMPILER_H
#define SERVICE_BASE_COMPILER_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define CACHELINE 64
#define cacheline_aligned __attribute__((aligned(CACHELINE)))
#define format_printf(f, a) __attribute__((format(printf, f, a)))
#define must_check __attribute__((warn_unused_result))
#define container_of(p, type, member) ((type *)((char *)(p)-offsetof(type, member)))

#ifdef __cppcheck__ /* which does not know statement expressions */
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#else
#define MIN(a, b)                                  \
	({                                         \
		__typeof__(a) min_a_ = (a);        \
		__typeof__(b) min_b_ = (b);        \
		min_a_ < min_b_ ? min_a_ : min_b_; \
	})
#define MAX(a, b)                                  \
	({                                         \
		__typeof__(a) max_a_ = (a);        \
		__typeof__(b) max_b_ = (b);        \
		max_a_ > max_b_ ? max_a_ : max_b_; \
	})
#endif

#endif
