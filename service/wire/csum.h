/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The Internet checksum (RFC 1071). Partial sums are 64-bit one's complement sums of the
 * data as native-endian 16-bit words in memory order, so csum_fold() of a sum can be
 * stored into a header as it is. Pieces may be added if all but the last are even in length.
 */
#ifndef SERVICE_WIRE_CSUM_H
#define SERVICE_WIRE_CSUM_H

#include <stddef.h>
#include <stdint.h>

#include "service/base/flow_key.h"

uint64_t csum_add(uint64_t sum, const void *data, size_t len);
/* Copy @len bytes and return @sum plus their sum, in one pass over the source: what is summed is what was written. */
uint64_t csum_copy(uint64_t sum, void *dst, const void *src, size_t len);

/* Fold to 16 bits, not complemented. 0xffff over a valid region that includes its checksum. */
static inline uint16_t csum_fold(uint64_t s)
{
	s = (s & 0xffffffff) + (s >> 32);
	s = (s & 0xffffffff) + (s >> 32);
	s = (s & 0xffff) + (s >> 16);
	s = (s & 0xffff) + (s >> 16);
	return (uint16_t)s;
}

/* Sum of the pseudo-header; IPv4 if both addresses are mapped (RFC 9293 3.1). @tcp_len in bytes. */
uint64_t csum_pseudo(const struct ip_addr *src, const struct ip_addr *dst, uint32_t tcp_len);

#endif
