# SPDX-License-Identifier: GPL-2.0-or-later
# tapas: everything is built into build/ (build-SAN/ with SAN=address|undefined|thread).
#   make            the service, the command, the libraries
#   make check      lint, unit, fuzz and network tests     make check-quick   lint and unit tests
#   make check-apps  many real programs, at length
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
SANFLAGS := $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer) $(if $(filter thread,$(SAN)),-Wno-tsan)
ALL_CFLAGS = -std=gnu11 $(CFLAGS) $(WARN) $(SANFLAGS) -fPIC -fvisibility=hidden -pthread
LDFLAGS += $(SANFLAGS) -pthread

BPF_SRC := service/nic/steer.bpf.c
SERVICE_SRC := $(filter-out %.bpf.c service/base/image.c,$(wildcard service/*.c service/base/*.c service/ipc/*.c service/wire/*.c \
	service/loop/*.c shadow/*.c service/nic/*.c service/tcp/*.c service/fast/*.c service/offload/*.c service/slow/*.c))
CLI_SRC := $(wildcard service/cli/*.c) service/base/image.c service/ipc/msg.c service/ipc/place.c service/ipc/reason.c
SHARED_SRC := service/ipc/msg.c service/ipc/place.c service/ipc/reason.c service/ipc/record.c
LIB_SRC := preload/core.c preload/stream.c preload/user.c $(wildcard preload/api*.c) $(SHARED_SRC)
PRELOAD_SRC := $(filter-out preload/api%.c,$(wildcard preload/*.c)) service/base/image.c $(SHARED_SRC)

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
	@ln -sf libtapas.so $@.1

$(BUILD)/libtapas-preload.so: $(call objs,$(PRELOAD_SRC)) preload/preload.map
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -shared -Wl,-z,now -Wl,--wrap=syscall -Wl,--version-script=preload/preload.map -o $@ $(filter %.o,$^) -ldl

# objects are made again when the flags change
# where Debian keeps asm/types.h, which clang -target bpf does not look for
MULTIARCH := $(patsubst %/asm/types.h,%,$(firstword $(wildcard /usr/include/*-linux-gnu*/asm/types.h)))
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
	$(Q)$(CLANG) -O2 -g -target bpf -mcpu=v3 -Wall -Werror -I. -I$(MULTIARCH) -c -o $(BUILD)/gen/steer.bpf.o $<
	$(Q)PATH=$$PATH:/usr/sbin bpftool gen skeleton $(BUILD)/gen/steer.bpf.o > $@.tmp && mv $@.tmp $@

# ---- tests ----

# A unit test names the sources it links in a comment `links:`, and further libraries in `libs:`.
TEST_SRC := $(wildcard tests/unit/test_*.c)
TESTS := $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(TEST_SRC))
FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)
FUZZERS := $(patsubst tests/fuzz/%.c,$(BUILD)/tests/fuzz/%,$(FUZZ_SRC))
FUZZ_SECONDS ?= 5
links = $(shell sed -n 's,^/\* links: *\(.*\) *\*/.*,\1,p' $(1))
libs = $(shell sed -n 's,^/\* libs: *\(.*\) *\*/.*,\1,p' $(1))

define unit_rule
$(BUILD)/tests/unit/$(1): $(BUILD)/obj/tests/unit/$(1).o $(call objs,$(call links,tests/unit/$(1).c))
	@mkdir -p $$(@D)
	$$(call say,LINK,$$@)
	$$(Q)$$(CC) $$(LDFLAGS) -o $$@ $$^ -lcmocka $(call libs,tests/unit/$(1).c) -lm
endef
$(foreach t,$(TEST_SRC),$(eval $(call unit_rule,$(basename $(notdir $(t))))))

define fuzz_rule
$(BUILD)/tests/fuzz/$(1): tests/fuzz/$(1).c $(call links,tests/fuzz/$(1).c)
	@mkdir -p $$(@D)
	$$(call say,FUZZ,$$@)
	$$(Q)$$(CLANG) $$(CPPFLAGS) -std=gnu11 -O1 -g $$(WARN) -fsanitize=fuzzer,address,undefined \
		-fno-sanitize-recover=undefined -o $$@ $$(filter %.c,$$^) $(call libs,tests/fuzz/$(1).c)
