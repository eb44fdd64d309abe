/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Private to service/fast: a fast thread's state, and what its files offer each other. All on the fast thread. */
#ifndef SERVICE_FAST_THREAD_H
#define SERVICE_FAST_THREAD_H

#include <pthread.h>

#include "service/fast/fast.h"
#include "service/fast/flow.h"
#include "service/fast/flow_table.h"
#include "service/fast/flowset.h"
#include "service/fast/rx.h"
#include "service/fast/wheel.h"
#include "service/ipc/wake.h"

#define FAST_RX_BATCH 64
#define FAST_TX_BURST 8      /* segments per flow and turn */
#define FAST_CMD_BATCH 64    /* commands per turn */
#define FAST_DIRTY_BATCH 128 /* slots per application and turn */
#define FAST_READY_BATCH 128 /* flows per turn of the transmitter */
#define FAST_TX_FEW 16       /* segments per turn while frames wait to be received */
#define FAST_TIMER_BATCH 128
#define FAST_ACTIVE_NS (4 * 1000000ull) /* the slow path hears of a flow's traffic at most this often */
#define FAST_CORK_NS (200 * 1000000ull)
#define FAST_URGENT_NS (200 * 1000000ull) /* the slow path hears of urgent data at most this often */
#define FAST_KEEP_NS (250 * 1000000ull)   /* keep-alive clocks are looked at this often at most */
#define FAST_PERSIST_MAX_US 60000000u
#define FAST_RING_BYTES (4u << 20)

/* An application as one thread sees it. */
struct app_view {
	struct fast_app a;
	bool used;
	bool bad;            /* a record failed the check: nothing is read from it any more */
	uint16_t up_pending; /* events for the slow path: bits 1 << enum fast_up */
	uint32_t dirty_cursor;
	uint64_t wakes;      /* contexts whose bell was rung in this turn */
	uint32_t *slot_flow; /* IPC_SLOTS: flow + 1 installed in this thread, 0: none */
};

struct fast_thread {
	struct fast *fast;
	uint32_t index;
	const struct fast_config *cfg;
	struct port *port;
	struct ipc_page *page;
	struct flow *flows; /* all flows of the service; ours are those in `owned` */
	struct flow_stats *stats;
	struct flow_limits *limits;
	struct bell *active;
	struct flow_table table;
	struct wheel wheel;
	struct flowset owned;   /* flows installed in this thread */
	struct flowset ready;   /* flows the transmitter looks at */
	struct flowset up_wait; /* flows with events that did not fit the ring */
	struct flowset keep;    /* flows with a keep-alive clock */
	uint64_t keep_due_ns;   /* none of them is due before; 0: there is none */
	uint32_t ready_cursor;
	uint64_t *set_memory;
	uint32_t *slot_memory;
	struct app_view apps[FAST_APPS];
	struct fast_region regions[FAST_REGIONS];
	uint16_t app_list[FAST_APPS]; /* those in use */
	uint32_t napps;
	bool apps_up_wait;
	uint64_t wakes[FAST_APPS / 64]; /* applications to wake at the end of the turn */
	bool capture;
	bool up_news; /* records in `up` that the slow path may not know of */
	bool active_news;
	uint64_t active_wake_ns;
	uint64_t now_ns; /* of this turn */

	struct recring down, up;
	struct counters counters;
	_Atomic uint64_t last_turn_ns;
	int wake_fd, epoll_fd;
	struct waker waker; /* of applications */
	pthread_t pthread;
	bool started;
};

struct fast {
	struct fast_config cfg;
	struct nic *nic;
	struct ipc_page *page;
	uint32_t threads;
	struct fast_thread *thread[IPC_THREADS];
	void *shared; /* memfd: flows, statistics, limits */
	size_t shared_size;
	int shared_fd, up_fd;
	_Alignas(64) struct bell active;
	_Alignas(64) _Atomic uint32_t
		slow_armed; /* pairs: slow path stores, fence, looks at `up`; we commit, fence, load */
	_Atomic uint32_t stop;
};

/* thread.c */
int thread_open(struct fast_thread *t, struct fast *f, uint32_t index, struct port *port);
void thread_close(struct fast_thread *t);
/* One turn: everything there is to do at @now_ns, bounded. Returns whether anything was done. */
bool thread_turn(struct fast_thread *t, uint64_t now_ns);
/* When thread_turn() must be called again at the latest if nothing arrives; WHEEL_NEVER: no timer. */
uint64_t thread_next_ns(const struct fast_thread *t);
/* Is there anything to look at right now? After the armed flag and a full fence. */
bool thread_has_work(struct fast_thread *t);
void *thread_main(void *arg);

