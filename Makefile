# Two commands to know: make run, make test.
TESTS ?=
SUITES ?= bookworm trixie

help:
	@echo 'make run        install looop here, start it and watch it handle a failing unit'
	@echo 'make stop       stop looop and remove that unit'
	@echo 'make install    install looop for you (programs in ~/.local/bin, user units); no root needed'
	@echo 'make uninstall  remove that again; what looop remembers stays'
	@echo 'make test       both test rings on booted Debian 12 and 13'
	@echo '                SUITES=trixie for one release, TESTS="tests/unit/test_clock.py -x" for some tests'

run stop:
	@packaging/host.sh $@

install uninstall:
	@packaging/install.sh $@

test:
	@TESTS='$(TESTS)' packaging/host.sh test $(SUITES)

.PHONY: help run stop install uninstall test
