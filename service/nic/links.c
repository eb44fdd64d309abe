/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Attaching the BPF programs. Main thread, at start and stop; link_xdp_create() also in the
 * thread of a change (attach.c).
 *
 * Only raw links are used, whose life is that of a descriptor, so a killed service leaves
 * nothing attached. Kernels before 6.6 have no TCX: there a clsact filter with a handle and
 * a priority of ours stands in; it survives a kill, lets everything pass once the map of
 * flows is empty, and is replaced at the next start.
 *
 * What may well fail is not asked through libbpf, which warns of every netlink request that
 * the kernel refuses.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/if_link.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <unistd.h>

#include "service/base/netlink.h"
#include "service/nic/internal.h"

#define TC_HANDLE 0x7a70
#define TC_PRIORITY 1 /* before other filters: one that ends the chain would let frames past ours */
/* BPF_TCX_INGRESS, BPF_TCX_EGRESS: newer than libbpf 1.1's headers */
#define ATTACH_TCX_INGRESS ((enum bpf_attach_type)46)
#define ATTACH_TCX_EGRESS ((enum bpf_attach_type)47)

/* ---- XDP ---- */

static void link_xdp_why(struct why *why, const struct nic_info *info, int rc, bool native)
{
	if (rc == -EBUSY || rc == -EEXIST)
		why_set(why,
			"%s: another XDP program is attached: remove it (ip link set %s xdp off), or use another "
			"interface",
			info->name, info->name);
	else if (rc == -EPERM || rc == -EACCES)
		why_set(why, "%s: not permitted to attach XDP: needs root, or CAP_NET_ADMIN and CAP_BPF", info->name);
	else if (rc == -ERANGE)
		why_set(why,
			"%s: the driver refuses XDP with this MTU (%u here; on a veth the peer's counts): lower it",
			info->name, info->mtu);
	else if (native)
		why_set(why,
			"%s: the driver has no native XDP with its present settings (%s): try a smaller MTU "
			"and LRO off; generic XDP serves only in exclusive mode",
			info->name, strerror(-rc));
	else
		why_set(why, "%s: cannot attach XDP, neither native nor generic: %s", info->name, strerror(-rc));
}

int link_xdp_create(int ifindex, int prog_fd, bool allow_generic, bool *native, int *link_fd)
{
	LIBBPF_OPTS(bpf_link_create_opts, opts, .flags = XDP_FLAGS_DRV_MODE);
	int fd = bpf_link_create(prog_fd, ifindex, BPF_XDP, &opts);

	*native = true;
	if (fd < 0 && allow_generic && (fd == -EOPNOTSUPP || fd == -EINVAL || fd == -ERANGE)) {
		*native = false;
		opts.flags = XDP_FLAGS_SKB_MODE;
		fd = bpf_link_create(prog_fd, ifindex, BPF_XDP, &opts);
	}
	if (fd < 0)
		return fd;
	*link_fd = fd;
	return 0;
}

int link_xdp(const struct nic_info *info, int prog_fd, bool allow_generic, bool *native, int *link_fd, struct why *why)
{
	int rc = link_xdp_create(info->ifindex, prog_fd, allow_generic, native, link_fd);

	if (rc)
		link_xdp_why(why, info, rc, *native);
	return rc;
}

/* ---- tc ---- */

/* A message of a dump of filters: the program of the one that has our handle and priority, in *@ctx. */
static int clsact_found(const struct nlmsghdr *nlh, void *ctx)
{
	const struct tcmsg *tcm = mnl_nlmsg_get_payload(nlh);
	const struct nlattr *a, *options = NULL;
	bool bpf = false;

	if (tcm->tcm_handle != TC_HANDLE || TC_H_MAJ(tcm->tcm_info) >> 16 != TC_PRIORITY)
		return MNL_CB_OK;
	mnl_attr_for_each (a, nlh, sizeof *tcm) {
		if (mnl_attr_get_type(a) == TCA_KIND)
			bpf = !strcmp(mnl_attr_get_str(a), "bpf");
		else if (mnl_attr_get_type(a) == TCA_OPTIONS)
			options = a;
	}
	if (!bpf || !options)
		return MNL_CB_OK;
	mnl_attr_for_each_nested (a, options) {
		if (mnl_attr_get_type(a) == TCA_BPF_ID)
			*(uint32_t *)ctx = mnl_attr_get_u32(a);
	}
	return MNL_CB_OK;
}