/* input.c: a frame from the wire */
void input_frames(struct fast_thread *t, const struct frame *frames, uint32_t n);

/* tx.c */
/* Send what flow @f has to send, at most FAST_TX_BURST segments. Returns true if it must stay in `ready`. */
bool tx_run(struct fast_thread *t, struct flow *f);
/* An empty segment that acknowledges, now; if there is no frame, at the next turn. */
void tx_ack(struct fast_thread *t, struct flow *f);
bool tx_frame(struct fast_thread *t, const uint8_t *data, uint32_t len);

/* local.c */
/* As tx_run(), for a flow with FLOW_LOCAL: to its peer. */
bool local_run(struct fast_thread *t, struct flow *f);
/* Its other end, or NULL if that is not installed at present. */
struct flow *local_peer(struct fast_thread *t, const struct flow *f);

/* pacer.c */
/* Take over new limits from the slow path, count tokens. */
void pacer_update(struct fast_thread *t, struct flow *f);
/* 0: @f may send now; else nanoseconds to wait. */
uint64_t pacer_wait_ns(const struct flow *f);

/* timer.c */
void timer_arm(struct fast_thread *t, struct flow *f);
/* SO_KEEPALIVE is on, or its numbers have changed, or its time has come. */
void timer_keepalive(struct fast_thread *t, struct flow *f);
/* Expire what is due. Returns whether there was anything. */
bool timer_run(struct fast_thread *t);

/* app.c */
bool app_dirty_run(struct fast_thread *t);
/* Read the application's record of @f, check it and take it over. */
void app_refresh(struct fast_thread *t, struct flow *f);
/* Publish status (and error) / positions, ring the context. What both halves must know goes to both slots. */
void app_status(struct fast_thread *t, struct flow *f);
/* Installed: the slots as their applications first see them, their status last. */
void app_install(struct fast_thread *t, struct flow *f, const struct tcp_counts *n);
void app_fin_acked(struct fast_thread *t, struct flow *f); /* status alone: nobody waits for it */
/* Close the application's record: reads it for the last time and tells the slot IPC_PAUSED. False: it was bad. */
bool app_freeze(struct fast_thread *t, struct flow *f);
void app_delivered(struct fast_thread *t, struct flow *f);
void app_acked(struct fast_thread *t, struct flow *f);
/* With IPC_OPT_LOWAT, after a transmission. */
void app_sent(struct fast_thread *t, struct flow *f);
void app_info(struct fast_thread *t, struct flow *f);
/* Publish what TCP_INFO counts: of all that was sent and received, and the peer's window; that a segment came, that data went. */
void app_counts(struct fast_thread *t, const struct flow *f);
void app_heard(struct fast_thread *t, const struct flow *f, bool data);
void app_spoke(struct fast_thread *t, const struct flow *f);
void app_wake(struct fast_thread *t);

/* command.c */
bool command_run(struct fast_thread *t);
/* The flow is over: @error for the application; @rst: tell the peer; @up: tell the slow path. */
void flow_fail(struct fast_thread *t, struct flow *f, int error, bool rst, bool up);

/* up.c */
/* False: lost (and counted), the ring is full. */
bool up_frame(struct fast_thread *t, enum fast_up type, const struct flow *f, const uint8_t *data, uint32_t len,
	      bool outgoing);
void up_flow(struct fast_thread *t, struct flow *f, enum fast_up type);
void up_app(struct fast_thread *t, struct app_view *a, enum fast_up type);
void up_retry(struct fast_thread *t);
void up_active(struct fast_thread *t, struct flow *f);
/* Wake the slow path if it sleeps and there is news. @last: the thread is going to sleep. */
void up_wake(struct fast_thread *t, bool last);

/* The slot that receives, and unless the flow is split, sends. */
static inline struct ipc_slot *thread_slot(struct fast_thread *t, const struct flow *f)
{
	return &t->apps[f->app].a.shm->slot[f->slot];
}
static inline struct ipc_slot *thread_tx_slot(struct fast_thread *t, const struct flow *f)
{
	return &t->apps[flow_tx_app(f)].a.shm->slot[flow_tx_slot(f)];
}

static inline void thread_count(struct fast_thread *t, enum counter_id id, uint64_t n)
{
	counter_add(&t->counters, id, n);
}

/* Statistics have one writer: plain adds with relaxed stores. */
#define STATS_ADD(field, n)                                                                         \
	atomic_store_explicit(&(field), atomic_load_explicit(&(field), memory_order_relaxed) + (n), \
			      memory_order_relaxed)
#define STATS_SET(field, v) atomic_store_explicit(&(field), (v), memory_order_relaxed)

void thread_stats(struct fast_thread *t, const struct flow *f);

#endif
