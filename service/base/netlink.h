/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Netlink requests and rtnetlink dumps. Main thread. */
#ifndef SERVICE_BASE_NETLINK_H
#define SERVICE_BASE_NETLINK_H

#include <libmnl/libmnl.h>
#include <stdint.h>

/* Room for one request: messages here have a handful of attributes. */
#define NETLINK_REQUEST 512

/* A header for @type in @buf (NETLINK_REQUEST bytes, aligned), with NLM_F_REQUEST and @flags. */
struct nlmsghdr *netlink_request(void *buf, uint16_t type, uint16_t flags);
/*
 * Send it on a socket of its own on @bus (NETLINK_ROUTE, NETLINK_NETFILTER) and wait for the acknowledgement, which
 * comes at once. Returns 0 or -errno.
 */
int netlink_execute(int bus, struct nlmsghdr *nlh);
/* Send a dump request and give each message to @cb. Returns 0, -EINTR (changed meanwhile: ask again) or -errno. */
int netlink_dump(struct nlmsghdr *nlh, mnl_cb_t cb, void *ctx);

#endif
