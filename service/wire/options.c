/* SPDX-License-Identifier: GPL-2.0-or-later */
/* TCP options (RFC 9293 3.1, 7323, 2018): each step consumes at least one byte, so it always ends. */
#include <string.h>

#include "service/wire/parse.h"

enum { OPT_END = 0, OPT_NOP = 1, OPT_MSS = 2, OPT_WSCALE = 3, OPT_SACK_OK = 4, OPT_SACK = 5, OPT_TS = 8 };

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void option_sack(const uint8_t *opt, uint32_t len, struct tcp_options *out)
{
	for (uint32_t i = 2; i + 8 <= len && out->sack_count < WIRE_SACK_BLOCKS; i += 8) {
		out->sack[out->sack_count].start = get32(opt + i);
		out->sack[out->sack_count].end = get32(opt + i + 4);
		out->sack_count++;
	}
}

/* One option of @len bytes, kind and length included. A known kind with a wrong length is skipped. */
static void option_one(const uint8_t *opt, uint32_t len, struct tcp_options *out)
{
	switch (opt[0]) {
	case OPT_MSS:
		out->has_mss = len == 4;
		if (len == 4)
			out->mss = (uint16_t)(opt[2] << 8 | opt[3]);
		break;
	case OPT_WSCALE:
		out->has_wscale = len == 3;
		if (len == 3)
			out->wscale = opt[2];
		break;
	case OPT_SACK_OK:
		out->sack_permitted |= len == 2;
		break;
	case OPT_SACK:
		if (len >= 10 && (len - 2) % 8 == 0)
			option_sack(opt, len, out);
		break;
	case OPT_TS:
		if (len == 10) {
			out->has_ts = true;
			out->tsval = get32(opt + 2);
			out->tsecr = get32(opt + 6);
		}
		break;
	default:
		out->unknown = true;
	}
}

void tcp_options_parse(const uint8_t *opt, uint32_t len, struct tcp_options *out)
{
	uint32_t i = 0;

	memset(out, 0, sizeof *out);
	/* what nearly every segment carries: NOP NOP TS */
	if (len == 12 && opt[0] == OPT_NOP && opt[1] == OPT_NOP && opt[2] == OPT_TS && opt[3] == 10) {
		out->has_ts = true;
		out->tsval = get32(opt + 4);
		out->tsecr = get32(opt + 8);
		return;
	}
	while (i < len && opt[i] != OPT_END) {
		if (opt[i] == OPT_NOP) {
			i++;
			continue;
		}
		if (i + 1 >= len || opt[i + 1] < 2 || i + opt[i + 1] > len) {
			out->malformed = true; /* the rest is ignored, as Linux does */
			return;
		}
		option_one(opt + i, opt[i + 1], out);
		i += opt[i + 1];
	}
}
