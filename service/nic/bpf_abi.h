/* SPDX-License-Identifier: (GPL-2.0-or-later OR BSD-2-Clause) */
/* What the BPF programs and their loader share. */
#ifndef SERVICE_NIC_BPF_ABI_H
#define SERVICE_NIC_BPF_ABI_H

#include "service/base/flow_key.h"

/* Value of the map `flows`. Key: struct flow_key, as this host sees it (local, remote). */
struct bpf_flow {
	__u32 flow_id; /* index into `words` */
};

/* Argument of the program word_clear. */
struct bpf_word_clear {
	__u32 flow_id;
};

#define NIC_XSK_MAX 64 /* receive queues */

#endif
