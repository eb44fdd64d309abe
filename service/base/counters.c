/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The names and help texts of the counters, from the one list. */
#include "service/base/counters.h"

const char *const counter_names[CNT_COUNT] = {
#define X(id, name, help) [CNT_##id] = name,
	COUNTER_LIST(X)
#undef X
};

const char *const counter_help[CNT_COUNT] = {
#define X(id, name, help) [CNT_##id] = help,
	COUNTER_LIST(X)
#undef X
};
