/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A flow that is split: one application receives, another one sends, and neither is trusted with the other's half. */
/* links: service/fast/fast.c service/fast/thread.c service/fast/command.c service/fast/input.c service/fast/local.c service/fast/rx.c service/fast/ack.c service/fast/tx.c service/fast/pacer.c service/fast/timer.c service/fast/wheel.c service/fast/app.c service/fast/up.c service/fast/flow.c service/fast/flow_table.c service/tcp/rtt.c service/tcp/reasm.c service/base/hash.c service/ipc/recring.c service/ipc/record.c service/ipc/wake.c service/wire/parse.c service/wire/options.c service/wire/csum.c service/wire/build.c */
/* libs: -lpthread */
#include "fast_lab.h"

#define SENDER 7
#define SENDER_SLOT 2
#define SENDER_CONTEXT 3

static struct lab_host *h; /* its own application receives */
static struct ipc_app *shm;
static struct ipc_slot *sender;
static uint8_t *buf;
static int sender_fd;
static uint64_t now;

static void turn(uint64_t us)
{
	now += us * LAB_US;
	thread_turn(h->t, now);
}

static void quiet(void)
{
	struct segment s;

	while (lab_sent(h, &s))
		;
	while (lab_up(h, NULL, 0) >= 0)
		;
}

/* Has its eventfd been written? */
static bool is_woken(int fd)
{
	uint64_t n;

	return read(fd, &n, sizeof n) == sizeof n;
}

static void arm(void)
{
	atomic_store(&h->shm->context[0].armed, 1);
	atomic_store(&shm->context[SENDER_CONTEXT].armed, 1);
}

static struct flow_init split_init(void)
{
	struct flow_init i = lab_init(1, 2, 0xffffff00u, 0xfffffe00u);

	i.opts = IPC_OPT_NODELAY;
	i.split = true;
	i.tx_app = SENDER;
	i.tx_slot = SENDER_SLOT;
	i.tx_context = SENDER_CONTEXT;
	i.tx_off = 4096;
	return i;
}

static int setup(void **state)
{
	struct fast_app add = {.app = SENDER, .buf_size = 1 << 20, .doorbell_fd = -1};
	struct flow_init i = split_init();

	(void)state;
	h = lab_open();
	shm = lab_alloc(sizeof *shm);
	buf = lab_alloc(1 << 20);
	sender = &shm->slot[SENDER_SLOT];
	sender_fd = eventfd(0, EFD_NONBLOCK);
	add.shm = shm;
	add.buf = buf;
	for (int k = 0; k < IPC_CONTEXTS; k++)
		add.context_fd[k] = k == SENDER_CONTEXT ? sender_fd : -1;
	lab_command(h, CMD_APP_ADD, &add, sizeof add);
	atomic_store(&sender->opts, IPC_OPT_NODELAY);
	atomic_store(&sender->context, SENDER_CONTEXT);
	now = 5000 * LAB_MS;
	lab_install(h, &i, now);
	is_woken(h->context_fd);
	is_woken(sender_fd);
	quiet();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	lab_close(h);
	close(sender_fd);
	free(shm);
	free(buf);
	return 0;
}

/* @len more bytes from the sender. */
static void put(uint32_t len)
{
	uint64_t end = atomic_load(&sender->snd_end);

	for (uint32_t i = 0; i < len; i++)
		buf[4096 + ((end + i) & 65535)] = lab_byte(1, end + i);
	atomic_store(&sender->snd_end, end + len);
	bell_ring(&shm->dirty[0], SENDER_SLOT);
}

static void each_is_told_what_it_has(void **state)
{
	(void)state;
	assert_int_equal(atomic_load(&h->slot->status), IPC_FAST | IPC_ST_TX_AWAY);
	assert_int_equal(atomic_load(&sender->status), IPC_FAST | IPC_ST_RX_AWAY);
	assert_true(atomic_load(&h->slot->snd_end) & IPC_FROZEN);
	assert_false(atomic_load(&h->slot->rcv_read) & IPC_FROZEN);
	assert_true(atomic_load(&sender->rcv_read) & IPC_FROZEN);
	assert_false(atomic_load(&sender->snd_end) & IPC_FROZEN);
}

