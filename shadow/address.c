/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Addresses and the default route of an interface, for exclusive mode: they live on the TAP
 * while the service runs, and on the NIC itself when it has stopped. Main thread, at start and
 * stop.
 */
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>

#include "service/base/addr.h"
#include "service/base/netlink.h"
#include "shadow/shadow.h"

static int address_parse(const char *text, struct ip_addr *a, unsigned *prefix)
{
	const char *slash = strchr(text, '/');
	char addr[64], *end;
	unsigned long n;

	if (!slash || (size_t)(slash - text) >= sizeof addr)
		return -EINVAL;
	memcpy(addr, text, (size_t)(slash - text));
	addr[slash - text] = 0;
	n = strtoul(slash + 1, &end, 10);
	if (ip_addr_parse(addr, a) || end == slash + 1 || *end || n > (ip_addr_is_v4(a) ? 32 : 128))
		return -EINVAL;
	*prefix = (unsigned)n;
	return 0;
}

/* The bytes of an address as netlink carries them. */
static void address_put(struct nlmsghdr *nlh, uint16_t type, const struct ip_addr *a)
{
	if (ip_addr_is_v4(a))
		mnl_attr_put(nlh, type, 4, &a->w[3]);
	else
		mnl_attr_put(nlh, type, 16, a->b);
}

static int address_change(int ifindex, const char *text, uint16_t type, uint16_t flags)
{
	char buf[NETLINK_REQUEST] __attribute__((aligned(8)));
	struct nlmsghdr *nlh = netlink_request(buf, type, flags);
	struct ifaddrmsg *ifa = mnl_nlmsg_put_extra_header(nlh, sizeof *ifa);
	struct ip_addr a;
	unsigned prefix;

	if (address_parse(text, &a, &prefix))
		return -EINVAL;
	ifa->ifa_family = ip_addr_is_v4(&a) ? AF_INET : AF_INET6;
	ifa->ifa_prefixlen = (uint8_t)prefix;
	ifa->ifa_index = (uint32_t)ifindex;
	address_put(nlh, IFA_LOCAL, &a);
	address_put(nlh, IFA_ADDRESS, &a);
	return netlink_execute(NETLINK_ROUTE, nlh);
}

int address_add(int ifindex, const char *text)
{
	return address_change(ifindex, text, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE);
}

int address_remove(int ifindex, const char *text)
{
	int rc = address_change(ifindex, text, RTM_DELADDR, 0);

	return rc == -EADDRNOTAVAIL ? 0 : rc;
}

int address_default_route(int ifindex, const char *gateway)
{
	char buf[NETLINK_REQUEST] __attribute__((aligned(8)));
	struct nlmsghdr *nlh = netlink_request(buf, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE);
	struct rtmsg *rt = mnl_nlmsg_put_extra_header(nlh, sizeof *rt);
	struct ip_addr a;

	if (ip_addr_parse(gateway, &a))
		return -EINVAL;
	rt->rtm_family = ip_addr_is_v4(&a) ? AF_INET : AF_INET6;
	rt->rtm_table = RT_TABLE_MAIN;
	rt->rtm_protocol = RTPROT_STATIC;
	rt->rtm_scope = RT_SCOPE_UNIVERSE;
	rt->rtm_type = RTN_UNICAST;
	address_put(nlh, RTA_GATEWAY, &a);
	mnl_attr_put_u32(nlh, RTA_OIF, (uint32_t)ifindex);
	return netlink_execute(NETLINK_ROUTE, nlh);
}
