/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Changes in Linux that may change its verdict on a flow, by netlink notifications: ruleset
 * commits, destroyed conntrack entries, neighbours, routes, addresses, links. Main thread.
 *
 * Three sockets, so that a flood of one kind (conntrack) loses none of another. A loss is
 * told as WATCH_OVERFLOW, and then the local addresses are read anew. The subscription comes
 * before the first reading, so nothing falls between them.
 */
#include "shadow/shadow.h"

#include <errno.h>
#include <linux/neighbour.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "service/base/addr.h"
#include "service/base/compiler.h"
#include "shadow/addresses.h"
#include "service/base/netlink.h"

#define WATCH_RCVBUF (8 << 20)
#define WATCH_BUF 65536
#define WATCH_READS 1024 /* messages per turn and socket: the rest waits for the next turn */
#define WATCH_DUMPS 8    /* attempts at an undisturbed reading */
#define WATCH_ATTRS 16   /* attribute types of interest are below */
#define NUD_USABLE (NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE)

struct watch_source {
	struct watch *w;
	struct mnl_socket *nl;
	mnl_cb_t message;
	int handle;
};

enum { SOURCE_ROUTE, SOURCE_RULES, SOURCE_CONNTRACK, SOURCES };

struct watch {
	struct loop *loop;
	watch_fn *cb;
	void *ctx;
	struct watch_source source[SOURCES];
	struct addresses local;
	bool blind; /* not permitted to see changes of rules */
};

static void watch_tell(struct watch *w, const struct watch_event *e)
{
	if (w->cb)
		w->cb(w->ctx, e);
}

/* ---- attributes ---- */

struct watch_attrs {
	const struct nlattr *a[WATCH_ATTRS];
};

static int watch_attr(const struct nlattr *attr, void *data)
{
	struct watch_attrs *t = data;
	uint16_t type = mnl_attr_get_type(attr);

	if (type < WATCH_ATTRS)
		t->a[type] = attr;
	return MNL_CB_OK;
}

static void watch_attrs_nested(const struct nlattr *nest, struct watch_attrs *t)
{
	*t = (struct watch_attrs){0};
	if (nest)
		mnl_attr_parse_nested(nest, watch_attr, t);
}

/* An IPv4 or IPv6 address by its length. */
static bool watch_address(const struct nlattr *attr, struct ip_addr *out)
{
	uint32_t be;

	if (!attr)
		return false;
	switch (mnl_attr_get_payload_len(attr)) {
	case 4:
		memcpy(&be, mnl_attr_get_payload(attr), 4);
		*out = ip_addr_v4(be);
		return true;
	case 16:
		memcpy(out->b, mnl_attr_get_payload(attr), 16);
		return true;
	}
	return false;
}

/* ---- rtnetlink ---- */

static int watch_local_address(const struct nlmsghdr *nlh, void *data)
{
	const struct ifaddrmsg *ifa = mnl_nlmsg_get_payload(nlh);
	struct watch_event e = {.what = WATCH_ADDRESS};
	struct watch_attrs t = {0};
	struct watch *w = data;
	bool changed;

	if (mnl_nlmsg_get_payload_len(nlh) < sizeof *ifa)
		return MNL_CB_OK;
	mnl_attr_parse(nlh, sizeof *ifa, watch_attr, &t);
	/* IFA_LOCAL is ours where IFA_ADDRESS is the other end of a point-to-point link */
	if (!watch_address(t.a[IFA_LOCAL] ? t.a[IFA_LOCAL] : t.a[IFA_ADDRESS], &e.addr))
		return MNL_CB_OK;
	e.ifindex = (int)ifa->ifa_index;
	if (nlh->nlmsg_type == RTM_DELADDR)
		changed = addresses_remove(&w->local, &e.addr, e.ifindex);
	else
		changed = addresses_add(&w->local, &e.addr, e.ifindex) != 0;
	if (changed)
		watch_tell(w, &e);
	return MNL_CB_OK;
}

