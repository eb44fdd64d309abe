/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Addresses and 4-tuples: conversions, comparison, text. Pure functions, any thread. */
#ifndef SERVICE_BASE_ADDR_H
#define SERVICE_BASE_ADDR_H

#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#include "service/base/flow_key.h"

#define FLOW_KEY_TEXT_MAX 128 /* "[v6]:port > [v6]:port" and the final 0 */

static inline bool ip_addr_is_v4(const struct ip_addr *a)
{
	return a->w[0] == 0 && a->w[1] == 0 && a->w[2] == htonl(0xffff);
}

/* @be: IPv4 address in network byte order. */
static inline struct ip_addr ip_addr_v4(uint32_t be)
{
	struct ip_addr a = {.w = {0, 0, htonl(0xffff), be}};
	return a;
}

static inline bool ip_addr_equal(const struct ip_addr *a, const struct ip_addr *b)
{
	return memcmp(a, b, sizeof *a) == 0;
}

static inline bool flow_key_equal(const struct flow_key *a, const struct flow_key *b)
{
	return memcmp(a, b, sizeof *a) == 0;
}

/* Loopback, unspecified, multicast or broadcast: never a peer of an accelerated flow. */
bool ip_addr_is_special(const struct ip_addr *a);

/* Fill @a and @port_be from an AF_INET or AF_INET6 socket address; -EAFNOSUPPORT otherwise. */
int ip_addr_from_sockaddr(const struct sockaddr_storage *ss, struct ip_addr *a, uint16_t *port_be);

/* Text of an address ("10.0.0.1", "fe80::1") or of "addr:port > addr:port" (local first). Returns @buf. */
const char *ip_addr_text(const struct ip_addr *a, char *buf, size_t size);
const char *flow_key_text(const struct flow_key *k, char *buf, size_t size);

/* Parse "10.0.0.1" or "::1". Returns 0 or -EINVAL. */
int ip_addr_parse(const char *text, struct ip_addr *out);

#endif