static void bytes_go_by_two_memories(void **state)
{
	struct segment s;

	(void)state;
	arm();
	put(3000);
	lab_send(h, (struct lab_seg){.len = 500, .stream = 2, .window = 512});
	turn(1);
	for (uint32_t at = 0; at < 3000; at += s.len) {
		assert_true(lab_sent(h, &s) && s.len && s.seq == at);
		for (uint32_t i = 0; i < s.len; i++)
			assert_int_equal(s.payload[i], lab_byte(1, at + i));
	}
	assert_int_equal(lab_read(h, 2, 1000), 500);
	assert_true(is_woken(h->context_fd));
	assert_false(is_woken(sender_fd)); /* what arrives does not concern it */
	turn(1);
	lab_send(h, (struct lab_seg){.seq = 500, .ack = 3000, .window = 512});
	turn(1);
	assert_int_equal(atomic_load(&sender->snd_acked), 3000);
	/* each knows how far the other one is, without being able to move it */
	assert_int_equal(atomic_load(&h->slot->snd_end), 3000 | IPC_FROZEN);
	assert_int_equal(atomic_load(&sender->rcv_read), 500 | IPC_FROZEN);
	assert_int_equal(atomic_load(&sender->rcv_end), 500);
}

static void room_wakes_the_sender(void **state)
{
	(void)state;
	put(20000);
	atomic_store(&sender->want, IPC_WANT_SPACE);
	turn(1);
	arm();
	lab_send(h, (struct lab_seg){.ack = 5000, .window = 512});
	turn(1);
	assert_true(is_woken(sender_fd));
	assert_false(is_woken(h->context_fd));
}

static void ends_reach_both(void **state)
{
	(void)state;
	arm();
	lab_send(h, (struct lab_seg){.flags = TCP_ACK | TCP_FIN, .window = 512});
	turn(1);
	assert_int_equal(atomic_load(&h->slot->status), IPC_FAST | IPC_ST_FIN | IPC_ST_TX_AWAY);
	assert_int_equal(atomic_load(&sender->status), IPC_FAST | IPC_ST_FIN | IPC_ST_RX_AWAY);
	assert_true(is_woken(h->context_fd) && is_woken(sender_fd));
	arm();
	lab_flow_command(h, CMD_ABORT, ECONNABORTED, 0);
	turn(1);
	assert_int_equal(atomic_load(&h->slot->error), ECONNABORTED);
	assert_int_equal(atomic_load(&sender->error), ECONNABORTED);
	assert_true(atomic_load(&h->slot->status) & atomic_load(&sender->status) & IPC_ST_ERROR);
	assert_true(is_woken(h->context_fd) && is_woken(sender_fd));
}

/* What an application writes where it has no half does not count, whatever it is. */
static void the_other_half_is_out_of_reach(void **state)
{
	struct segment s;

	(void)state;
	atomic_store(&h->slot->snd_end, 5000);
	atomic_store(&h->slot->opts, 0xffffffff);
	atomic_store(&h->slot->want, 0xffffffff);
	bell_ring(&h->shm->dirty[0], LAB_SLOT);
	atomic_store(&sender->rcv_read, 1 << 20);
	bell_ring(&shm->dirty[0], SENDER_SLOT);
	turn(1);
	assert_false(lab_sent(h, &s));
	assert_int_equal(lab_counter(h, CNT_APP_BAD_RECORD), 0);
	put(10);
	turn(1);
	assert_true(lab_sent(h, &s) && s.len == 10 && s.seq == 0);
	assert_int_equal(atomic_load(&h->slot->snd_end), 10 | IPC_FROZEN);
}