static int watch_neighbour(const struct nlmsghdr *nlh, struct watch *w)
{
	const struct ndmsg *nd = mnl_nlmsg_get_payload(nlh);
	struct watch_event e = {.what = WATCH_NEIGHBOUR};
	struct watch_attrs t = {0};
	bool usable;

	if (mnl_nlmsg_get_payload_len(nlh) < sizeof *nd || (nd->ndm_family != AF_INET && nd->ndm_family != AF_INET6))
		return MNL_CB_OK;
	mnl_attr_parse(nlh, sizeof *nd, watch_attr, &t);
	if (!watch_address(t.a[NDA_DST], &e.addr))
		return MNL_CB_OK;
	usable = nlh->nlmsg_type == RTM_NEWNEIGH && (nd->ndm_state & NUD_USABLE);
	/* being looked up: what it was holds until the answer or the failure */
	if (!usable && nlh->nlmsg_type == RTM_NEWNEIGH && !(nd->ndm_state & NUD_FAILED))
		return MNL_CB_OK;
	e.ifindex = nd->ndm_ifindex;
	if (usable && t.a[NDA_LLADDR] && mnl_attr_get_payload_len(t.a[NDA_LLADDR]) == sizeof e.mac)
		memcpy(e.mac, mnl_attr_get_payload(t.a[NDA_LLADDR]), sizeof e.mac);
	watch_tell(w, &e);
	return MNL_CB_OK;
}

static int watch_route(const struct nlmsghdr *nlh, struct watch *w)
{
	const struct rtmsg *rt = mnl_nlmsg_get_payload(nlh);
	struct watch_event e = {.what = WATCH_ROUTE};

	/* entries of the IPv6 route cache are no change */
	if (mnl_nlmsg_get_payload_len(nlh) < sizeof *rt || (rt->rtm_flags & RTM_F_CLONED))
		return MNL_CB_OK;
	watch_tell(w, &e);
	return MNL_CB_OK;
}

static int watch_link(const struct nlmsghdr *nlh, struct watch *w)
{
	const struct ifinfomsg *ifi = mnl_nlmsg_get_payload(nlh);
	struct watch_event e = {.what = WATCH_LINK};

	if (mnl_nlmsg_get_payload_len(nlh) < sizeof *ifi || ifi->ifi_family != AF_UNSPEC)
		return MNL_CB_OK;
	e.ifindex = ifi->ifi_index;
	watch_tell(w, &e);
	return MNL_CB_OK;
}

static int watch_route_message(const struct nlmsghdr *nlh, void *data)
{
	struct watch_source *s = data;
	struct watch_event e = {.what = WATCH_ROUTE};

	switch (nlh->nlmsg_type) {
	case RTM_NEWADDR:
	case RTM_DELADDR:
		return watch_local_address(nlh, s->w);
	case RTM_NEWNEIGH:
	case RTM_DELNEIGH:
		return watch_neighbour(nlh, s->w);
	case RTM_NEWROUTE:
	case RTM_DELROUTE:
		return watch_route(nlh, s->w);
	case RTM_NEWLINK:
	case RTM_DELLINK:
		return watch_link(nlh, s->w);
	case RTM_NEWRULE:
	case RTM_DELRULE:
	case RTM_NEWNEXTHOP:
	case RTM_DELNEXTHOP:
		watch_tell(s->w, &e);
		break;
	}
	return MNL_CB_OK;
}

/* ---- nfnetlink ---- */

static int watch_rules_message(const struct nlmsghdr *nlh, void *data)
{
	struct watch_source *s = data;
	struct watch_event e = {.what = WATCH_RULES};

	/* the last message of each commit */
	if (nlh->nlmsg_type == (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN))
		watch_tell(s->w, &e);
	return MNL_CB_OK;
}

/* The end of a connection that the originator's tuple calls source. */
struct watch_tuple {
	struct ip_addr src, dst;
	uint16_t sport, dport;
};

static bool watch_tuple_parse(const struct nlattr *nest, struct watch_tuple *out)
{
	struct watch_attrs tuple, ip, proto;

	watch_attrs_nested(nest, &tuple);
	watch_attrs_nested(tuple.a[CTA_TUPLE_IP], &ip);
	watch_attrs_nested(tuple.a[CTA_TUPLE_PROTO], &proto);
	if (!proto.a[CTA_PROTO_NUM] || mnl_attr_get_u8(proto.a[CTA_PROTO_NUM]) != IPPROTO_TCP)
		return false;
	if (!proto.a[CTA_PROTO_SRC_PORT] || !proto.a[CTA_PROTO_DST_PORT])
		return false;
	out->sport = mnl_attr_get_u16(proto.a[CTA_PROTO_SRC_PORT]);
	out->dport = mnl_attr_get_u16(proto.a[CTA_PROTO_DST_PORT]);
	if (ip.a[CTA_IP_V6_SRC])
		return watch_address(ip.a[CTA_IP_V6_SRC], &out->src) && watch_address(ip.a[CTA_IP_V6_DST], &out->dst);
	return watch_address(ip.a[CTA_IP_V4_SRC], &out->src) && watch_address(ip.a[CTA_IP_V4_DST], &out->dst);
}

