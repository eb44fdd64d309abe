/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What comes up from the fast threads: frames without a flow (held for an adoption, Linux's
 * own, or to be relayed), rare packets for Linux to judge, and events of a flow's close.
 */
#include "service/slow/internal.h"

#include <errno.h>
#include <string.h>

#include "service/base/addr.h"
#include "service/base/clock.h"
#include "service/base/log.h"
#include "service/tcp/seq.h"

#define UP_BATCH 512
#define MSS_FLOOR_V4 (552 - 40) /* R: the smallest path MTU believed (RFC 1191 table, RFC 8200) */
#define MSS_FLOOR_V6 (1280 - 60)

/* TIME_WAIT on the wire: the last ACK again for a FIN or data, a new connection to Linux (RFC 6191), the rest ignored. */
static void up_time_wait(struct slow *s, struct conn *c, uint32_t thread, const struct segment *seg,
			 const uint8_t *frame, uint32_t len)
{
	struct wire_segment w = {
		.seq = c->wire_snd_nxt,
		.ack = c->wire_rcv_nxt,
		.flags = TCP_ACK,
		.window = 1024,
		.has_ts = seg->opt.has_ts,
		.tsval = (uint32_t)(s->now_ns / NS_PER_MS) + c->ts_offset,
		.tsecr = seg->opt.tsval,
	};
	uint8_t out[WIRE_HDR_MAX];
	bool newer = seq_gt(seg->seq, c->wire_rcv_nxt) ||
		     (c->sock.ts && c->ts_recent && seg->opt.has_ts && seq_gt(seg->opt.tsval, c->ts_recent));

	if ((seg->flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN && newer) {
		nic_flow_del(s->env.nic, &c->key);
		conn_free(s, c);
		linux_inject(s, frame, len);
		return;
	}
	if ((seg->flags & TCP_RST) || (!seg->len && !(seg->flags & (TCP_FIN | TCP_SYN))))
		return;
	if (!segment_csum_ok(seg, false)) {
		counter_add(&s->counters, CNT_DROP_CSUM, 1);
		return;
	}
	down_frame(s, thread, CMD_TX_FRAME, out, wire_build(out, &c->tmpl, &w, 0, 0));
}

/* ICMP about a flow: only if it quotes bytes that are in flight (RFC 5927); Linux learns it in the shadow's numbers. */
static void up_icmp(struct slow *s, struct conn *c, const struct up_frame *f, const struct segment *seg)
{
	struct shadow_seq q = linux_seq(s, c);
	bool v4 = ip_addr_is_v4(&c->key.remote);
	uint8_t buf[2048];
	uint32_t n;

	if (seq_lt(seg->seq, f->snd_una) || seq_geq(seg->seq, f->snd_nxt))
		return;
	if (seg->icmp_mtu) {
		uint32_t headers = (v4 ? 40u : 60u) + (c->sock.ts ? 12u : 0u);
		uint32_t floor = v4 ? MSS_FLOOR_V4 : MSS_FLOOR_V6;
		uint32_t mss = seg->icmp_mtu > headers + floor ? seg->icmp_mtu - headers : floor;

		if (mss < c->sock.mss) {
			c->sock.mss = (uint16_t)mss;
			conn_command(s, c, CMD_MSS, 0, mss);
		}
	}
	q.snd_nxt = c->sh_snd_nxt;
	n = shadow_icmp(&q, buf, sizeof buf, f->data, f->len, f->snd_una);
	if (n)
		linux_inject(s, buf, n);
}

/* A reset that may be real: Linux decides, and the next heartbeat shows how. */
static void up_reset(struct slow *s, struct conn *c, const struct up_frame *f, const struct segment *seg)
{
	if (c->peer_fin && c->fin_acked)
		return; /* both directions ended in order; the shadow may be gone, and could judge nothing */
	if (!segment_csum_ok(seg, false)) {
		counter_add(&s->counters, CNT_DROP_CSUM, 1);
		return;
	}
	linux_mirror_rst(s, c, (int32_t)(seg->seq - f->rcv_nxt));
	c->rst_judged = true;
	verdict_ask(s, c);
}

static void up_rare(struct slow *s, const struct up_frame *f)
{
	struct segment seg;
	enum wire_kind kind = wire_parse(f->data, f->len, false, &seg);
	struct conn *c = kind == WIRE_TCP || kind == WIRE_ICMP_ERROR ? conn_find(s, &seg.key) : NULL;

	if (!c || c->state != CONN_FAST)
		return;
	if (kind == WIRE_ICMP_ERROR)
		up_icmp(s, c, f, &seg);
	else if (seg.flags & TCP_RST)
		up_reset(s, c, f, &seg);
	else
		conn_command(s, c, CMD_ACK, 0, 0);
}

static void up_no_flow(struct slow *s, uint32_t thread, const struct up_frame *f)
{
	struct segment seg;
	enum wire_kind kind = wire_parse(f->data, f->len, false, &seg);
	struct conn *c = kind == WIRE_TCP || kind == WIRE_ICMP_ERROR ? conn_find(s, &seg.key) : NULL;

	if (!c) {
		if (s->cfg->exclusive)
			counter_add(&s->counters, CNT_RELAY_TO_LINUX, 1);
		linux_inject(s, f->data, f->len);
		return;
	}
	switch (c->state) {
	case CONN_ADOPTING:
	case CONN_LEAVING:
		adopt_hold(s, c, thread, f->data, f->len);
		return;
	case CONN_FAST: /* overtaken by the installation, or the NIC chose another queue */
		if (kind == WIRE_ICMP_ERROR)
			up_icmp(s, c, f, &seg);
		else
			down_frame(s, c->thread, CMD_RX_FRAME, f->data, f->len);
		return;
	case CONN_TIME_WAIT:
		if (kind == WIRE_TCP)
			up_time_wait(s, c, thread, &seg, f->data, f->len);
		return;
	case CONN_REMOVING:
	case CONN_FREE:
		return;
	}
}

/*
 * Urgent data: the connection goes to Linux, and the frame after it. If its socket cannot be had
 * now, the peer sends it again, and so long nothing of it is acknowledged.
 */
static void up_urgent(struct slow *s, uint32_t thread, const struct up_frame *f)
{
	struct segment seg;
	struct conn *c = wire_parse(f->data, f->len, false, &seg) == WIRE_TCP ? conn_find(s, &seg.key) : NULL;

	if (!c || c->state != CONN_FAST) {
		up_no_flow(s, thread, f); /* it is leaving already, or has gone */
	} else if (!c->failed && leave_begin(s, c, -1, IPC_REASON_URGENT) < 0) {
		counter_add(&s->counters, CNT_DROP_URGENT, 1);
		conn_command(s, c, CMD_STAY, 0, 0);
	} else if (!c->failed) {
		adopt_hold(s, c, thread, f->data, f->len);
	}
}

/* The fast path ended a flow on its own account: the shadow must die too. */
static void up_failed(struct slow *s, struct conn *c, uint32_t error)
{
	log_debug("flow %u: ended by the fast path: %s", c->id, strerror((int)error));
	c->failed = true;
	c->closed_ns = s->now_ns;
	linux_mirror_rst(s, c, 0);
}

static void up_flow(struct slow *s, enum fast_up type, const struct up_flow *u)
{
	struct conn *c = u->flow_id < s->max_conns ? &s->conns[u->flow_id] : NULL;

	if (!c || (c->state != CONN_FAST && c->state != CONN_REMOVING && c->state != CONN_LEAVING))
		return;
	switch (type) {
	case UP_FIN_RCVD:
		c->peer_fin = true;
		c->peer_fin_first = !c->local_fin;
		c->closed_ns = s->now_ns;
		linux_mirror_fin(s, c);
		break;
	case UP_FIN_ACKED:
		c->fin_acked = true;
		c->closed_ns = s->now_ns;
		linux_ack(s, c, c->sh_snd_nxt + 1);
		break;
	case UP_FAILED:
		up_failed(s, c, u->error);
		if (c->state == CONN_LEAVING)
			leave_failed(s, c);
		break;
	case UP_REMOVED:
		if (c->state == CONN_REMOVING)
			conn_removed(s, c, u->rcv_nxt, u->snd_nxt);
		return;
	default:
		return;
	}
	conn_progress(s, c);
}

static void up_one(struct slow *s, uint32_t thread, enum fast_up type, const void *rec, uint32_t len)
{
	const struct up_flow *u = rec;

	(void)len;
	switch (type) {
	case UP_NO_FLOW:
		up_no_flow(s, thread, rec);
		return;
	case UP_RARE:
		up_rare(s, rec);
		return;
	case UP_URGENT:
		up_urgent(s, thread, rec);
		return;
	case UP_CAPTURE:
		client_capture(s, rec);
		return;
	case UP_APP_GONE:
		app_gone(s, u->flow_id);
		return;
	case UP_APP_BAD:
		if (u->flow_id < FAST_APPS && s->apps[u->flow_id]) {
			counter_add(&s->counters, CNT_APP_DISCONNECTED, 1);
			app_abort(s, s->apps[u->flow_id]);
			if (s->apps[u->flow_id]->client)
				client_close(s, s->apps[u->flow_id]->client);
		}
		return;
	case UP_FROZEN:
		if (u->flow_id < s->max_conns)
			leave_frozen(s, &s->conns[u->flow_id], rec);
		return;
	case UP_FIN_RCVD:
	case UP_FIN_ACKED:
	case UP_FAILED:
	case UP_REMOVED:
		up_flow(s, type, u);
		return;
	}
}

void up_drain(struct slow *s)
{
	for (uint32_t t = 0; t < fast_threads(s->env.fast); t++) {
		struct recring *r = fast_up(s->env.fast, t);
		uint32_t type, len;
		void *rec;

		for (uint32_t n = 0; n < UP_BATCH && (rec = recring_peek(r, &type, &len)); n++) {
			up_one(s, t, (enum fast_up)type, rec, len);
			recring_consume(r);
		}
	}
}
