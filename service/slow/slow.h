/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The slow path: applications and their control messages, connections and their state
 * machine, adoption, Linux's verdicts, the congestion loop. It is the only writer of all of
 * this, on the main thread, driven by the loop; nothing in it blocks.
 */
#ifndef SERVICE_SLOW_SLOW_H
#define SERVICE_SLOW_SLOW_H

#include <stdbool.h>
#include <stdint.h>

#include "service/base/counters.h"
#include "service/config.h"
#include "service/fast/fast.h"
#include "service/loop/loop.h"
#include "service/nic/nic.h"
#include "shadow/shadow.h"

struct slow;

/* What the slow path works with; all owned by the caller and alive until slow_close(). */
struct slow_env {
	const struct config *config;
	struct loop *loop;
	struct nic *nic;
	struct fast *fast;
	struct ipc_page *page;
	int page_fd; /* read-only descriptor of the page, for applications */
};

/* Text request -> JSON text (malloc'd, freed by the caller), or NULL if unknown. */
typedef char *slow_admin_fn(void *ctx, const char *request);

/*
 * Open the control socket and start to serve. Returns 0 or -errno; @why gets one line for
 * people.
 */
int slow_open(const struct slow_env *env, slow_admin_fn *admin, void *ctx, struct slow **out, char *why,
	      unsigned why_size);
/* The TAP comes after: its frames enter through slow_from_tap(). */
void slow_set_tap(struct slow *s, struct tap *tap);
/* The watch needs the slow path as its receiver and the slow path its address list. */
void slow_set_watch(struct slow *s, struct watch *watch);
/* Begin to stop: no more adoptions; every live connection is given back to Linux. */
void slow_stop(struct slow *s);
/* How many are not there yet. */
uint32_t slow_stopping(struct slow *s);
/* Time is up: what is still FAST is reset, so that both ends know at once. Returns how many. */
uint32_t slow_abandon(struct slow *s);
/* The longest time, in ns, that a connection stood still between FAST and Linux. */
uint64_t slow_longest_pause_ns(const struct slow *s);
/* Give back to Linux: all connections, or those of process @pid, or flow @id. Returns how many were begun. */
uint32_t slow_release_all(struct slow *s);
uint32_t slow_release_pid(struct slow *s, pid_t pid);
uint32_t slow_release_flow(struct slow *s, uint32_t id);
void slow_close(struct slow *s);

/* Callbacks for tap_open() and watch_open(); ctx is the struct slow. */
void slow_from_tap(void *ctx, const uint8_t *frame, uint32_t len);
void slow_from_watch(void *ctx, const struct watch_event *e);

/* ---- for reports (service/admin.c) ---- */

enum conn_state {
	CONN_FREE,
	CONN_ADOPTING,  /* transaction running: frames are held, no flow installed */
	CONN_FAST,      /* installed in the fast path */
	CONN_REMOVING,  /* CMD_REMOVE sent, memory still in use by the fast thread */
	CONN_LEAVING,   /* CMD_FREEZE sent, or frozen: frames are held until Linux or another process has it */
	CONN_TIME_WAIT, /* no flow, no slot: answers retransmitted FINs, keeps the tuple from reuse */
};

enum verdict { VERDICT_NONE, VERDICT_ACCEPT, VERDICT_SILENT, VERDICT_REJECT };

struct slow_totals {
	uint32_t fast, adopting, closing, time_wait, muted, apps, listeners;
};
void slow_totals(const struct slow *s, struct slow_totals *out);

struct slow_flow_info {
	uint32_t id;
	struct flow_key key;
	pid_t pid;
	char command[16];
	int fd; /* -1: unknown or closed */
	enum conn_state state;
	bool closing, muted, left_with_linux, local;
	enum verdict verdict;
	uint64_t verdict_age_ms;
	const char *congestion;
	const char *reason;
	uint64_t rate_bps;
	const struct flow_stats *stats; /* NULL when left with Linux */
};
typedef void slow_flow_fn(void *ctx, const struct slow_flow_info *f);
void slow_each_flow(struct slow *s, slow_flow_fn *cb, void *ctx);

struct slow_listener_info {
	struct ip_addr addr;
	uint16_t port;
	pid_t pid;
	char command[16];
	int fd;
	bool accelerate;
	uint32_t exchanges;
	uint64_t bytes, adopted;
};
typedef void slow_listener_fn(void *ctx, const struct slow_listener_info *l);
void slow_each_listener(struct slow *s, slow_listener_fn *cb, void *ctx);

const struct counters *slow_counters(const struct slow *s);

#endif