/*
 * The original tuple is as its sender saw it, the reply tuple as the answerer did; they
 * differ only under NAT. Our socket's end is the source of whichever tuple we send.
 */
static int watch_conntrack_message(const struct nlmsghdr *nlh, void *data)
{
	struct watch_event e = {.what = WATCH_CONNTRACK};
	struct watch_source *s = data;
	struct watch_attrs t = {0};
	struct watch_tuple orig, reply, *ours;

	if (nlh->nlmsg_type != (NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE))
		return MNL_CB_OK;
	mnl_attr_parse(nlh, sizeof(struct nfgenmsg), watch_attr, &t);
	if (!watch_tuple_parse(t.a[CTA_TUPLE_ORIG], &orig) || !watch_tuple_parse(t.a[CTA_TUPLE_REPLY], &reply))
		return MNL_CB_OK;
	if (addresses_have(&s->w->local, &orig.src))
		ours = &orig;
	else if (addresses_have(&s->w->local, &reply.src))
		ours = &reply;
	else
		return MNL_CB_OK; /* forwarded */
	e.key = (struct flow_key){ours->src, ours->dst, ours->sport, ours->dport};
	watch_tell(s->w, &e);
	return MNL_CB_OK;
}

/* ---- sockets ---- */

static int watch_read_addresses(struct watch *w)
{
	char buf[NETLINK_REQUEST] __attribute__((aligned(8)));
	struct nlmsghdr *nlh;
	int rc = -EINTR;

	for (unsigned i = 0; rc == -EINTR && i < WATCH_DUMPS; i++) {
		w->local.n = 0;
		nlh = netlink_request(buf, RTM_GETADDR, 0);
		mnl_nlmsg_put_extra_header(nlh, sizeof(struct ifaddrmsg)); /* AF_UNSPEC: both families */
		rc = netlink_dump(nlh, watch_local_address, w);
	}
	return rc == -EINTR ? 0 : rc; /* what was disturbed comes as a notification */
}

static void watch_lost(struct watch *w)
{
	struct watch_event e = {.what = WATCH_OVERFLOW};
	watch_fn *cb = w->cb;

	w->cb = NULL; /* the reading itself is no news */
	watch_read_addresses(w);
	w->cb = cb;
	watch_tell(w, &e);
}

static void watch_readable(void *ctx, int revents);

/* Stop for this turn; a new poll reports at once what is left. */
static void watch_again(struct watch_source *s)
{
	loop_unwatch(s->w->loop, s->handle);
	s->handle = loop_watch(s->w->loop, mnl_socket_get_fd(s->nl), watch_readable, s);
}

static void watch_readable(void *ctx, int revents)
{
	static char buf[WATCH_BUF] __attribute__((aligned(8)));
	struct watch_source *s = ctx;
	bool lost = false;
	unsigned i;

	(void)revents;
	for (i = 0; i < WATCH_READS; i++) {
		ssize_t n = recv(mnl_socket_get_fd(s->nl), buf, sizeof buf, MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == ENOBUFS) {
			lost = true;
			continue;
		}
		if (n <= 0)
			break;
		mnl_cb_run(buf, (size_t)n, 0, 0, s->message, s);
	}
	if (lost)
		watch_lost(s->w);
	if (i == WATCH_READS)
		watch_again(s);
}

static int watch_subscribe(struct watch_source *s, const int *group, unsigned groups)
{
	int fd = mnl_socket_get_fd(s->nl), size = WATCH_RCVBUF;

	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
	if (mnl_socket_bind(s->nl, 0, MNL_SOCKET_AUTOPID) < 0)
		return -errno;
	for (unsigned i = 0; i < groups; i++) {
		int g = group[i];

		if (mnl_socket_setsockopt(s->nl, NETLINK_ADD_MEMBERSHIP, &g, sizeof g) < 0)
			return -errno;
	}
	s->handle = loop_watch(s->w->loop, fd, watch_readable, s);
	return s->handle < 0 ? s->handle : 0;
}

