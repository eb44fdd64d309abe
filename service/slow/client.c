/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control socket: applications that register, `tapas` that asks. Every message passes
 * ipc_msg_check() before a field of it is used; a client that sends anything else loses its
 * connection, and nobody else notices.
 */
#include "service/slow/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "service/base/addr.h"
#include "service/base/closer.h"
#include "service/base/log.h"

#define CLIENT_BATCH 16
#define CLIENT_RESERVE 32  /* places that only root may take: `tapas` must be heard */
#define CLIENT_BACKLOG 256 /* descriptors that wait to be closed: more are not taken */

static int client_answer(struct client *cl, const struct ipc_msg *m, const int *fds, int nfds)
{
	int rc = ipc_msg_send(cl->sock, m, fds, nfds);

	return rc == -EAGAIN ? -EPROTO : rc; /* it does not read its answers */
}

static int client_refuse(struct client *cl, int err, const char *text)
{
	struct ipc_msg m = {.magic = IPC_MAGIC, .type = IPC_MSG_REFUSED, .arg = {(uint64_t)err}};

	snprintf(m.text, sizeof m.text, "%s", text);
	return client_answer(cl, &m, NULL, 0);
}

static int client_hello(struct slow *s, struct client *cl, const struct ipc_msg *in)
{
	struct ipc_msg m = {.magic = IPC_MAGIC, .type = IPC_MSG_WELCOME};
	int err = 0, words = nic_words_fd(s->env.nic);
	struct app *a;

	if (cl->app)
		return -EPROTO;
	if (in->arg[0] != IPC_ABI_VERSION) {
		snprintf(m.text, sizeof m.text,
			 "library speaks version %u, service %u: restart the program after the upgrade",
			 (unsigned)in->arg[0], IPC_ABI_VERSION);
		return client_refuse(cl, EPROTO, m.text);
	}
	if (s->stopping)
		return client_refuse(cl, ESHUTDOWN, "the service is stopping");
	a = app_new(s, cl, in->text, &err);
	if (!a)
		return client_refuse(cl, -err,
				     err == -EUSERS ? "too many applications: raise max_apps in tapas.conf"
						    : "no memory for another application");
	cl->app = a;
	m.arg[0] = IPC_ABI_VERSION;
	m.arg[1] = a->buf_size;
	m.arg[2] = fast_threads(s->env.fast);
	m.arg[3] = words >= 0 ? s->max_conns : 0;
	m.arg[4] = s->cfg->accelerate ? s->cfg->adopt_exchanges : UINT32_MAX;
	m.arg[5] = s->cfg->accelerate ? s->cfg->adopt_bytes : UINT64_MAX;
	m.arg[6] = a->index;
	return client_answer(cl, &m,
			     (int[]){a->shm_fd, a->buf_fd, s->env.page_fd, words >= 0 ? words : s->env.page_fd,
				     a->doorbell_fd},
			     5);
}

static const struct config_port *client_port_policy(const struct slow *s, uint16_t port)
{
	for (unsigned i = 0; i < s->cfg->ports; i++)
		if (s->cfg->port[i].port == port)
			return &s->cfg->port[i];
	return NULL;
}

/*
 * Our duplicate of a listener goes before the application hears from us: it may close its own and bind anew at once. No
 * closing of a listener sleeps.
 */
static void client_listener_close(int *fd)
{
	int listens = 0;
	socklen_t len = sizeof listens;

	if (getsockopt(*fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) || !listens)
		return;
	close(*fd);
	*fd = -1;
}