endef
$(foreach t,$(FUZZ_SRC),$(eval $(call fuzz_rule,$(basename $(notdir $(t))))))

FAKE := $(BUILD)/tests/unit/fake_service
$(FAKE): $(call objs,tests/unit/fake_service.c $(SHARED_SRC))
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^

# The interposition library linked into a program that uses it from many threads: ThreadSanitizer sees both.
HAMMER := $(BUILD)/tests/unit/hammer
HAMMER_SECONDS ?= 6
$(HAMMER): $(call objs,tests/unit/hammer.c $(filter-out preload/libc.c,$(PRELOAD_SRC)))
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -Wl,--wrap=syscall -o $@ $^ -ldl
hammer: $(HAMMER) build/tests/unit/fake_service
	@timeout 240 $(HAMMER) build/tests/unit/fake_service $(HAMMER_SECONDS)
tsan: build/tests/unit/fake_service
	@TSAN_OPTIONS=exitcode=66:history_size=4 $(MAKE) SAN=thread hammer

unit: $(TESTS) $(FAKE) all
	@BUILD=$(BUILD) sh tests/unit/run.sh $(TESTS)

fuzz: $(FUZZERS)
	@for f in $(FUZZERS); do echo "== $$(basename $$f)"; mkdir -p $(BUILD)/corpus/$$(basename $$f); \
		$$f -max_total_time=$(FUZZ_SECONDS) -timeout=5 -rss_limit_mb=1024 -verbosity=0 -print_final_stats=1 \
		$(BUILD)/corpus/$$(basename $$f) $$(ls -d tests/fuzz/corpus/$$(basename $$f) 2>/dev/null) 2>&1 | \
		grep -E 'number_of_executed|ERROR|SUMMARY|runtime error' ; \
		test $$(ls crash-* leak-* timeout-* oom-* 2>/dev/null | wc -l) -eq 0 || exit 1; done