static int watch_source_open(struct watch *w, unsigned source, int bus, mnl_cb_t message, const int *group,
			     unsigned groups)
{
	struct watch_source *s = &w->source[source];

	s->w = w;
	s->message = message;
	s->nl = mnl_socket_open2(bus, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (!s->nl)
		return -errno;
	return watch_subscribe(s, group, groups);
}

static void watch_source_close(struct watch_source *s)
{
	if (s->handle >= 0)
		loop_unwatch(s->w->loop, s->handle);
	if (s->nl)
		mnl_socket_close(s->nl);
	s->handle = -1;
	s->nl = NULL;
}

static int watch_open_rules(struct watch *w)
{
	static const int rules[] = {NFNLGRP_NFTABLES};

	return watch_source_open(w, SOURCE_RULES, NETLINK_NETFILTER, watch_rules_message, rules, ARRAY_SIZE(rules));
}

/* A kernel without netfilter has no rules that could change: that is not an error. */
static int watch_open_netfilter(struct watch *w)
{
	static const int conntrack[] = {NFNLGRP_CONNTRACK_DESTROY};
	int rc = watch_open_rules(w);

	if (rc == -EPROTONOSUPPORT)
		return 0;
	if (rc)
		return rc;
	return watch_source_open(w, SOURCE_CONNTRACK, NETLINK_NETFILTER, watch_conntrack_message, conntrack,
				 ARRAY_SIZE(conntrack));
}

static int watch_open_all(struct watch *w)
{
	static const int route[] = {RTNLGRP_LINK,        RTNLGRP_NEIGH,      RTNLGRP_IPV4_IFADDR,
				    RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE,
				    RTNLGRP_IPV4_RULE,   RTNLGRP_IPV6_RULE,  RTNLGRP_NEXTHOP};
	int rc = watch_source_open(w, SOURCE_ROUTE, NETLINK_ROUTE, watch_route_message, route, ARRAY_SIZE(route));

	return rc ? rc : watch_open_netfilter(w);
}

static int watch_open_few(struct watch *w)
{
	static const int route[] = {RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR};
	int rc = watch_source_open(w, SOURCE_ROUTE, NETLINK_ROUTE, watch_route_message, route, ARRAY_SIZE(route));

	if (rc)
		return rc;
	rc = watch_open_rules(w);
	if (rc)
		watch_source_close(&w->source[SOURCE_RULES]);
	w->blind = rc == -EPERM;
	return w->blind || rc == -EPROTONOSUPPORT ? 0 : rc;
}

static int watch_open_with(int (*sources)(struct watch *w), struct loop *loop, watch_fn *cb, void *ctx,
			   struct watch **out)
{
	struct watch *w = calloc(1, sizeof *w);
	int rc;

	if (!w)
		return -ENOMEM;
	w->loop = loop;
	for (unsigned i = 0; i < SOURCES; i++)
		w->source[i].handle = -1;
	rc = sources(w);
	if (!rc)
		rc = watch_read_addresses(w);
	if (rc) {
		watch_close(w);
		return rc;
	}
	w->cb = cb;
	w->ctx = ctx;
	*out = w;
	return 0;
}

int watch_open(struct loop *loop, watch_fn *cb, void *ctx, struct watch **out)
{
	return watch_open_with(watch_open_all, loop, cb, ctx, out);
}

int watch_open_local(struct loop *loop, watch_fn *cb, void *ctx, struct watch **out)
{
	return watch_open_with(watch_open_few, loop, cb, ctx, out);
}

bool watch_sees_rules(const struct watch *w)
{
	return !w->blind;
}

void watch_close(struct watch *w)
{
	if (!w)
		return;
	for (unsigned i = 0; i < SOURCES; i++)
		watch_source_close(&w->source[i]);
	addresses_free(&w->local);
	free(w);
}

bool watch_is_local(const struct watch *w, const struct ip_addr *a)
{
	return addresses_have(&w->local, a);
}