static int client_listener(struct slow *s, struct client *cl, const struct ipc_msg *in, int *fd)
{
	struct ipc_msg m = {.magic = IPC_MAGIC, .type = IPC_MSG_LISTEN};
	struct sockaddr_storage ss;
	socklen_t len = sizeof ss;
	struct listener *l = NULL;
	struct slow_listener_info info = {.pid = cl->pid, .fd = (int)in->arg[0]};
	const struct config_port *p;
	uint16_t port_be;

	if (getsockname(*fd, (struct sockaddr *)&ss, &len) || ip_addr_from_sockaddr(&ss, &info.addr, &port_be))
		return -EPROTO;
	client_listener_close(fd);
	info.port = ntohs(port_be);
	p = client_port_policy(s, info.port);
	info.accelerate = p ? p->accelerate : s->cfg->accelerate;
	info.exchanges = p ? p->adopt_exchanges : s->cfg->adopt_exchanges;
	info.bytes = p ? p->adopt_bytes : s->cfg->adopt_bytes;
	memcpy(info.command, cl->app->command, sizeof info.command);
	for (uint32_t i = 0; i < SLOW_LISTENERS; i++)
		if (s->listeners[i].app == cl->app && s->listeners[i].fd == info.fd)
			l = &s->listeners[i];
	for (uint32_t i = 0; i < SLOW_LISTENERS && !l; i++)
		if (!s->listeners[i].app)
			l = &s->listeners[i];
	if (l)
		*l = (struct listener){.app = cl->app, .fd = info.fd, .info = info};
	m.arg[0] = info.accelerate;
	m.arg[1] = info.exchanges;
	m.arg[2] = info.bytes;
	return client_answer(cl, &m, NULL, 0);
}

static int client_context(struct slow *s, struct client *cl, const struct ipc_msg *in)
{
	struct ipc_msg m = {.magic = IPC_MAGIC, .type = IPC_MSG_CONTEXT, .arg = {in->arg[0]}};
	int fd;

	if (in->arg[0] >= IPC_CONTEXTS)
		return -EPROTO;
	fd = app_context(s, cl->app, (uint32_t)in->arg[0]);
	if (fd < 0)
		return client_refuse(cl, -fd, "no descriptor left for another context");
	return client_answer(cl, &m, &fd, 1);
}

static int client_region(struct slow *s, struct client *cl, const struct ipc_msg *in)
{
	struct ipc_msg m = {.magic = IPC_MAGIC, .type = IPC_MSG_REGION, .arg = {in->arg[0]}};
	int fd = in->arg[0] <= UINT32_MAX ? pair_memory(s, cl->app, (uint32_t)in->arg[0], &m.arg[1]) : -EPROTO;

	if (fd == -EPROTO)
		return fd;
	if (fd < 0) /* it has gone meanwhile, perhaps */
		return client_refuse(cl, -fd, "no such memory");
	return client_answer(cl, &m, &fd, 1);
}

static int client_adopt(struct slow *s, struct client *cl, const struct ipc_msg *in, int *fd)
{
	struct leave_for to = {.app = cl->app};
	uint64_t halves = in->arg[4];
	int own;

	if (in->arg[0] >= IPC_SLOTS || in->arg[2] >= IPC_CONTEXTS || cl->app->slot_conn[in->arg[0]] != SLOW_NONE ||
	    in->arg[3] > INT_MAX || halves & ~(uint64_t)(IPC_HALVES | IPC_HALF_BACK))
		return -EPROTO;
	if (!(halves & IPC_HALVES))
		halves |= IPC_HALVES;
	to.slot = (uint32_t)in->arg[0];
	to.opts = (uint32_t)in->arg[1];
	to.context = (uint32_t)in->arg[2];
	to.app_fd = (int)in->arg[3];
	to.halves = (uint32_t)halves;
	own = *fd;
	*fd = -1; /* the transaction's now */
	if (in->arg[5] && sock_cookie(own) != in->arg[5])
		adopt_mistaken(s, &to, own);
	else
		adopt_begin(s, &to, own);
	return 0;
}

static int client_return(struct slow *s, struct client *cl, const struct ipc_msg *in, int fd)
{
	struct leave_for asker = {.app = cl->app, .app_fd = (int)in->arg[1]};
	uint32_t conn;
	bool is_own;

	if (in->arg[0] == IPC_SLOT_NONE) { /* a child that has the control socket from its parent, and no slot */
		leave_asked(s, NULL, fd);
		return 0;
	}
	if (in->arg[0] >= IPC_SLOTS || in->arg[1] > INT_MAX)
		return -EPROTO;
	asker.slot = (uint32_t)in->arg[0];
	conn = cl->app->slot_conn[asker.slot];
	is_own = conn != SLOW_NONE && conn_is_slot(&s->conns[conn], cl->app, asker.slot);
	if (in->arg[2] == 1 && !is_own)
		return 0; /* it has been told already, and may have asked for something else in this slot */
	if (conn != SLOW_NONE && !is_own)
		return -EPROTO; /* it waits for something else already */
	leave_asked(s, &asker, fd);
	return 0;
}

