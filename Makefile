# SPDX-License-Identifier: GPL-2.0-or-later
# tapas: everything is built into build/ (build-SAN/ with SAN=address|undefined|thread).
#   make            the service, the command, the libraries
#   make check      lint, unit, fuzz and network tests     make check-quick   lint and unit tests
#   make demo       the firewall holding and redis faster  make bench         Linux beside tapas
#   make install    PREFIX=/usr/local DESTDIR=             make uninstall, make clean

PREFIX ?= /usr/local
SAN ?=
BUILD := build$(if $(SAN),-$(SAN))
CC ?= gcc
CLANG ?= clang
PKG_CONFIG ?= pkg-config
V ?= 0
Q := $(if $(filter 1,$(V)),,@)
say = $(if $(filter 1,$(V)),,@printf '  %-5s %s\n' $(1) $(2))

SERVICE_LIBS := libbpf libxdp liburing libmnl libnftnl jansson libsystemd libcap-ng
CLI_LIBS := jansson

CPPFLAGS += -I. -I$(BUILD)/gen -D_GNU_SOURCE
CFLAGS ?= -O2 -g
WARN := -Wall -Wextra -Werror
SANFLAGS := $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer)
ALL_CFLAGS = -std=gnu11 $(CFLAGS) $(WARN) $(SANFLAGS) -fPIC -pthread
LDFLAGS += $(SANFLAGS) -pthread

BPF_SRC := service/nic/steer.bpf.c
SERVICE_SRC := $(filter-out %.bpf.c,$(wildcard service/*.c service/base/*.c service/ipc/*.c service/wire/*.c \
	service/loop/*.c shadow/*.c service/nic/*.c service/tcp/*.c service/fast/*.c service/offload/*.c service/slow/*.c))
CLI_SRC := $(wildcard service/cli/*.c) service/ipc/msg.c service/ipc/reason.c
SHARED_SRC := service/ipc/msg.c service/ipc/reason.c service/ipc/record.c
LIB_SRC := preload/core.c preload/stream.c $(wildcard preload/api*.c) $(SHARED_SRC)
PRELOAD_SRC := $(filter-out preload/api%.c,$(wildcard preload/*.c)) $(SHARED_SRC)

objs = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
OUT := $(BUILD)/tapasd $(BUILD)/tapas $(BUILD)/libtapas.so $(BUILD)/libtapas-preload.so

all: $(OUT)

$(BUILD)/tapasd: $(call objs,$(SERVICE_SRC))
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $$($(PKG_CONFIG) --libs $(SERVICE_LIBS)) -linih -lm

$(BUILD)/tapas: $(call objs,$(CLI_SRC))
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $$($(PKG_CONFIG) --libs $(CLI_LIBS)) -lpcap

$(BUILD)/libtapas.so: $(call objs,$(LIB_SRC)) preload/tapas.map
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -shared -Wl,-soname,libtapas.so.1 -Wl,--version-script=preload/tapas.map -o $@ $(filter %.o,$^)

$(BUILD)/libtapas-preload.so: $(call objs,$(PRELOAD_SRC)) preload/preload.map
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -shared -Wl,-z,now -Wl,--version-script=preload/preload.map -o $@ $(filter %.o,$^) -ldl

# objects are made again when the flags change
FLAGS_TEXT = $(CC) $(CPPFLAGS) $(ALL_CFLAGS)
$(BUILD)/flags: FORCE
	@mkdir -p $(BUILD) && echo '$(FLAGS_TEXT)' | cmp -s - $@ || echo '$(FLAGS_TEXT)' > $@

$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/obj/service/nic/nic.o $(BUILD)/obj/service/nic/bpf.o: $(BUILD)/gen/steer.skel.h

$(BUILD)/gen/steer.skel.h: $(BPF_SRC) service/nic/bpf_abi.h service/base/flow_key.h
	@mkdir -p $(@D)
	$(call say,BPF,$<)
	$(Q)$(CLANG) -O2 -g -target bpf -mcpu=v3 -Wall -Werror -I. -I/usr/include/$$($(CC) -dumpmachine) -c -o $(BUILD)/gen/steer.bpf.o $<
	$(Q)PATH=$$PATH:/usr/sbin bpftool gen skeleton $(BUILD)/gen/steer.bpf.o name steer > $@.tmp && mv $@.tmp $@

FORCE:
clean:
	rm -rf build build-address build-undefined build-thread
.PHONY: all clean FORCE

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
