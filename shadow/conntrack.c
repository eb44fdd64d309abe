/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One question to conntrack: take what comes for this connection. It followed the shadow, whose
 * numbers stood still, and would call the numbers of a returned connection invalid. Main
 * thread, at each return.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <netinet/in.h>

#include "service/base/addr.h"
#include "service/base/netlink.h"
#include "shadow/shadow.h"

static void conntrack_put_tuple(struct nlmsghdr *nlh, const struct flow_key *key, bool v4)
{
	struct nlattr *tuple = mnl_attr_nest_start(nlh, CTA_TUPLE_ORIG), *nest;
	const uint8_t *local = (const uint8_t *)&key->local, *remote = (const uint8_t *)&key->remote;

	nest = mnl_attr_nest_start(nlh, CTA_TUPLE_IP);
	if (v4) {
		mnl_attr_put(nlh, CTA_IP_V4_SRC, 4, local + 12);
		mnl_attr_put(nlh, CTA_IP_V4_DST, 4, remote + 12);
	} else {
		mnl_attr_put(nlh, CTA_IP_V6_SRC, 16, local);
		mnl_attr_put(nlh, CTA_IP_V6_DST, 16, remote);
	}
	mnl_attr_nest_end(nlh, nest);
	nest = mnl_attr_nest_start(nlh, CTA_TUPLE_PROTO);
	mnl_attr_put_u8(nlh, CTA_PROTO_NUM, IPPROTO_TCP);
	mnl_attr_put_u16(nlh, CTA_PROTO_SRC_PORT, key->local_port);
	mnl_attr_put_u16(nlh, CTA_PROTO_DST_PORT, key->remote_port);
	mnl_attr_nest_end(nlh, nest);
	mnl_attr_nest_end(nlh, tuple);
}

int conntrack_liberal(const struct flow_key *key)
{
	char buf[NETLINK_REQUEST] __attribute__((aligned(8)));
	struct nf_ct_tcp_flags flags = {IP_CT_TCP_FLAG_BE_LIBERAL, IP_CT_TCP_FLAG_BE_LIBERAL};
	bool v4 = ip_addr_is_v4(&key->local);
	struct nlmsghdr *nlh = netlink_request(buf, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW, 0);
	struct nfgenmsg *g = mnl_nlmsg_put_extra_header(nlh, sizeof *g);
	struct nlattr *info, *tcp;
	int rc;

	g->nfgen_family = v4 ? AF_INET : AF_INET6;
	g->version = NFNETLINK_V0;
	/* either direction's tuple finds the entry, which is never made here (no NLM_F_CREATE) */
	conntrack_put_tuple(nlh, key, v4);
	info = mnl_attr_nest_start(nlh, CTA_PROTOINFO);
	tcp = mnl_attr_nest_start(nlh, CTA_PROTOINFO_TCP);
	mnl_attr_put(nlh, CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, sizeof flags, &flags);
	mnl_attr_put(nlh, CTA_PROTOINFO_TCP_FLAGS_REPLY, sizeof flags, &flags);
	mnl_attr_nest_end(nlh, tcp);
	mnl_attr_nest_end(nlh, info);
	rc = netlink_execute(NETLINK_NETFILTER, nlh);
	/* no entry, or no conntrack in this kernel: then no rule asks it */
	return rc == -ENOENT || rc == -EINVAL || rc == -EOPNOTSUPP ? 0 : rc;
}
