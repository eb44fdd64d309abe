/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The NIC as the service uses it: BPF programs and their links, the map of flows, and one
 * AF_XDP port per receive queue with its frame pool.
 *
 * nic_* : main thread, except that a port belongs to the fast thread that runs it.
 * All links are raw BPF links held by descriptors: they vanish with the process.
 */
#ifndef SERVICE_NIC_NIC_H
#define SERVICE_NIC_NIC_H

#include <stdbool.h>
#include <stdint.h>

#include "service/base/flow_key.h"

enum nic_mode {
	NIC_SHARED,    /* frames of flows in the map come to us, everything else is Linux's */
	NIC_EXCLUSIVE, /* every frame comes to us; the TAP is Linux's interface */
};

enum nic_attach {
	NIC_ATTACH_AUTO,   /* on demand where the driver neither drops the link nor resets queues for it */
	NIC_ATTACH_ALWAYS, /* XDP is attached from nic_open() to nic_close(); so it is in exclusive mode */
	NIC_ATTACH_DEMAND, /* by nic_attach() and nic_detach() */
};

struct nic_info {
	char name[16];
	char driver[32];
	int ifindex;
	uint8_t mac[6];
	uint32_t mtu;
	uint32_t queues; /* receive queues = ports */
	bool native;     /* native XDP (else generic) */
	bool on_demand;  /* XDP is attached and detached at run time; AF_XDP then copies */
	bool zerocopy;
	bool tcx; /* TCX links (else clsact filters, removed at stop and at the next start) */
	bool up;
};

struct nic_config {
	const char *ifname;
	enum nic_mode mode;
	enum nic_attach attach;
	int tap_ifindex;
	uint32_t max_flows; /* entries of `flows` and of `words` */
	uint32_t frames;    /* per port, power of two; default 8192 */
	bool allow_generic; /* exclusive mode only: in shared mode generic XDP would see injected frames again */
	bool force_copy;    /* no zero copy, even where the driver could */
	bool force_clsact;  /* no TCX links, even where the kernel has them */
};

struct nic;

/* Read name, driver, index, MAC, MTU and number of queues of an interface, without touching it. Returns 0 or -errno. */
int nic_probe(const char *ifname, struct nic_info *out);

/*
 * Load, attach, and open a port per queue. On failure nothing stays behind, and @why holds
 * one line for people: what is wrong and what to do. Returns 0 or -errno.
 */
int nic_open(const struct nic_config *cfg, struct nic **out, char *why, unsigned why_size);
/*
 * Instead: no interface at all, for connections within the host. It has one port, which never has a frame and always
 * room, XDP counts as attached, no flow can be added, and there is no map of words.
 */
int nic_open_none(struct nic **out);
void nic_close(struct nic *n);
const struct nic_info *nic_get_info(const struct nic *n);

/*
 * Is XDP on the NIC? Attached by nic_open(). With on_demand it can be changed, and when it is detached the program at
 * tc egress can go as well (nic_strip(); -EOPNOTSUPP before TCX), which nic_attach() brings back: a change
 * takes some milliseconds, in a thread of its own; then the descriptor nic_attach_fd() is
 * readable, and nic_attach_finish() ends the change and returns its result, 0 or -errno
 * (-EINPROGRESS: not yet). Before flows are added it must be attached; before it is detached
 * there must be none.
 */
enum nic_attachment {
	NIC_ATTACHED,
	NIC_DETACHED,
	NIC_BARE, /* detached, and nothing at its egress */
	NIC_ATTACHING,
	NIC_DETACHING, /* or being stripped */
};
enum nic_attachment nic_attachment(const struct nic *n);
/* Begin a change. Returns 0, -EALREADY, -EOPNOTSUPP (not on demand), or -errno of pthread_create(). */
int nic_attach(struct nic *n);
int nic_detach(struct nic *n);
int nic_strip(struct nic *n);
int nic_attach_finish(struct nic *n);
int nic_attach_fd(const struct nic *n); /* owned by @n */

/* The map `flows`: whose packet it is. Return 0 or -errno (-EEXIST, -ENOENT, -E2BIG: full). */
int nic_flow_add(struct nic *n, const struct flow_key *key, uint32_t flow_id);
int nic_flow_del(struct nic *n, const struct flow_key *key);

/*
 * Descriptor of the words map, for applications: mmap(PROT_READ, MAP_SHARED) is all it
 * allows, because the map is frozen. Owned by @n. -1: none.
 */
int nic_words_fd(const struct nic *n);
uint64_t nic_word_read(const struct nic *n, uint32_t flow_id);
void nic_word_clear(struct nic *n, uint32_t flow_id);

/* ---- ports: fast threads only. No system calls but port_flush() and those named. ---- */

struct port;
struct port *nic_port(struct nic *n, uint32_t queue);

struct frame {
	uint8_t *data;
	uint32_t len;
};

/*
 * Take up to @max received frames; they stay valid until port_rx_release() with the same
 * number, which gives them back to the fill ring. Returns how many.
 */
uint32_t port_rx(struct port *p, struct frame *out, uint32_t max);
void port_rx_release(struct port *p, uint32_t n);
bool port_rx_ready(const struct port *p);

/* A free frame buffer of port_frame_size() bytes to build into, or NULL: the ring is full. At most one at a time. */
uint8_t *port_tx_begin(struct port *p);
/* Queue the buffer given by port_tx_begin(): sent at the next port_flush(). */
void port_tx_commit(struct port *p, uint32_t len);
uint32_t port_frame_size(const struct port *p);
uint32_t port_tx_room(const struct port *p); /* frames that port_tx_begin() can give now */
/* Kick the kernel if it asks for it, reap completions. Bounded. */
void port_flush(struct port *p);
bool port_tx_pending(const struct port *p); /* frames queued that the kernel has not taken yet */
/* For ppoll(2)/epoll while asleep: readable when frames arrive. -1: none ever will. */
int port_fd(const struct port *p);

#endif
