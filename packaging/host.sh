#!/bin/bash
# What `make run`, `make stop` and `make test` do: on this system when systemd runs it, otherwise in a
# booted throw-away Debian (tests/machine/machine).
#   host.sh run | stop | test [SUITE...]
set -euo pipefail

tree=$(cd "$(dirname "$0")/.." && pwd)
machine=$tree/tests/machine/machine
demo=demo # the machine of `make run`

say() { printf 'looop: %s\n' "$*"; }
booted() { [ -d /run/systemd/system ]; } # sd_booted(3)

need() { # PACKAGE...: install those of them that are not there
    local run=() packages=()
    for package; do
        [ "$(dpkg-query -Wf '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || packages+=("$package")
    done
    [ ${#packages[@]} -eq 0 ] && return
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { say "cannot install packages without root. As root: apt-get install ${packages[*]}" >&2; return 1; }
        run=(sudo)
    fi
    say "installing ${packages[*]}"
    "${run[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${run[@]}" apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
}

# mmdebstrap checks the mirror's signature with gpgv or gpg, whichever release it is
need_machine() {
    need python3 systemd-container mmdebstrap gpg gpgv debian-archive-keyring ca-certificates
    ! booted || need dbus # machines are then scopes of this systemd
}

machine_suite() {
    local suite
    suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    case $suite in bookworm | trixie) echo "$suite" ;; *) echo trixie ;; esac
}

run_here() {
    local packages
    mapfile -t packages < <("$tree/packaging/install.sh" missing)
    need "${packages[@]}"
    # looop lives in the user's own manager; lingering keeps that alive without a login
    [ -e "/var/lib/systemd/linger/$(id -un)" ] || loginctl enable-linger "$(id -un)" ||
        say "cannot enable lingering: looop will end at logout"
    export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/run/user/$(id -u)}
    if [ "$(id -u)" = 0 ]; then systemctl start user@0.service; fi
    "$tree/packaging/install.sh" install
    export PATH=$HOME/.local/bin:$PATH
    /usr/bin/python3 "$tree/packaging/demo.py" run
}

run_machine() {
    say "systemd does not run this system: looop runs in a booted $(machine_suite) machine named $demo instead"
    need_machine
    "$machine" list | grep -q "^$demo"$'\t' || "$machine" start "$(machine_suite)" "$demo"
    "$machine" sh "$demo" -u 'rm -rf ~/looop && cp -R /src ~/looop && make -C ~/looop --no-print-directory run'
    say "looop goes on in the machine. Look around: tests/machine/machine shell $demo     End it: make stop"
}

stop_here() {
    export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/run/user/$(id -u)} PATH=$HOME/.local/bin:$PATH
    /usr/bin/python3 "$tree/packaging/demo.py" stop
}

case ${1:-} in
    run) if booted; then run_here; else run_machine; fi ;;
    stop) if booted; then stop_here; else "$machine" stop "$demo"; fi ;;
    test) need_machine; shift; exec "$tree/tests/machine/run" "$@" ;;
    *) sed -n '2,4s/^# \?//p' "$0" >&2; exit 64 ;;
esac
