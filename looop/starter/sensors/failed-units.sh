#!/bin/bash
# Which user units have failed, each with the InvocationID it failed in: the same unit failing again is news.
# looop's own units are left out, and those listed in reports/ignored-units, one name a line.
set -euo pipefail
export LC_ALL=C SYSTEMD_COLORS=0

ignored=${LOOOP_DATA_DIR:?}/reports/ignored-units

# unit names are ASCII and may hold a backslash (systemd.unit(5)); nothing else in them needs escaping in JSON
quote() { printf '"%s"' "${1//\\/\\\\}"; }

skip() {
  case $1 in looop.* | looop-*) return 0 ;; esac
  [[ -r $ignored ]] && grep -qxF -- "$1" "$ignored"
}

units=$(systemctl --user list-units --state=failed --plain --no-legend --no-pager --full)
failed='' detail='' count=0
while read -r unit _; do
  if [[ -z $unit ]] || skip "$unit"; then
    continue
  fi
  if ((++count > 40)); then
    continue
  fi
  invocation=$(systemctl --user show --property=InvocationID --value -- "$unit")
  result=$(systemctl --user show --property=Result --value -- "$unit")
  failed+="${failed:+,}{\"unit\":$(quote "$unit"),\"invocation\":\"${invocation//[^0-9a-f]/}\"}"
  detail+="${detail:+,}$(quote "$unit"):{\"result\":\"${result//[^a-z-]/}\"}"
done <<<"$units"

printf '{"signal":{"failed":[%s]},"detail":{"count":%d,"units":{%s}}}\n' "$failed" "$count" "$detail"
