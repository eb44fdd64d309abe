/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Private to `tapas`: its commands and what they share. Exit status: 0, 1 (refused or failed), 2 (usage). */
#ifndef SERVICE_CLI_CLI_H
#define SERVICE_CLI_CLI_H

#include <jansson.h>
#include <stdbool.h>

#include "service/ipc/place.h"

#define CLI_OK 0
#define CLI_FAILED 1
#define CLI_USAGE 2

int cli_run(int argc, char **argv);
int cli_report(int argc, char **argv); /* status, flows, listeners, stats */
int cli_release(int argc, char **argv);
int cli_top(int argc, char **argv);
int cli_capture(int argc, char **argv);

/* One line on stderr, "tapas: ..." */
void cli_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* See ipc_places_connect(); *@where stays valid. */
int cli_find(const struct ipc_place **where);
/* What is wrong with that place, in one line without its end. */
const char *cli_find_error(int rc, const struct ipc_place *where);
/* Connect to the service, or say why not. Returns a descriptor or -1. */
int cli_connect(void);
/* Ask for a report. Returns NULL after having said why. */
json_t *cli_ask(const char *request);
void cli_print_flows(const json_t *flows, int rows);

#endif