/* The program of the filter, 0: there is none. */
static uint32_t clsact_find(int ifindex, bool egress)
{
	uint8_t buf[NETLINK_REQUEST] __attribute__((aligned(8)));
	struct nlmsghdr *nlh = netlink_request(buf, RTM_GETTFILTER, 0);
	struct tcmsg *tcm = mnl_nlmsg_put_extra_header(nlh, sizeof *tcm);
	uint32_t id = 0;

	tcm->tcm_family = AF_UNSPEC;
	tcm->tcm_ifindex = ifindex;
	tcm->tcm_parent = TC_H_MAKE(TC_H_CLSACT, egress ? TC_H_MIN_EGRESS : TC_H_MIN_INGRESS);
	return netlink_dump(nlh, clsact_found, &id) ? 0 : id;
}

/* Remove the filter that an instance that was killed has left; never one that somebody else made. */
static void clsact_remove(int ifindex, bool egress)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex, .attach_point = egress ? BPF_TC_EGRESS : BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, detach, .handle = TC_HANDLE, .priority = TC_PRIORITY);
	uint32_t id = clsact_find(ifindex, egress), len = sizeof(struct bpf_prog_info);
	struct bpf_prog_info info = {0};
	int fd;

	if (!id)
		return;
	fd = bpf_prog_get_fd_by_id(id);
	if (fd < 0)
		return;
	if (!bpf_obj_get_info_by_fd(fd, &info, &len) &&
	    (!strncmp(info.name, "tc_egress_", 10) || !strncmp(info.name, "tc_ingress_", 11)))
		bpf_tc_detach(&hook, &detach);
	close(fd);
}

/* The qdisc that holds the filters; somebody else may have made it already. */
static int clsact_qdisc(int ifindex)
{
	uint8_t buf[NETLINK_REQUEST] __attribute__((aligned(8)));
	struct nlmsghdr *nlh = netlink_request(buf, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL);
	struct tcmsg *tcm = mnl_nlmsg_put_extra_header(nlh, sizeof *tcm);
	int rc;

	tcm->tcm_family = AF_UNSPEC;
	tcm->tcm_ifindex = ifindex;
	tcm->tcm_parent = TC_H_CLSACT;
	tcm->tcm_handle = TC_H_MAKE(TC_H_CLSACT, 0);
	mnl_attr_put_strz(nlh, TCA_KIND, "clsact");
	rc = netlink_execute(NETLINK_ROUTE, nlh);
	return rc == -EEXIST ? 0 : rc;
}

static int clsact_add(int ifindex, int prog_fd, bool egress)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex, .attach_point = egress ? BPF_TC_EGRESS : BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = TC_HANDLE, .priority = TC_PRIORITY, .prog_fd = prog_fd);
	int rc = clsact_qdisc(ifindex);

	return rc ? rc : bpf_tc_attach(&hook, &opts);
}

int link_tc(int ifindex, const char *ifname, int prog_fd, bool egress, bool force_clsact, struct tc_attachment *out,
	    bool *tcx, struct why *why)
{
	int rc = -EINVAL;

	clsact_remove(ifindex, egress);
	out->egress = egress;
	if (!force_clsact)
		rc = bpf_link_create(prog_fd, ifindex, egress ? ATTACH_TCX_EGRESS : ATTACH_TCX_INGRESS, NULL);
	*tcx = rc >= 0;
	if (rc >= 0) {
		out->link_fd = rc;
		return 0;
	}
	if (rc == -EINVAL || rc == -EOPNOTSUPP) { /* no TCX in this kernel */
		rc = clsact_add(ifindex, prog_fd, egress);
		if (!rc) {
			out->ifindex = ifindex;
			return 0;
		}
	}
	if (rc == -EPERM || rc == -EACCES)
		why_set(why, "%s: not permitted to attach tc programs: needs root, or CAP_NET_ADMIN and CAP_BPF",
			ifname);
	else if (rc == -EEXIST || rc == -EBUSY)
		why_set(why, "%s: a tc filter of another's has priority %d (tc filter show dev %s %s): move it", ifname,
			TC_PRIORITY, ifname, egress ? "egress" : "ingress");
	else
		why_set(why, "%s: the kernel has neither TCX (6.6 on) nor clsact with BPF filters: %s", ifname,
			strerror(-rc));
	return rc;
}

void link_tc_remove(struct tc_attachment *a)
{
	if (a->link_fd >= 0)
		close(a->link_fd);
	if (a->ifindex)
		clsact_remove(a->ifindex, a->egress);
	a->link_fd = -1;
	a->ifindex = 0;
}
