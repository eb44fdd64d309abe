/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Changes in Linux, as they are notified: ruleset commits, conntrack entries that go, routes,
 * addresses, links, neighbours. Also keeps the set of this host's own addresses. Main thread.
 */
#include <errno.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>

#include "service/base/addr.h"
#include "service/base/compiler.h"
#include "shadow/netlink.h"
#include "shadow/shadow.h"

#define WATCH_ADDRESSES 512
#define WATCH_RCVBUF (4 << 20)

struct watch_address {
	struct ip_addr addr;
	int ifindex;
};

struct watch {
	struct loop *loop;
	watch_fn *cb;
	void *ctx;
	struct mnl_socket *rules, *routes;
	int rules_watch, routes_watch;
	struct watch_address address[WATCH_ADDRESSES];
	uint32_t addresses;
	bool quiet; /* the first dump: no events */
};

static void watch_emit(struct watch *w, const struct watch_event *e)
{
	if (!w->quiet)
		w->cb(w->ctx, e);
}

/* ---- rtnetlink ---- */

static struct ip_addr attr_address(const struct nlattr *a)
{
	struct ip_addr out = {.w = {0}};
	uint32_t v4;

	if (mnl_attr_get_payload_len(a) == 4) {
		memcpy(&v4, mnl_attr_get_payload(a), 4);
		return ip_addr_v4(v4);
	}
	if (mnl_attr_get_payload_len(a) == 16)
		memcpy(out.b, mnl_attr_get_payload(a), 16);
	return out;
}

static void address_set(struct watch *w, const struct ip_addr *a, int ifindex, bool there)
{
	uint32_t i = 0;

	while (i < w->addresses && !(w->address[i].ifindex == ifindex && ip_addr_equal(&w->address[i].addr, a)))
		i++;
	if (there && i == w->addresses && i < WATCH_ADDRESSES)
		w->address[w->addresses++] = (struct watch_address){*a, ifindex};
	else if (!there && i < w->addresses)
		w->address[i] = w->address[--w->addresses];
}

static void watch_address_message(struct watch *w, const struct nlmsghdr *nlh)
{
	const struct ifaddrmsg *ifa = mnl_nlmsg_get_payload(nlh);
	struct watch_event e = {.what = WATCH_ADDRESS, .ifindex = (int)ifa->ifa_index};
	const struct nlattr *attr;
	bool local = false;

	mnl_attr_for_each(attr, nlh, sizeof *ifa)
	{
		int type = mnl_attr_get_type(attr);

		if (type == IFA_LOCAL || (type == IFA_ADDRESS && !local)) {
			e.addr = attr_address(attr);
			local = type == IFA_LOCAL; /* on a point-to-point link IFA_ADDRESS is the peer's */
		}
	}
	address_set(w, &e.addr, e.ifindex, nlh->nlmsg_type == RTM_NEWADDR);
	watch_emit(w, &e);
}

static void watch_neighbour_message(struct watch *w, const struct nlmsghdr *nlh)
{
	const struct ndmsg *ndm = mnl_nlmsg_get_payload(nlh);
	struct watch_event e = {.what = WATCH_NEIGHBOUR, .ifindex = ndm->ndm_ifindex};
	const struct nlattr *attr;
	bool usable = nlh->nlmsg_type == RTM_NEWNEIGH && !(ndm->ndm_state & (NUD_FAILED | NUD_INCOMPLETE));

	if (ndm->ndm_family != AF_INET && ndm->ndm_family != AF_INET6)
		return;
	mnl_attr_for_each(attr, nlh, sizeof *ndm)
	{
		if (mnl_attr_get_type(attr) == NDA_DST)
			e.addr = attr_address(attr);
		else if (mnl_attr_get_type(attr) == NDA_LLADDR && usable && mnl_attr_get_payload_len(attr) == 6)
			memcpy(e.mac, mnl_attr_get_payload(attr), 6);
	}
	watch_emit(w, &e);
}

