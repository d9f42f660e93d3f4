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

as_root() { # COMMAND...
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

need() { # PACKAGE...: install those of them that are not there
    local packages=()
    for package; do
        [ "$(dpkg-query -Wf '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || packages+=("$package")
    done
    [ ${#packages[@]} -eq 0 ] && return
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        say "cannot install packages without root. As root: apt-get install ${packages[*]}" >&2
        return 1
    fi
    say "installing ${packages[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
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

# looop lives in the user's own manager; lingering keeps that alive without a login
user_manager() {
    local me
    me=$(id -un)
    export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/run/user/$(id -u)}
    # whether a user may do that alone is up to polkit, and minimal systems have none
    [ -e "/var/lib/systemd/linger/$me" ] || loginctl --no-ask-password enable-linger "$me" 2>/dev/null ||
        as_root loginctl enable-linger "$me" ||
        say "cannot enable lingering: looop will end at logout"
    # nobody has started it when this login is older than libpam-systemd, or is none (su, cron)
    systemctl --user --quiet is-active basic.target 2>/dev/null || as_root systemctl start "user@$(id -u).service" ||
        { say "cannot start systemd for $me: log in again, then make run" >&2; return 1; }
    # the manager may be older than dbus-user-session
    [ -S "$XDG_RUNTIME_DIR/bus" ] || { systemctl --user daemon-reload && systemctl --user start dbus.socket; }
}

run_here() {
    local packages
    mapfile -t packages < <("$tree/packaging/install.sh" missing)
    need "${packages[@]}"
    user_manager
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
