/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The application on top: requests, responses, their times and their verification. */
#define _GNU_SOURCE
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "tests/bench/xload/xload.h"

void issue(struct conn *c, uint64_t t)
{
	uint32_t i = c->head + c->out++;
	tsq[(size_t)c->id * C.pipe + (i >= C.pipe ? i - C.pipe : i)] = t;
	c->lim += C.req;
	S.issued++;
}

static void fill_pipeline(struct conn *c) /* closed loop: keep C.pipe requests out */
{
	while (c->out < C.pipe && (!C.per_conn || c->reqs + c->out < C.per_conn))
		issue(c, now);
	conn_output(c);
}

void app_start(struct conn *c)
{
	if (C.mode == M_TX) {
		c->lim = INF;
		conn_output(c);
	} else if (C.mode == M_RX) {
		c->lim = C.req;
		conn_output(c);
	} else if (C.rate > 0) {
		if (!c->in_avail) {
			c->in_avail = true;
			push(&avail, c->id);
		}
	} else
		fill_pipeline(c);
}

void app_established(struct conn *c)
{
	hist_add(&h_hs, ns_of(now - c->t_syn));
	ack_now(c); /* not needed if a request goes out now */
	if (stopping)
		conn_close(c);
	else if (running) /* else it starts when all connections are there */
		app_start(c);
}

/* One response is complete. True: the connection is closing. */
bool complete(struct conn *c)
{
	uint64_t t = tsq[(size_t)c->id * C.pipe + c->head];
	hist_add(&h_lat, now > t ? ns_of(now - t) : 0);
	c->head = c->head + 1 == C.pipe ? 0 : c->head + 1;
	c->out--;
	c->reqs++;
	S.reqs++;
	if (C.per_conn && c->reqs >= C.per_conn) {
		if (C.closeby != CL_SERVER)
			conn_close(c);
		return true;
	}
	if (stopping)
		return false;
	if (C.rate <= 0) {
		if (!C.per_conn || c->reqs + c->out < C.per_conn)
			issue(c, now);
	} else if (!c->in_avail) {
		c->in_avail = true;
		push(&avail, c->id);
	}
	return false;
}

static void http_header(struct conn *c, const char *h, uint32_t n)
{
	const char *e = h + n;
	c->left = UINT32_MAX;
	if (n < 12 || memcmp(h, "HTTP/1.", 7) || h[9] != '2')
		S.httperr++, failed++;
	for (const char *l = memchr(h, '\n', n); l && ++l < e; l = memchr(l, '\n', (size_t)(e - l)))
		if (e - l > 15 && !strncasecmp(l, "content-length:", 15))
			c->left = (uint32_t)strtoul(l + 15, NULL, 10);
	c->till_eof = c->left == UINT32_MAX;
	if (c->till_eof && C.closeby != CL_SERVER)
		S.httperr++, failed++; /* e.g. chunked: cannot find the end */
	c->in_hdr = false;
	c->hlen = 0;
}

/* In-order stream bytes for the application. False: the connection is gone. */
bool app_data(struct conn *c, const uint8_t *d, uint32_t n, bool check)
{
	S.rxbytes += n;
	if (C.mode == M_RX || C.mode == M_TX)
		return true;
	if (check && !C.noverify && C.mode != M_HTTP && C.resp == C.req) {
		S.verified++;
		if (unlikely(memcmp(d, pat + (c->rxoff + c->shift) % PERIOD, n))) {
			S.mismatch++;
			mismatched++;
		}
	}
	while (n) {
		if (unlikely(!c->out)) {
			S.unexpected++;
			mismatched++;
			return true;
		}
		if (c->in_hdr) {
			const char *end = c->hlen ? NULL : memmem(d, n, "\r\n\r\n", 4);
			uint32_t used;
			if (end) { /* usual: whole header in one segment */
				used = (uint32_t)(end + 4 - (const char *)d);
				http_header(c, (const char *)d, used);
			} else {
				uint32_t had = c->hlen, k = MIN(n, HBUF - had);
				if (!c->hbuf)
					c->hbuf = zalloc(HBUF);
				memcpy(c->hbuf + had, d, k);
				c->hlen += k;
				if (!(end = memmem(c->hbuf, c->hlen, "\r\n\r\n", 4))) {
					if (c->hlen == HBUF)
						S.httperr++, failed++, c->hlen = 0;
					return true;
				}
				used = (uint32_t)(end + 4 - c->hbuf) - had;
				http_header(c, c->hbuf, had + used);
			}
			d += used;
			n -= used;
		}
		uint32_t k = MIN(n, c->left);
		if (!c->till_eof)
			c->left -= k;
		d += k;
		n -= k;
		if (!c->left) {
			c->left = C.resp;
			c->in_hdr = C.mode == M_HTTP;
			if (complete(c))
				return c->state != CLOSED;
		}
	}
	conn_output(c);
	return true;
}
