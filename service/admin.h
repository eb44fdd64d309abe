/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The reports that `tapas status|flows|listeners|stats` asks for, as JSON. Main thread. */
#ifndef SERVICE_ADMIN_H
#define SERVICE_ADMIN_H

#include <stdint.h>

#include "service/config.h"
#include "service/fast/fast.h"
#include "service/nic/nic.h"
#include "service/slow/slow.h"

struct admin {
	const struct config *config;
	struct nic *nic;
	struct fast *fast;
	struct slow *slow;
	uint64_t start_ns;
};

/* slow_admin_fn; @ctx: struct admin. The schema is in tapas(1). */
char *admin_report(void *ctx, const char *request);

#endif