/* A hint: the slot may be another connection's by now. */
static int client_look(struct slow *s, struct client *cl, const struct ipc_msg *in)
{
	uint32_t conn;

	if (in->arg[0] >= IPC_SLOTS)
		return -EPROTO;
	conn = cl->app->slot_conn[in->arg[0]];
	if (conn != SLOW_NONE && s->conns[conn].local && s->conns[conn].state == CONN_FAST)
		local_look(s, &s->conns[conn]);
	return 0;
}

static int client_admin(struct slow *s, struct client *cl, const struct ipc_msg *in)
{
	struct ipc_msg m = {.magic = IPC_MAGIC, .type = IPC_MSG_ADMIN};
	size_t len, done = 0;
	char *json;
	int fd, rc;

	if (!strncmp(in->text, "release", 7) && cl->uid != 0 && cl->uid != geteuid())
		return client_refuse(cl, EPERM, "giving back other people's connections needs root");
	json = s->admin(s->admin_ctx, in->text);
	if (!json)
		return client_refuse(cl, EINVAL, "the service does not know this request");
	len = strlen(json);
	fd = memfd_create("tapas-report", MFD_CLOEXEC);
	while (fd >= 0 && done < len) {
		ssize_t n = write(fd, json + done, len - done);

		if (n <= 0)
			break;
		done += (size_t)n;
	}
	free(json);
	if (fd < 0 || done < len) {
		if (fd >= 0)
			close(fd);
		return client_refuse(cl, ENOMEM, "no memory for the report");
	}
	m.arg[0] = len;
	rc = client_answer(cl, &m, &fd, 1);
	close(fd);
	return rc;
}

static int client_capture_start(struct slow *s, struct client *cl)
{
	struct ipc_msg m = {.magic = IPC_MAGIC, .type = IPC_MSG_CAPTURE};
	struct cmd_flow on = {.flow_id = SLOW_NONE, .value = 1};

	if (cl->uid != 0 && cl->uid != geteuid())
		return client_refuse(cl, EPERM, "capturing other people's connections needs root");
	if (!cl->capture && !s->captures++)
		for (uint32_t t = 0; t < fast_threads(s->env.fast); t++)
			down_send(s, t, CMD_CAPTURE, &on, sizeof on);
	cl->capture = true;
	return client_answer(cl, &m, NULL, 0);
}

/* The socket and its directory are closed to other users already; descriptors and memory are not given to chance. */
static bool client_is_permitted(const struct slow *s, const struct client *cl)
{
	return !s->cfg->local_only || !geteuid() || !cl->uid || cl->uid == geteuid();
}

static int client_message(struct slow *s, struct client *cl, const struct ipc_msg *m, int *fds)
{
	if (!client_is_permitted(s, cl)) {
		client_refuse(cl, EPERM, "this service is for the user who has started it: start one of your own");
		return -EPERM;
	}
	switch (m->type) {
	case IPC_MSG_HELLO:
		return client_hello(s, cl, m);
	case IPC_MSG_ADMIN:
		return client_admin(s, cl, m);
	case IPC_MSG_CAPTURE:
		return client_capture_start(s, cl);
	default:
		break;
	}
	if (!cl->app)
		return -EPROTO;
	switch (m->type) {
	case IPC_MSG_CONTEXT:
		return client_context(s, cl, m);
	case IPC_MSG_REGION:
		return client_region(s, cl, m);
	case IPC_MSG_ADOPT:
		return client_adopt(s, cl, m, &fds[0]);
	case IPC_MSG_RETURN:
		return client_return(s, cl, m, fds[0]);
	case IPC_MSG_LISTEN:
		return client_listener(s, cl, m, &fds[0]);
	case IPC_MSG_UNLISTEN:
		for (uint32_t i = 0; i < SLOW_LISTENERS; i++)
			if (s->listeners[i].app == cl->app && s->listeners[i].fd == (int)m->arg[0])
				s->listeners[i].app = NULL;
		return 0;
	case IPC_MSG_LOOK:
		return client_look(s, cl, m);
	case IPC_MSG_PREPARE:
		demand_prepare(s);
		return 0;
	default:
		return -EPROTO;
	}
}

