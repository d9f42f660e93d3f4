#!/bin/bash
# Install looop for the calling user, without root.
#   install.sh missing      print the Debian packages that are not there; exit 1 if there are any
#   install.sh install      programs, package and user units; also over a running looop, which is restarted
#   install.sh uninstall    stop looop and remove what was installed; the data directory stays
set -euo pipefail

tree=$(cd "$(dirname "$0")/.." && pwd)
lib=$HOME/.local/lib/looop
bin=$HOME/.local/bin
libexec=$HOME/.local/libexec/looop
units=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user
share=${XDG_DATA_HOME:-$HOME/.local/share} # bash-completion and fish look there by themselves
data=${LOOOP_DATA_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/looop}
python=/usr/bin/python3 # Debian's own: the libraries are Debian packages
# a shell without a login session (sudo, su, cron) does not know its user manager
: "${XDG_RUNTIME_DIR:=/run/user/$(id -u)}"
export XDG_RUNTIME_DIR

say() { printf 'looop: %s\n' "$*"; }

missing() {
    local package kind what none=true
    while read -r package kind what; do
        case $kind in
            command) command -v "$what" >/dev/null && continue ;;
            module) "$python" -c "import $what" 2>/dev/null && continue ;;
            file) compgen -G "$what" >/dev/null && continue ;;
            *) continue ;;
        esac
        echo "$package"
        none=false
    done < <(grep -v '^#' "$tree/packaging/depends")
    $none
}

manager() { systemctl --user "$@" 2>/dev/null; }

# A program: Debian's Python, isolated from the caller's PYTHONPATH, and one call.
launcher() {
    local flags=$1 call=$2
    printf '#!%s %s\nimport sys\n\nsys.path.insert(0, "%s")\nfrom looop.%s import main\n\nraise SystemExit(main())\n' \
        "$python" "$flags" "$lib" "$call"
}

# Write standard input to a file, in one step for whoever reads or runs it meanwhile.
put() {
    local mode=$1 file=$2
    mkdir -p "$(dirname "$file")"
    cat >"$file.new"
    chmod "$mode" "$file.new"
    mv -f "$file.new" "$file"
    echo "$file" >>"$lib/installed.new"
}

install_() {
    local packages unit
    if packages=$(missing); [ -n "$packages" ]; then
        say "cannot install: Debian packages are missing. As root:" >&2
        echo "  apt-get install $(tr '\n' ' ' <<<"$packages")" >&2
        return 1
    fi
    mkdir -p "$lib"
    rm -rf "$lib/looop.new" "$lib/looop.old" "$lib/installed.new"
    cp -R "$tree/looop" "$lib/looop.new"
    find "$lib/looop.new" -depth -name __pycache__ -exec rm -r {} +
    "$python" -m compileall -q -d "$lib/looop" "$lib/looop.new"
    if [ -e "$lib/looop" ]; then mv "$lib/looop" "$lib/looop.old"; fi
    mv "$lib/looop.new" "$lib/looop"
    rm -rf "$lib/looop.old"

    launcher -I ctl | put 755 "$bin/looopctl"
    launcher -sP pulse | put 755 "$libexec/looopd" # -sP: unlike -I, looks at PYTHONFAULTHANDLER= of the unit
    launcher -sP sense_runner | put 755 "$libexec/looop-sense"
    launcher -sP notifications.runner | put 755 "$libexec/looop-notify"
    launcher -sP notifications.desktop | put 755 "$libexec/looop-desktop"
    for unit in "$tree"/units/user/*; do
        sed "s|@LIBEXECDIR@|$libexec|g; s|@BINDIR@|$bin|g" "$unit" | put 644 "$units/$(basename "$unit")"
    done
    "$bin/looopctl" completion bash | put 644 "$share/bash-completion/completions/looopctl"
    "$bin/looopctl" completion fish | put 644 "$share/fish/vendor_completions.d/looopctl.fish"
    "$bin/looopctl" completion zsh | put 644 "$share/zsh/site-functions/_looopctl"
    if [ -e "$lib/installed" ]; then # what an earlier version had and this one has not
        { grep -Fxv -f "$lib/installed.new" "$lib/installed" || true; } | xargs -rd '\n' rm -f --
    fi
    mv "$lib/installed.new" "$lib/installed"

    say "installed $("$bin/looopctl" version | sed 's/^looop //') in $bin, $libexec, $lib and $units"
    if manager daemon-reload; then
        manager try-restart looop.service || say "looop was running and did not come back: systemctl --user status looop"
    else
        say "no user manager answers here; after the next login: systemctl --user start looop"
    fi
    if command -v zsh >/dev/null && ! grep -qs zsh/site-functions "${ZDOTDIR:-$HOME}/.zshrc"; then
        say "zsh completes looopctl with this in ~/.zshrc, before compinit: fpath+=($share/zsh/site-functions)"
    fi
    case ":$PATH:" in
        *":$bin:"*) ;;
        *) say "$bin is not on PATH: log in again, or export PATH=\"\$HOME/.local/bin:\$PATH\"" ;;
    esac
}

uninstall() {
    if [ ! -e "$lib/installed" ]; then
        say "not installed for $(id -un)"
        return 0
    fi
    manager disable --now looop.service || true
    xargs -rd '\n' rm -f -- <"$lib/installed"
    rm -rf "$lib"
    rmdir "$libexec" 2>/dev/null || true
    manager daemon-reload || true
    say "removed. What looop remembers stays in $data, its settings in ${XDG_CONFIG_HOME:-$HOME/.config}/looop"
}

case ${1:-} in
    missing) missing ;;
    install) install_ ;;
    uninstall) uninstall ;;
    *) sed -n '2,5s/^# \?//p' "$0" >&2; exit 64 ;;
esac