static int watch_route_cb(const struct nlmsghdr *nlh, void *ctx)
{
	struct watch *w = ctx;
	struct watch_event e = {0};
	uint32_t len = mnl_nlmsg_get_payload_len(nlh);

	switch (nlh->nlmsg_type) {
	case RTM_NEWADDR:
	case RTM_DELADDR:
		if (len >= sizeof(struct ifaddrmsg))
			watch_address_message(w, nlh);
		break;
	case RTM_NEWNEIGH:
	case RTM_DELNEIGH:
		if (len >= sizeof(struct ndmsg))
			watch_neighbour_message(w, nlh);
		break;
	case RTM_NEWROUTE:
	case RTM_DELROUTE:
	case RTM_NEWRULE:
	case RTM_DELRULE:
		e.what = WATCH_ROUTE;
		watch_emit(w, &e);
		break;
	case RTM_NEWLINK:
	case RTM_DELLINK:
		if (len < sizeof(struct ifinfomsg))
			break;
		e.what = WATCH_LINK;
		e.ifindex = ((const struct ifinfomsg *)mnl_nlmsg_get_payload(nlh))->ifi_index;
		watch_emit(w, &e);
		break;
	default:
		break;
	}
	return MNL_CB_OK;
}

/* ---- nfnetlink ---- */

static bool tuple_address(const struct nlattr *ip, struct ip_addr *src, struct ip_addr *dst)
{
	const struct nlattr *a;
	int found = 0;

	mnl_attr_for_each_nested(a, ip)
	{
		switch (mnl_attr_get_type(a)) {
		case CTA_IP_V4_SRC:
		case CTA_IP_V6_SRC:
			*src = attr_address(a);
			found |= 1;
			break;
		case CTA_IP_V4_DST:
		case CTA_IP_V6_DST:
			*dst = attr_address(a);
			found |= 2;
			break;
		default:
			break;
		}
	}
	return found == 3;
}

static bool tuple_ports(const struct nlattr *proto, uint16_t *sport, uint16_t *dport)
{
	const struct nlattr *a;
	bool tcp = false;

	mnl_attr_for_each_nested(a, proto)
	{
		switch (mnl_attr_get_type(a)) {
		case CTA_PROTO_NUM:
			tcp = mnl_attr_get_u8(a) == IPPROTO_TCP;
			break;
		case CTA_PROTO_SRC_PORT:
			*sport = mnl_attr_get_u16(a);
			break;
		case CTA_PROTO_DST_PORT:
			*dport = mnl_attr_get_u16(a);
			break;
		default:
			break;
		}
	}
	return tcp;
}

/* Either end may have opened it: the event is sent with both readings of who is local. */
static void watch_conntrack_message(struct watch *w, const struct nlmsghdr *nlh)
{
	struct watch_event e = {.what = WATCH_CONNTRACK};
	struct ip_addr src, dst;
	uint16_t sport = 0, dport = 0;
	const struct nlattr *attr, *part;
	bool have_ip = false, have_ports = false;

	mnl_attr_for_each(attr, nlh, sizeof(struct nfgenmsg))
	{
		if (mnl_attr_get_type(attr) != CTA_TUPLE_ORIG)
			continue;
		mnl_attr_for_each_nested(part, attr)
		{
			if (mnl_attr_get_type(part) == CTA_TUPLE_IP)
				have_ip = tuple_address(part, &src, &dst);
			else if (mnl_attr_get_type(part) == CTA_TUPLE_PROTO)
				have_ports = tuple_ports(part, &sport, &dport);
		}
	}
	if (!have_ip || !have_ports)
		return;
	e.key = (struct flow_key){.local = dst, .remote = src, .local_port = dport, .remote_port = sport};
	watch_emit(w, &e);
	e.key = (struct flow_key){.local = src, .remote = dst, .local_port = sport, .remote_port = dport};
	watch_emit(w, &e);
}

static int watch_rules_cb(const struct nlmsghdr *nlh, void *ctx)
{
	struct watch_event e = {.what = WATCH_RULES};

	if (nlh->nlmsg_type == (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN))
		watch_emit(ctx, &e);
	else if (nlh->nlmsg_type == (NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE))
		watch_conntrack_message(ctx, nlh);
	return MNL_CB_OK;
}

/* ---- sockets ---- */

