/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * netlink requests and dumps by libmnl, each on a socket of its own, so that no
 * notification gets between question and answer. The kernel answers within the system
 * calls. Main thread: at start and stop, for the addresses after lost notifications, and at a
 * return.
 */
#include "service/base/netlink.h"

#include <errno.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>

#define NETLINK_BUF 32768 /* what the kernel puts into one message of a dump at most */
#define NETLINK_SEQ 1

struct nlmsghdr *netlink_request(void *buf, uint16_t type, uint16_t flags)
{
	struct nlmsghdr *nlh;

	memset(buf, 0, NETLINK_REQUEST);
	nlh = mnl_nlmsg_put_header(buf);
	nlh->nlmsg_type = type;
	nlh->nlmsg_flags = NLM_F_REQUEST | flags;
	nlh->nlmsg_seq = NETLINK_SEQ;
	return nlh;
}

static int netlink_exchange(int bus, struct nlmsghdr *nlh, mnl_cb_t cb, void *ctx)
{
	static char buf[NETLINK_BUF] __attribute__((aligned(8)));
	struct mnl_socket *nl = mnl_socket_open2(bus, SOCK_CLOEXEC);
	int rc = MNL_CB_OK, err = 0;

	if (!nl)
		return -errno;
	if (mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0 || mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		err = -errno;
	while (!err && rc > MNL_CB_STOP) {
		ssize_t n = recv(mnl_socket_get_fd(nl), buf, sizeof buf, MSG_DONTWAIT);

		rc = n < 0 ? -1 : mnl_cb_run(buf, (size_t)n, NETLINK_SEQ, mnl_socket_get_portid(nl), cb, ctx);
		if (rc < 0)
			err = -errno;
	}
	mnl_socket_close(nl);
	return err;
}

int netlink_execute(int bus, struct nlmsghdr *nlh)
{
	nlh->nlmsg_flags |= NLM_F_ACK;
	return netlink_exchange(bus, nlh, NULL, NULL);
}

int netlink_dump(struct nlmsghdr *nlh, mnl_cb_t cb, void *ctx)
{
	nlh->nlmsg_flags |= NLM_F_DUMP;
	return netlink_exchange(NETLINK_ROUTE, nlh, cb, ctx);
}