static void client_capture_stop(struct slow *s, struct client *cl)
{
	struct cmd_flow off = {.flow_id = SLOW_NONE};

	if (cl->capture && !--s->captures)
		for (uint32_t t = 0; t < fast_threads(s->env.fast); t++)
			down_send(s, t, CMD_CAPTURE, &off, sizeof off);
	cl->capture = false;
}

/*
 * The peer learns it at once. The descriptor goes later: messages that were not read may hold
 * descriptors whose close sleeps, so the last reference must be the closer's, and the loop
 * holds one until its poll has been cancelled.
 */
void client_close(struct slow *s, struct client *cl)
{
	struct app *a = cl->app;

	if (cl->ended)
		return;
	cl->ended = 1;
	s->clients_ended = true;
	cl->app = NULL;
	cl->more = false;
	client_capture_stop(s, cl);
	shutdown(cl->sock, SHUT_RDWR);
	loop_unwatch(s->env.loop, cl->watch);
	if (a) {
		a->client = NULL;
		app_dying(s, a);
	}
}

static void client_free(struct slow *s, uint32_t i)
{
	closer_close(s->clients[i]->sock);
	free(s->clients[i]);
	s->clients[i] = NULL;
}

/* Free the clients that were ended two turns ago. */
static void client_bury(struct slow *s)
{
	if (!s->clients_ended)
		return;
	s->clients_ended = false;
	for (uint32_t i = 0; i < SLOW_CLIENTS; i++) {
		if (!s->clients[i] || !s->clients[i]->ended)
			continue;
		if (s->clients[i]->ended++ > 2)
			client_free(s, i);
		else
			s->clients_ended = true;
	}
}

/*
 * A few messages a turn, so that a client that shouts does not hold up the others, and none
 * while many adoptions run: their answers must be read first.
 */
static void client_readable(void *ctx, int revents)
{
	struct client *cl = ctx;
	struct slow *s = cl->slow;

	(void)revents;
	s->now_ns = loop_now_ns(s->env.loop);
	cl->more = false;
	for (int n = 0;; n++) {
		struct ipc_msg m;
		int fds[IPC_MSG_FDS], nfds = 0, rc;

		if (n == CLIENT_BATCH || s->count[CONN_ADOPTING] >= SLOW_ADOPTING ||
		    closer_backlog() > CLIENT_BACKLOG) {
			cl->more = s->clients_more = true;
			return;
		}
		rc = ipc_msg_recv(cl->sock, &m, fds, &nfds, MSG_DONTWAIT);

		if (rc == -EAGAIN || rc == -EINTR)
			return;
		if (rc > 0)
			rc = ipc_msg_check(&m, (size_t)rc, nfds, true);
		else if (rc == 0)
			rc = -EPIPE;
		if (!rc)
			rc = client_message(s, cl, &m, fds);
		for (int i = 0; i < nfds; i++)
			closer_close(fds[i]);
		if (!rc)
			continue;
		if (rc == -EPROTO) {
			counter_add(&s->counters, CNT_APP_DISCONNECTED, 1);
			log_info("pid %d broke the control protocol: disconnected", (int)cl->pid);
			if (cl->app)
				app_abort(s, cl->app);
		}
		client_close(s, cl);
		return;
	}
}

bool client_continue(struct slow *s)
{
	client_bury(s);
	if (!s->clients_more)
		return false;
	s->clients_more = false;
	for (uint32_t i = 0; i < SLOW_CLIENTS; i++)
		if (s->clients[i] && s->clients[i]->more)
			client_readable(s->clients[i], 0);
	return s->clients_more && s->count[CONN_ADOPTING] < SLOW_ADOPTING;
}

static void client_accept(void *ctx, int revents)
{
	struct slow *s = ctx;
	int sock;

	(void)revents;
	while ((sock = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
		struct ucred cred = {0};
		socklen_t len = sizeof cred;
		struct client *cl = NULL;
		uint32_t i = 0, most;

		most = getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) ? 0
		       : cred.uid                                             ? SLOW_CLIENTS - CLIENT_RESERVE
									      : SLOW_CLIENTS;
		while (i < most && s->clients[i])
			i++;
		if (i < most)
			cl = calloc(1, sizeof *cl);
		if (!cl) {
			closer_close(sock); /* it may hold messages already */
			continue;
		}
		*cl = (struct client){.slow = s, .sock = sock, .pid = cred.pid, .uid = cred.uid};
		cl->watch = loop_watch(s->env.loop, sock, client_readable, cl);
		if (cl->watch < 0) {
			closer_close(sock);
			free(cl);
			continue;
		}
		s->clients[i] = cl;
	}
}