static void watch_drain(struct watch *w, struct mnl_socket *nl, mnl_cb_t cb)
{
	uint8_t buf[16384];

	for (;;) {
		ssize_t n = recv(mnl_socket_get_fd(nl), buf, sizeof buf, MSG_DONTWAIT);

		if (n > 0) {
			mnl_cb_run(buf, (size_t)n, 0, 0, cb, w);
		} else if (n < 0 && errno == ENOBUFS) {
			struct watch_event e = {.what = WATCH_OVERFLOW};

			watch_emit(w, &e);
		} else if (n == 0 || errno != EINTR) {
			return;
		}
	}
}

static void watch_rules_readable(void *ctx, int revents)
{
	struct watch *w = ctx;

	(void)revents;
	watch_drain(w, w->rules, watch_rules_cb);
}

static void watch_routes_readable(void *ctx, int revents)
{
	struct watch *w = ctx;

	(void)revents;
	watch_drain(w, w->routes, watch_route_cb);
}

static int watch_socket(int bus, const int *groups, unsigned n, struct mnl_socket **out)
{
	int size = WATCH_RCVBUF;

	*out = mnl_socket_open2(bus, SOCK_CLOEXEC);
	if (!*out || mnl_socket_bind(*out, 0, MNL_SOCKET_AUTOPID) < 0)
		return -errno;
	setsockopt(mnl_socket_get_fd(*out), SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
	for (unsigned i = 0; i < n; i++) {
		int group = groups[i];

		if (mnl_socket_setsockopt(*out, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) < 0)
			return -errno;
	}
	return 0;
}

static int watch_dump_addresses(struct watch *w)
{
	uint8_t buf[256];
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	int rc;

	nlh->nlmsg_type = RTM_GETADDR;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	mnl_nlmsg_put_extra_header(nlh, sizeof(struct ifaddrmsg));
	w->quiet = true;
	rc = netlink_request(NETLINK_ROUTE, nlh, watch_route_cb, w);
	w->quiet = false;
	return rc;
}

int watch_open(struct loop *loop, watch_fn *cb, void *ctx, struct watch **out)
{
	static const int rules[] = {NFNLGRP_NFTABLES, NFNLGRP_CONNTRACK_DESTROY};
	static const int routes[] = {RTNLGRP_LINK,	  RTNLGRP_NEIGH,	RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR,
				     RTNLGRP_IPV4_ROUTE,  RTNLGRP_IPV6_ROUTE,	RTNLGRP_IPV4_RULE,   RTNLGRP_IPV6_RULE};
	struct watch *w = calloc(1, sizeof *w);
	int rc;

	if (!w)
		return -ENOMEM;
	w->loop = loop;
	w->cb = cb;
	w->ctx = ctx;
	w->rules_watch = w->routes_watch = -1;
	rc = watch_socket(NETLINK_NETFILTER, rules, ARRAY_SIZE(rules), &w->rules);
	if (!rc)
		rc = watch_socket(NETLINK_ROUTE, routes, ARRAY_SIZE(routes), &w->routes);
	if (!rc)
		rc = watch_dump_addresses(w); /* after joining: nothing falls between */
	if (!rc) {
		w->rules_watch = loop_watch(loop, mnl_socket_get_fd(w->rules), watch_rules_readable, w);
		w->routes_watch = loop_watch(loop, mnl_socket_get_fd(w->routes), watch_routes_readable, w);
		rc = w->rules_watch < 0 ? w->rules_watch : w->routes_watch < 0 ? w->routes_watch : 0;
	}
	if (rc) {
		watch_close(w);
		return rc;
	}
	*out = w;
	return 0;
}

void watch_close(struct watch *w)
{
	if (w->rules_watch >= 0)
		loop_unwatch(w->loop, w->rules_watch);
	if (w->routes_watch >= 0)
		loop_unwatch(w->loop, w->routes_watch);
	if (w->rules)
		mnl_socket_close(w->rules);
	if (w->routes)
		mnl_socket_close(w->routes);
	free(w);
}

bool watch_is_local(const struct watch *w, const struct ip_addr *a)
{
	for (uint32_t i = 0; i < w->addresses; i++)
		if (ip_addr_equal(&w->address[i].addr, a))
			return true;
	return false;
}
