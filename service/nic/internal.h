/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of service/nic/ share. Nobody else includes this. */
#ifndef SERVICE_NIC_INTERNAL_H
#define SERVICE_NIC_INTERNAL_H

#include <pthread.h>
#include <xdp/xsk.h>

#include "service/base/compiler.h"
#include "service/nic/bpf_abi.h"
#include "service/nic/nic.h"

/* One line for people. */
struct why {
	char *buf;
	unsigned size;
};
void why_set(struct why *why, const char *fmt, ...) format_printf(2, 3);

/*
 * ---- links.c: programs attached to an interface ----
 * A raw link lives as long as its descriptor. A clsact filter (no TCX in the kernel) has to
 * be removed; one that a killed instance left is removed at the next start.
 */
struct tc_attachment {
	int link_fd; /* -1: none */
	int ifindex; /* of the clsact filter; 0: none */
	bool egress;
};

/* Returns 0 or -errno. May wait for some milliseconds. */
int link_xdp_create(int ifindex, int prog_fd, bool allow_generic, bool *native, int *link_fd);
int link_xdp(const struct nic_info *info, int prog_fd, bool allow_generic, bool *native, int *link_fd, struct why *why);
int link_tc(int ifindex, const char *ifname, int prog_fd, bool egress, bool force_clsact, struct tc_attachment *out,
	    bool *tcx, struct why *why);
void link_tc_remove(struct tc_attachment *a);

/* ---- attach.c: the links of XDP and tc egress, and changing them at run time. Main thread. ---- */
struct attach {
	int link_fd; /* of XDP; -1: not attached */
	int event_fd;
	int ifindex, prog_fd;
	struct tc_attachment *egress;
	int egress_fd; /* its program; -1: it stays as it is */
	bool running;
	enum nic_attachment goal;
	int rc;
	pthread_t thread;
};
/* May XDP come and go on a NIC of this driver? */
bool attach_is_cheap(const char *driver);
int attach_open(struct attach *a, int ifindex, int prog_fd, struct tc_attachment *egress, int egress_fd);
/* Waits for a change that runs, and detaches. */
void attach_close(struct attach *a);
/* See nic_attach(), nic_detach(), nic_strip(), nic_attach_finish(). */
int attach_start(struct attach *a, enum nic_attachment goal);
int attach_finish(struct attach *a);
enum nic_attachment attach_state(const struct attach *a);

/* ---- port.c: one AF_XDP socket with its frame pool ---- */
struct port {
	/* rings: written by the owning thread and the kernel */
	struct xsk_ring_cons rx, comp;
	struct xsk_ring_prod tx, fill;
	uint8_t *umem_area;
	uint32_t frame_size;
	uint32_t frames;  /* half are for receiving, half for sending */
	uint32_t rx_next; /* index of the oldest received descriptor not yet released */
	uint32_t rx_held;
	uint32_t tx_unsubmitted;
	uint32_t tx_free_count;
	uint64_t *tx_free; /* stack of frame addresses */
	int fd;

	struct xsk_umem *umem;
	struct xsk_socket *xsk;
	size_t umem_size;
} cacheline_aligned;

#define PORT_FRAME_SMALL 2048u
#define PORT_FRAME_LARGE 4096u
#define PORT_FRAME_RESERVE (256u + 18u) /* the kernel's headroom in a received frame; Ethernet header with a tag */
#define PORT_MTU_MAX (PORT_FRAME_LARGE - PORT_FRAME_RESERVE)

/* @zerocopy: in: try it; out: what it became. */
int port_open(struct port *p, const struct nic_info *info, uint32_t queue, uint32_t frames, bool *zerocopy,
	      struct why *why);
/* Without a NIC: its rings are empty, and stay so. */
void port_open_none(struct port *p);
void port_close(struct port *p);

#endif
