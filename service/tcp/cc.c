/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The table of congestion controls and their defaults. Called by the slow path; pure. */
#include "service/tcp/cc.h"

#include <string.h>

#include "service/base/compiler.h"

const struct cc_ops *cc_find(const char *name)
{
	static const struct cc_ops *const all[] = {&cc_dctcp, &cc_cubic, &cc_reno};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (name && strcmp(name, all[i]->name) == 0)
			return all[i];
	return &cc_cubic;
}

void cc_config_default(struct cc_config *cfg)
{
	*cfg = (struct cc_config){
		.init_rate_bps = 1250000, /* 10 Mbit/s */
		.additive_bps = 1250000,
		.min_rate_bps = 1250000,
		.max_rate_bps = 12500000000ull, /* 100 Gbit/s */
		.init_cwnd_segments = 10,       /* RFC 6928 */
		.ecn_weight = 1.0 / 16,
	};
}
