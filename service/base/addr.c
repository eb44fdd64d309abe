/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Addresses and 4-tuples as text and from the kernel's structures. Pure; any thread. */
#include "service/base/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>

bool ip_addr_is_special(const struct ip_addr *a)
{
	if (ip_addr_is_v4(a)) {
		uint32_t v = ntohl(a->w[3]);

		return v >> 24 == 127 || v >> 24 == 0 || v >= 0xe0000000u;
	}
	if (a->b[0] == 0xff)
		return true;
	if (a->w[0] || a->w[1] || a->w[2])
		return false;
	return ntohl(a->w[3]) <= 1; /* :: and ::1 */
}

int ip_addr_from_sockaddr(const struct sockaddr_storage *ss, struct ip_addr *a, uint16_t *port_be)
{
	if (ss->ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)ss;

		*a = ip_addr_v4(in->sin_addr.s_addr);
		*port_be = in->sin_port;
		return 0;
	}
	if (ss->ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)ss;

		memcpy(a->b, &in6->sin6_addr, sizeof a->b);
		*port_be = in6->sin6_port;
		return 0;
	}
	return -EAFNOSUPPORT;
}

const char *ip_addr_text(const struct ip_addr *a, char *buf, size_t size)
{
	const char *text = ip_addr_is_v4(a) ? inet_ntop(AF_INET, &a->w[3], buf, (socklen_t)size)
					    : inet_ntop(AF_INET6, a->b, buf, (socklen_t)size);

	if (!text && size)
		buf[0] = 0;
	return buf;
}

const char *flow_key_text(const struct flow_key *k, char *buf, size_t size)
{
	char local[INET6_ADDRSTRLEN], remote[INET6_ADDRSTRLEN];
	const char *fmt = ip_addr_is_v4(&k->local) ? "%s:%u > %s:%u" : "[%s]:%u > [%s]:%u";

	snprintf(buf, size, fmt, ip_addr_text(&k->local, local, sizeof local), ntohs(k->local_port),
		 ip_addr_text(&k->remote, remote, sizeof remote), ntohs(k->remote_port));
	return buf;
}

int ip_addr_parse(const char *text, struct ip_addr *out)
{
	uint32_t v4;

	if (inet_pton(AF_INET, text, &v4) == 1) {
		*out = ip_addr_v4(v4);
		return 0;
	}
	return inet_pton(AF_INET6, text, out->b) == 1 ? 0 : -EINVAL;
}