static bool client_socket_alive(const struct sockaddr_un *sa)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool alive = fd >= 0 && connect(fd, (const struct sockaddr *)sa, sizeof *sa) == 0;

	if (fd >= 0)
		close(fd);
	return alive;
}

/* Only root and the configured group may connect. */
static int client_permit(struct slow *s, char *why, unsigned why_size)
{
	struct group *g = s->cfg->group[0] ? getgrnam(s->cfg->group) : NULL;

	if (s->cfg->group[0] && !g)
		log_warn("group \"%s\" does not exist: only root may use the service (systemd-sysusers makes it)",
			 s->cfg->group);
	if ((g && chown(s->socket_path, (uid_t)-1, g->gr_gid)) || chmod(s->socket_path, g ? 0660 : 0600)) {
		int err = errno;

		snprintf(why, why_size, "cannot set the permissions of %s: %s", s->socket_path, strerror(err));
		return -err;
	}
	return 0;
}

/* The socket, and nothing else that a mistaken path may name. */
static void client_unlink(struct slow *s)
{
	struct stat st;

	if (s->socket_path[0] && !lstat(s->socket_path, &st) && S_ISSOCK(st.st_mode))
		unlink(s->socket_path);
}

int client_listen(struct slow *s, char *why, unsigned why_size)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	char *slash;
	int rc;

	snprintf(s->socket_path, sizeof s->socket_path, "%s", s->cfg->socket);
	snprintf(sa.sun_path, sizeof sa.sun_path, "%s", s->cfg->socket);
	slash = strrchr(sa.sun_path, '/');
	if (slash && slash != sa.sun_path) {
		*slash = 0;
		if (mkdir(sa.sun_path, s->cfg->local_only && geteuid() ? 0700 : 0755) && errno != EEXIST) {
			rc = -errno;
			snprintf(why, why_size, "cannot make %s for the control socket: %s", sa.sun_path,
				 strerror(-rc));
			return rc;
		}
		*slash = '/';
	}
	if (client_socket_alive(&sa)) {
		snprintf(why, why_size,
			 "%s is in use by a running tapasd: stop it, or choose another socket (-s, or socket= in "
			 "tapas.conf)",
			 s->socket_path);
		s->socket_path[0] = 0;
		return -EADDRINUSE;
	}
	client_unlink(s);
	s->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->listen_fd < 0 || bind(s->listen_fd, (struct sockaddr *)&sa, sizeof sa) || listen(s->listen_fd, 128)) {
		rc = -errno;
		snprintf(why, why_size, "cannot listen on %s: %s", s->socket_path, strerror(-rc));
		return rc;
	}
	rc = client_permit(s, why, why_size);
	if (rc)
		return rc;
	s->listen_watch = loop_watch(s->env.loop, s->listen_fd, client_accept, s);
	return s->listen_watch < 0 ? s->listen_watch : 0;
}

void client_close_all(struct slow *s)
{
	if (s->listen_fd >= 0) {
		if (s->listen_watch >= 0)
			loop_unwatch(s->env.loop, s->listen_watch);
		close(s->listen_fd);
		client_unlink(s);
		s->listen_fd = -1;
	}
	for (uint32_t i = 0; i < SLOW_CLIENTS; i++)
		if (s->clients[i]) {
			client_close(s, s->clients[i]);
			client_free(s, i);
		}
}

void client_capture(struct slow *s, const struct up_frame *f)
{
	static uint8_t buf[sizeof(struct ipc_capture) + 4096];
	struct ipc_capture *h = (struct ipc_capture *)buf;
	uint32_t len = MIN(f->len, 4096u);

	*h = (struct ipc_capture){
		.time_ns = f->time_ns, .flow_id = f->flow_id, .len = len, .wire_len = f->len, .outgoing = f->outgoing};
	memcpy(buf + sizeof *h, f->data, len);
	for (uint32_t i = 0; i < SLOW_CLIENTS; i++)
		if (s->clients[i] && s->clients[i]->capture &&
		    send(s->clients[i]->sock, buf, sizeof *h + len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			counter_add(&s->counters, CNT_CAPTURE_LOST, 1);
}
