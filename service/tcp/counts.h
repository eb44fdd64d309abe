/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What TCP_INFO counts over the life of a connection, whoever carried it: Linux's and the fast path's go on from each other. */
#ifndef SERVICE_TCP_COUNTS_H
#define SERVICE_TCP_COUNTS_H

#include <stdint.h>

struct tcp_counts {
	uint64_t bytes_retrans;
	uint32_t segs_in, segs_out, data_segs_in, data_segs_out, retransmits;
	/* last data sent, data, segment received: milliseconds of CLOCK_MONOTONIC, or, as Linux tells them, before now */
	uint32_t sent_ms, received_ms, heard_ms;
};

#endif
