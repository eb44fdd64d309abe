/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Questions to NETLINK_SOCK_DIAG: what does the kernel know of the connection with this
 * 4-tuple? And the order to drop one that no process holds any more. It sees what a descriptor does not show (is the socket of this network namespace,
 * are there TCP-MD5 keys) and works without one. Main thread; the kernel answers within the
 * request, so nothing blocks.
 */
#include "shadow/sock.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <string.h>

#include "service/base/addr.h"
#include "service/base/compiler.h"

struct diag_answer {
	const struct flow_key *key;
	struct sock_diag *out;
	bool found;
};

static int diag_attr(const struct nlattr *attr, void *data)
{
	struct sock_diag *out = data;

	if (mnl_attr_get_type(attr) == INET_DIAG_MD5SIG) /* told to CAP_NET_ADMIN only */
		out->md5 = true;
	return MNL_CB_OK;
}

/* A lookup that finds no connection falls back to a listener: only the very tuple counts. */
static int diag_message(const struct nlmsghdr *nlh, void *data)
{
	const struct inet_diag_msg *m = mnl_nlmsg_get_payload(nlh);
	struct diag_answer *a = data;

	if (nlh->nlmsg_type != SOCK_DIAG_BY_FAMILY || mnl_nlmsg_get_payload_len(nlh) < sizeof *m)
		return MNL_CB_OK;
	if (m->id.idiag_sport != a->key->local_port || m->id.idiag_dport != a->key->remote_port)
		return MNL_CB_STOP;
	a->found = true;
	a->out->cookie = (uint64_t)m->id.idiag_cookie[1] << 32 | m->id.idiag_cookie[0];
	a->out->inode = m->idiag_inode;
	a->out->state = m->idiag_state;
	a->out->unread = m->idiag_rqueue;
	a->out->md5 = false;
	mnl_attr_parse(nlh, sizeof *m, diag_attr, a->out);
	return MNL_CB_STOP;
}

static void diag_request(struct nlmsghdr *nlh, uint16_t type, const struct flow_key *key, int ifindex)
{
	bool v4 = ip_addr_is_v4(&key->local);
	struct inet_diag_req_v2 *r;

	nlh->nlmsg_type = type;
	nlh->nlmsg_flags = NLM_F_REQUEST;
	r = mnl_nlmsg_put_extra_header(nlh, sizeof *r);
	/* an IPv4 lookup finds AF_INET6 sockets with mapped addresses as well: one hash table */
	r->sdiag_family = v4 ? AF_INET : AF_INET6;
	r->sdiag_protocol = IPPROTO_TCP;
	r->idiag_ext = 1 << (INET_DIAG_INFO - 1); /* MD5 keys come only with it */
	r->idiag_states = UINT32_MAX;
	r->id.idiag_sport = key->local_port;
	r->id.idiag_dport = key->remote_port;
	r->id.idiag_if = (uint32_t)ifindex;
	r->id.idiag_cookie[0] = r->id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
	if (v4) {
		r->id.idiag_src[0] = key->local.w[3];
		r->id.idiag_dst[0] = key->remote.w[3];
	} else {
		memcpy(r->id.idiag_src, key->local.b, 16);
		memcpy(r->id.idiag_dst, key->remote.b, 16);
	}
}

int sock_diag_find(const struct flow_key *key, int ifindex, struct sock_diag *out)
{
	char buf[MNL_SOCKET_BUFFER_SIZE] __attribute__((aligned(8)));
	struct mnl_socket *nl = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
	struct diag_answer a = {.key = key, .out = out};
	struct nlmsghdr *nlh;
	ssize_t n;
	int rc = 0;

	if (!nl)
		return -errno;
	nlh = mnl_nlmsg_put_header(buf);
	diag_request(nlh, SOCK_DIAG_BY_FAMILY, key, ifindex);
	if (mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		rc = -errno;
	if (!rc) {
		n = recv(mnl_socket_get_fd(nl), buf, sizeof buf, MSG_DONTWAIT);
		if (n < 0 || mnl_cb_run(buf, (size_t)n, 0, 0, diag_message, &a) < 0)
			rc = -errno;
	}
	mnl_socket_close(nl);
	if (rc)
		return rc;
	return a.found ? 0 : -ENOENT;
}

static int diag_destroy(const struct flow_key *key, uint64_t cookie)
{
	char buf[MNL_SOCKET_BUFFER_SIZE] __attribute__((aligned(8)));
	struct mnl_socket *nl = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
	struct inet_diag_req_v2 *r;
	struct nlmsghdr *nlh;
	ssize_t n;
	int rc = 0;

	if (!nl)
		return -errno;
	nlh = mnl_nlmsg_put_header(buf);
	diag_request(nlh, SOCK_DESTROY, key, 0);
	nlh->nlmsg_flags |= NLM_F_ACK;
	r = mnl_nlmsg_get_payload(nlh);
	r->id.idiag_cookie[0] = (uint32_t)cookie;
	r->id.idiag_cookie[1] = (uint32_t)(cookie >> 32);
	if (mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		rc = -errno;
	if (!rc) {
		n = recv(mnl_socket_get_fd(nl), buf, sizeof buf, MSG_DONTWAIT);
		if (n < 0 || mnl_cb_run(buf, (size_t)n, 0, 0, NULL, NULL) < 0)
			rc = -errno;
	}
	mnl_socket_close(nl);
	return rc == -ENOENT ? 0 : rc;
}

int sock_reset(const struct flow_key *key, uint64_t cookie)
{
	struct sock_diag d;

	return sock_diag_find(key, 0, &d) || d.cookie != cookie ? 0 : diag_destroy(key, cookie);
}

/*
 * By its cookie: the kernel's lookup falls back to a listener on the same port, which must
 * never be meant.
 */
int sock_destroy(const struct flow_key *key)
{
	struct sock_diag d;
	int rc = sock_diag_find(key, 0, &d);

	return rc ? (rc == -ENOENT ? 0 : rc) : diag_destroy(key, d.cookie);
}
