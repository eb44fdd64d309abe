/* SPDX-License-Identifier: (GPL-2.0-or-later OR BSD-2-Clause) */
/*
 * The 4-tuple as every part of tapas keys it: the user-level flow table, the slow path's
 * connections and the BPF map `flows`. It is included by BPF programs, so it may use
 * nothing but the kernel's fixed-size types. No padding: it is hashed as bytes.
 */
#ifndef SERVICE_BASE_FLOW_KEY_H
#define SERVICE_BASE_FLOW_KEY_H

#include <linux/types.h>

/* An IPv6 address, or an IPv4 address as ::ffff:a.b.c.d; network byte order. */
struct ip_addr {
	union {
		__u8 b[16];
		__u32 w[4];
	};
};

/* Ports in network byte order. `local` is this host's end. */
struct flow_key {
	struct ip_addr local, remote;
	__u16 local_port, remote_port;
};

#endif