# helpers of the network tests and the bench
LOWLEVEL := $(BUILD)/tests/net/lowlevel # stands on libtapas
TOOLS := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/net/*.c tests/bench/*.c)) $(BUILD)/tests/bench/xload
$(BUILD)/tests/net/%: tests/net/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,TOOL,$@)
	$(Q)$(CC) $(filter-out -D_GNU_SOURCE,$(CPPFLAGS)) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $<
$(BUILD)/tests/net/hostile_app $(BUILD)/tests/net/hostile_local $(BUILD)/tests/net/hostile_talk: tests/net/hostile.h service/ipc/abi.h service/ipc/msg.h
$(LOWLEVEL): tests/net/lowlevel.c $(BUILD)/libtapas.so $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,TOOL,$@)
	$(Q)$(CC) $(filter-out -D_GNU_SOURCE,$(CPPFLAGS)) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $< $(BUILD)/libtapas.so '-Wl,-rpath,$$ORIGIN/../..'
$(BUILD)/tests/bench/%: tests/bench/%.c tests/bench/hist.h $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,TOOL,$@)
	$(Q)$(CC) $(filter-out -D_GNU_SOURCE,$(CPPFLAGS)) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $<
# conversations whose every byte is known
TALK := $(BUILD)/tests/net/talk
$(TALK): $(call objs,$(wildcard tests/net/talk/*.c))
	@mkdir -p $(@D)
	$(call say,TOOL,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^
TOOLS += $(TALK)
# random socket operations between processes of this host
OPS := $(BUILD)/tests/local/ops
$(OPS): $(call objs,$(wildcard tests/local/ops*.c))
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^
TOOLS += $(OPS)
XLOAD_SRC := $(wildcard tests/bench/xload/*.c)
$(call objs,$(XLOAD_SRC)): CPPFLAGS := -I.
$(BUILD)/tests/bench/xload: $(call objs,$(XLOAD_SRC))
	@mkdir -p $(@D)
	$(call say,TOOL,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lbpf -lm
# the cases of tests/posix: the program, its peer, and what it execs, also as a static image
POSIX_SRC := $(filter-out %/peer.c %/image.c,$(wildcard tests/posix/*.c))
# wrong arguments are what they are about
$(call objs,$(POSIX_SRC)): WARN += -Wno-unknown-warning-option -Wno-nonnull -Wno-stringop-overflow -Wno-stringop-overread
POSIX_OUT := $(addprefix $(BUILD)/tests/net/posix_,cases peer image image_static)
$(BUILD)/tests/net/posix_cases: $(call objs,$(POSIX_SRC))
$(BUILD)/tests/net/posix_peer: $(call objs,tests/posix/peer.c tests/posix/pattern.c)
$(BUILD)/tests/net/posix_image: $(call objs,tests/posix/image.c tests/posix/pattern.c)
$(BUILD)/tests/net/posix_image_static: $(call objs,tests/posix/image.c tests/posix/pattern.c)
$(POSIX_OUT):
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(if $(filter %_static,$@),$(filter-out $(SANFLAGS),$(LDFLAGS)) -static,$(LDFLAGS)) -o $@ $^ -ldl
TOOLS += $(POSIX_OUT)
tools: $(TOOLS)
# what the cases do on Linux and on tapas, as a table
posix-table: all tools
	@TAPAS_BUILD=$(abspath $(BUILD)) /usr/bin/python3 tests/posix/compare.py -o tests/POSIX.md

net: all tools $(FAKE)
	@TAPAS_BUILD=$(abspath $(BUILD)) /usr/bin/python3 -m pytest -q -p no:cacheprovider tests/net tests/unit $(PYTEST_ARGS)

# whole programs: their figures are left in build/apps.json, those of CPython's test suites in build/suites.json;
# check-apps takes longer, in both modes, and makes a table of each
apps: all tools
	@TAPAS_BUILD=$(abspath $(BUILD)) /usr/bin/python3 -m pytest -q -p no:cacheprovider tests/apps $(PYTEST_ARGS)
check-apps: setup
	@rm -f $(BUILD)/apps.json $(BUILD)/suites.json
	@TAPAS_FULL=1 $(MAKE) apps; status=$$?; \
		/usr/bin/python3 tests/apps/table.py $(BUILD)/apps.json > tests/APPS.md; \
		/usr/bin/python3 tests/apps/suite_table.py $(BUILD)/suites.json > tests/SUITES.md; exit $$status

# ---- lint ----

C_FILES := $(shell git ls-files '*.c' '*.h' 2>/dev/null)
MAN := $(wildcard man/*.[1-9])
CLANG_FORMAT ?= clang-format-14
lint:
	@echo "== clang-format"; $(CLANG_FORMAT) --dry-run -Werror $(C_FILES)
	@echo "== cppcheck"; cppcheck -q --std=c11 --enable=warning,portability --inline-suppr --error-exitcode=1 \
		--suppressions-list=tests/lint/cppcheck.txt -D__x86_64__ -D__cppcheck__ \
		'-DLIBBPF_OPTS(t,n,...)=struct t n = {__VA_ARGS__}' -I. $(filter %.c,$(filter-out %.bpf.c,$(C_FILES)))
	@echo "== imports"; /usr/bin/python3 tests/lint/imports.py
	@echo "== manual pages"; mandoc -Tlint -W warning $(MAN)
	@echo "== words"; sh tests/lint/words.sh

# One after another: the network tests have the machine to themselves.
check-quick:
	@$(MAKE) lint
	@$(MAKE) unit
check: setup
	@$(MAKE) all tools
	@$(MAKE) all tools CC=$(CLANG) BUILD=build-clang
	@$(MAKE) lint
	@$(MAKE) unit
	@$(MAKE) tsan
	@$(MAKE) fuzz
	@$(MAKE) net
	@$(MAKE) apps
	@echo "all checks passed"

# The same under AddressSanitizer and UBSan: unit tests whole, network tests with the service instrumented (the
# library is loaded into programs that are not, so it has its run in the unit tests' build).
ASAN_ENV := ASAN_OPTIONS=detect_leaks=1:abort_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
check-san: all tools
	@$(ASAN_ENV) $(MAKE) SAN=address unit
	@$(ASAN_ENV) $(MAKE) SAN=undefined unit
	@$(MAKE) SAN=address,undefined BUILD=build-san build-san/tapasd
	@mkdir -p build-san/tests/net
	@cp -f build/tapas build/libtapas.so build/libtapas-preload.so build-san/
	@mkdir -p build-san/tests/local && cp -f build/tests/local/ops build-san/tests/local/
	@cp -f build/tests/net/* build-san/tests/net/ && ln -sf libtapas.so build-san/libtapas.so.1
	@$(ASAN_ENV) TAPAS_BUILD=$(abspath build-san) /usr/bin/python3 -m pytest -q -p no:cacheprovider tests/net \
		--deselect tests/net/test_idle.py $(PYTEST_ARGS)
	@mkdir -p build-address/tests/net && cp -f build/tests/net/* build-address/tests/net/
	@ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 TAPAS_BUILD=$(abspath build-address) \
		TAPAS_ASAN_LIBRARY=$$(readlink -f $$($(CC) -print-file-name=libasan.so)) \
		/usr/bin/python3 -m pytest -q -p no:cacheprovider tests/apps $(PYTEST_ARGS)

setup:
	@sh tests/setup.sh
demo: setup
	@$(MAKE) all tools
	@bash tests/demo.sh
bench: setup
	@$(MAKE) all tools
	@/usr/bin/python3 tests/bench/bench.py
	@/usr/bin/python3 tests/bench/commands.py

# ---- installation ----

LIBDIR ?= $(PREFIX)/lib
MANDIR ?= $(PREFIX)/share/man
USERUNITDIR ?= $(PREFIX)/lib/systemd/user
UNITDIR ?= $(if $(filter /usr,$(PREFIX)),/lib,$(PREFIX)/lib)/systemd/system
install: all
	install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(LIBDIR) $(DESTDIR)$(PREFIX)/include \
		$(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(MANDIR)/man3 $(DESTDIR)$(MANDIR)/man5 $(DESTDIR)$(MANDIR)/man8 \
		$(DESTDIR)$(UNITDIR) $(DESTDIR)$(USERUNITDIR) $(DESTDIR)$(PREFIX)/lib/sysusers.d $(DESTDIR)$(PREFIX)/lib/tmpfiles.d $(DESTDIR)/etc/tapas
	install -m 755 $(BUILD)/tapasd $(DESTDIR)$(PREFIX)/sbin/
	install -m 755 $(BUILD)/tapas $(DESTDIR)$(PREFIX)/bin/
	install -m 755 $(BUILD)/libtapas.so $(DESTDIR)$(LIBDIR)/libtapas.so.1
	ln -sf libtapas.so.1 $(DESTDIR)$(LIBDIR)/libtapas.so
	install -m 755 $(BUILD)/libtapas-preload.so $(DESTDIR)$(LIBDIR)/
	install -m 644 preload/tapas.h $(DESTDIR)$(PREFIX)/include/
	for m in $(MAN); do install -m 644 $$m $(DESTDIR)$(MANDIR)/man$${m##*.}/ || exit 1; done
	sed 's,@SBINDIR@,$(PREFIX)/sbin,' systemd/tapasd.service > $(DESTDIR)$(UNITDIR)/tapasd.service
	sed 's,@SBINDIR@,$(PREFIX)/sbin,' systemd/tapas-local.service > $(DESTDIR)$(USERUNITDIR)/tapas-local.service
	install -m 644 systemd/tapas.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/tapas.conf
	install -m 644 systemd/tapas.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/tapas.conf
	test -e $(DESTDIR)/etc/tapas/tapas.conf || install -m 644 conf/tapas.conf $(DESTDIR)/etc/tapas/
uninstall:
	rm -f $(DESTDIR)$(PREFIX)/sbin/tapasd $(DESTDIR)$(PREFIX)/bin/tapas $(DESTDIR)$(LIBDIR)/libtapas.so \
		$(DESTDIR)$(LIBDIR)/libtapas.so.1 $(DESTDIR)$(LIBDIR)/libtapas-preload.so $(DESTDIR)$(PREFIX)/include/tapas.h \
		$(foreach m,$(MAN),$(DESTDIR)$(MANDIR)/man$(subst .,,$(suffix $(m)))/$(notdir $(m))) \
		$(DESTDIR)$(UNITDIR)/tapasd.service $(DESTDIR)$(USERUNITDIR)/tapas-local.service \
		$(DESTDIR)$(PREFIX)/lib/sysusers.d/tapas.conf \
		$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/tapas.conf

FORCE:
clean:
	rm -rf build build-address build-undefined build-thread build-san
.PHONY: all unit hammer tsan fuzz net apps check-apps lint check check-quick check-san setup demo bench tools posix-table install uninstall clean FORCE

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