static void who_breaks_the_rules_is_named(void **state)
{
	struct up_flow u;

	(void)state;
	atomic_store(&sender->snd_end, 1 << 20); /* more than the buffer holds */
	bell_ring(&shm->dirty[0], SENDER_SLOT);
	turn(1);
	assert_int_equal(lab_up(h, &u, sizeof u), UP_APP_BAD);
	assert_int_equal(u.flow_id, SENDER);
	assert_int_equal(lab_up(h, NULL, 0), -1);
	teardown(state);
	setup(state);
	atomic_store(&h->slot->rcv_read, 1); /* more than has arrived */
	bell_ring(&h->shm->dirty[0], LAB_SLOT);
	turn(1);
	assert_int_equal(lab_up(h, &u, sizeof u), UP_APP_BAD);
	assert_int_equal(u.flow_id, LAB_APP);
	assert_int_equal(lab_up(h, NULL, 0), -1);
}

static void both_freeze_and_one_goes_on(void **state)
{
	struct flow_init i = split_init();
	struct up_frozen z;
	struct segment s;

	(void)state;
	put(2000);
	lab_send(h, (struct lab_seg){.len = 300, .stream = 2, .window = 512});
	turn(1);
	lab_read(h, 2, 100);
	put(50);
	lab_flow_command(h, CMD_FREEZE, 0, 0);
	turn(1);
	quiet();
	assert_int_equal(atomic_load(&h->slot->status), IPC_PAUSED | IPC_ST_TX_AWAY);
	assert_int_equal(atomic_load(&sender->status), IPC_PAUSED | IPC_ST_RX_AWAY);
	assert_int_equal(atomic_load(&h->slot->rcv_read), 100 | IPC_FROZEN);
	assert_int_equal(atomic_load(&sender->snd_end), 2050 | IPC_FROZEN);

	/* the receiver gets the sending half as well, in its own memory */
	i.split = false;
	i.tx_off = 65536;
	i.snd_nxt = 2000;
	i.snd_end = 2050;
	i.rcv_read = 100;
	i.rcv_end = 300;
	i.rcv_edge += 300;
	for (uint32_t k = 0; k < 2050; k++)
		h->buf[i.tx_off + k] = lab_byte(1, k);
	lab_install(h, &i, now);
	assert_int_equal(atomic_load(&h->slot->status), IPC_FAST);
	assert_int_equal(atomic_load(&h->slot->snd_end), 2050);
	assert_int_equal(atomic_load(&h->slot->rcv_read), 100);
	assert_int_equal(lab_read(h, 2, 1000), 200);
	assert_int_equal(atomic_load(&sender->status), IPC_PAUSED | IPC_ST_RX_AWAY); /* forgotten here */
	assert_true(lab_sent(h, &s) && s.seq == 2000 && s.len == 50 && s.payload[49] == lab_byte(1, 2049));

	/* and the words of a freeze are told */
	lab_flow_command(h, CMD_FREEZE, 0, 0);
	turn(1);
	assert_int_equal(lab_up(h, &z, sizeof z), UP_FROZEN);
	assert_int_equal(z.snd_end, 2050);
	assert_int_equal(z.rcv_read, 300);
}

static void what_is_impossible_is_not_installed(void **state)
{
	struct flow_init i = split_init();
	struct up_flow u;

	(void)state;
	lab_flow_command(h, CMD_REMOVE, 0, 0);
	turn(1);
	assert_int_equal(lab_up(h, NULL, 0), UP_REMOVED);
	i.tx_off = (1 << 20) - 4096; /* beyond the sender's memory, not the receiver's */
	lab_command(h, CMD_INSTALL, &i, sizeof i);
	turn(1);
	assert_int_equal(lab_up(h, &u, sizeof u), UP_FAILED);
	assert_int_equal(u.error, EINVAL);
	i.tx_off = 4096;
	i.tx_app = SENDER + 1; /* none */
	lab_command(h, CMD_INSTALL, &i, sizeof i);
	turn(1);
	assert_int_equal(lab_up(h, &u, sizeof u), UP_FAILED);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(each_is_told_what_it_has),       T(bytes_go_by_two_memories),
		T(room_wakes_the_sender),          T(ends_reach_both),
		T(the_other_half_is_out_of_reach), T(who_breaks_the_rules_is_named),
		T(both_freeze_and_one_goes_on),    T(what_is_impossible_is_not_installed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
