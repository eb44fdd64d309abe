/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Control messages between applications, `tapas` and the service, over a SOCK_SEQPACKET
 * unix socket (place.h tells which). Every message is one struct ipc_msg; descriptors
 * travel beside it (SCM_RIGHTS). A client sends a request and, except for ADOPT,
 * UNLISTEN and PREPARE, waits for one answer. ADOPT and RETURN are answered in the slot.
 *
 * The service checks type, size and descriptors in one place (ipc_msg_check) before it
 * looks at any field; a message that fails ends that client's connection.
 */
#ifndef SERVICE_IPC_MSG_H
#define SERVICE_IPC_MSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ipc_msg_type {
	IPC_MSG_HELLO = 1, /* app: arg[0] = IPC_ABI_VERSION, text = command name */
	IPC_MSG_WELCOME,   /* svc: arg[0] = version, [1] = bytes of buffer memfd, [2] = fast threads,
			       [3] = entries of the map of words, [4] = adopt_after exchanges, [5] = adopt_after bytes,
			       [6] = app id;
			       fds: app memfd, buffer memfd, page (read-only), words map (read-only), doorbell eventfd.
			       With 0 entries there is no map, and the page once more in its place */
	IPC_MSG_REFUSED,   /* svc: arg[0] = errno, text = one line for people */
	IPC_MSG_CONTEXT,   /* app: arg[0] = context index; answer: CONTEXT with an eventfd the ringers write */
	IPC_MSG_ADOPT,     /* app: arg[0] = slot, [1] = IPC_OPT_*, [2] = context, [3] = descriptor number,
			       [4] = IPC_HALF_*, 0: both, [5] = the socket's cookie, as its number may be another's by
			       now; 0: not known; fd: the socket. Answered in the slot */
	IPC_MSG_LISTEN,    /* app: arg[0] = descriptor number; fd: the listening socket. Answer: LISTEN with
			       arg[0] = 1 if its connections may be adopted, [1] = exchanges, [2] = bytes before adoption */
	IPC_MSG_RETURN, /* app: arg[0] = slot that gets the answer, or IPC_SLOT_NONE, [1] = descriptor number, [2] = 1: the
			       slot was FAST, so there is nothing to be answered if it is not any more; fd: the socket.
			       Give the connection back to Linux, whichever process it is FAST in */
	IPC_MSG_UNLISTEN, /* app: arg[0] = descriptor number. No answer */
	IPC_MSG_PREPARE,  /* app: there is going to be an ADOPT: attach XDP. No answer, but ipc_page.ready */
	IPC_MSG_LOOK, /* app: arg[0] = slot: something has happened at the kernel socket of a local connection. No answer */
	IPC_MSG_REGION, /* app: arg[0] = id of a pair memfd (ipc_slot.rx_region); answer: REGION, [0] = id, [1] = its bytes; fd */
	IPC_MSG_ADMIN, /* tapas: text = "status", "flows", "listeners", "stats", "release ..."; answer: ADMIN, fd = memfd with JSON */
	IPC_MSG_CAPTURE, /* tapas: start; then the service sends CAPTURE frames as raw messages (struct ipc_capture) */
	IPC_MSG_TYPES
};

#define IPC_MSG_TEXT 120
#define IPC_MSG_FDS 8

struct ipc_msg {
	uint32_t magic; /* IPC_MAGIC */
	uint16_t type;  /* enum ipc_msg_type */
	uint16_t flags; /* 0 */
	uint64_t arg[8];
	char text[IPC_MSG_TEXT]; /* ends with 0 within the array */
};

/* A captured frame: this header, then len bytes of the frame, in one message. */
struct ipc_capture {
	uint64_t time_ns; /* CLOCK_REALTIME */
	uint32_t flow_id;
	uint32_t len; /* bytes that follow */
	uint32_t wire_len;
	uint32_t outgoing; /* 1: sent by us */
};

/*
 * The gate for a received message: @len bytes in @m with @nfds descriptors. @from_app: true
 * for what clients send, false for answers. Returns 0 or -EPROTO.
 */
int ipc_msg_check(const struct ipc_msg *m, size_t len, int nfds, bool from_app);

/* Send @m with @nfds descriptors. Does not block if the socket does not. Returns 0 or -errno; never raises SIGPIPE. */
int ipc_msg_send(int sock, const struct ipc_msg *m, const int *fds, int nfds);

/*
 * Receive one message. fds received go to @fds (room for IPC_MSG_FDS), their number to
 * *@nfds, close-on-exec. Returns the length, 0 at end of file, or -errno; -EPROTO, with all
 * descriptors closed, if it was truncated.
 */
int ipc_msg_recv(int sock, struct ipc_msg *m, int *fds, int *nfds, int flags);

/* Connect to the service at @path. Returns a close-on-exec descriptor or -errno. */
int ipc_connect(const char *path);

#endif
