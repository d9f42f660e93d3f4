"""Kill the pulse again and again at random moments, under load, and look for damage.

    python3 -m bench.kills 100 [SEED]      inside a machine, as the user looop is installed for

Load: a sensor offers numbered jobs, a rule runs a shell move for each (at most once), workers ask questions that
are answered meanwhile, leases are held. Afterwards every promise is checked; exit 1 if one was broken.
"""

import json
import random
import re
import select
import sys
from collections import Counter

from tests.machine.harness import Events, Journal, Pulse, fresh_pulse, looopctl, looopctl_json, processes, unit, units

RULES = """
[[rule]]
name = "job"
each = "sensors.jobs.signal"
when = "`true`"
once_per = "item"
move = { action = "run_shell", cmd = "sleep 0.2; echo {{item}} >>$LOOOP_DATA_DIR/reports/done; sleep 0.1" }
"""
SENSOR = 'n=$(cat "$LOOOP_DATA_DIR/reports/jobs"); echo "[$(seq -s, 1 "$n" | sed \'s/[0-9]*/"job-&"/g\')]"'
ASKER = """
for n in $(seq 1 1000); do
  a=$("$LOOOP_BIN" ask --prompt "question $n") || exit 3
  [ "$a" = "answer" ] || exit 4
  echo "$n" >>"$LOOOP_DATA_DIR/reports/heard-$LOOOP_SESSION_ID"
done
"""
WORKERS = 3


def broken(pulse: Pulse, journal: Journal, invocations: dict[str, str], answered: int) -> list[str]:
    """Every promise that does not hold."""
    faults = []
    done = Counter((pulse.data / "reports/done").read_text().split())
    twice = [job for job, times in done.items() if times > 1]
    if twice:
        faults.append(f"moves executed twice: {twice}")
    lines = (pulse.data / "journal.md").read_text().splitlines()
    told = Counter(match[1] for line in lines if (match := re.search(r"\[(beat-[^\]]+)\]$", line)))
    records = [json.loads(path.read_text()) for path in (pulse.data / "runs").glob("*/record.json")]
    for record in records:
        if record["state"] in ("committed", "failed", "interrupted") and told[record["run"]] != 1:
            faults.append(f"{record['run']} ({record['state']}) has {told[record['run']]} journal lines")
    interrupted = sum(record["state"] == "interrupted" for record in records)
    reported = len({e["LOOOP_RUN"] for e in journal.find(LOOOP_EVENT="tick_interrupted")})
    if interrupted != reported:
        faults.append(f"{interrupted} moves were interrupted, {reported} were reported")
    for scope, invocation in invocations.items():
        if unit(scope, "InvocationID")["InvocationID"] != invocation:
            faults.append(f"{scope} was harmed")
    heard = sum(len(path.read_text().split()) for path in (pulse.data / "reports").glob("heard-*"))
    if heard < answered - WORKERS or heard > answered:
        faults.append(f"{answered} answers were given, {heard} were heard")
    claims = [claim["state"] for claim in looopctl_json("claims")]
    if claims != ["live"] * WORKERS:
        faults.append(f"claims are {claims}")
    stray = [
        line for line in processes().values()
        if "looop" in line.split(" ", 1)[1] and "/looop.slice/" not in line.split()[0] and "bench" not in line
    ]  # fmt: skip
    if stray:
        faults.append(f"processes outside their units: {stray}")
    return faults


def run(pulse: Pulse, events: Events, journal: Journal, kills: int, chance: random.Random) -> int:
    reports = pulse.data / "reports"
    pulse.configure(f'beat_gap = 0\nshell_write_paths = ["{reports}"]\nruns_keep = 0\n')
    looopctl("goal", "write", "g", "load")
    (reports / "jobs").write_text("1\n")
    (reports / "done").write_text("")
    (pulse.data / "rules.toml").write_text(RULES)
    pulse.sensor("jobs", SENSOR)
    pulse.start()
    for n in range(WORKERS):
        looopctl("worker", "start", f"w{n}", "--command", ASKER, "ask")
        looopctl("claim", f"lease-{n}", "--session", f"w{n}")
    scopes = sorted(units("looop-worker-*.scope", "active"))
    invocations = {scope: unit(scope, "InvocationID")["InvocationID"] for scope in scopes}
    answered = 0
    for number in range(1, kills + 1):
        (reports / "jobs").write_text(f"{number + 1}\n")
        looopctl("beat", check=False)
        for ask in looopctl_json("asks"):
            answered += looopctl("answer", ask["id"], "answer", check=False).returncode == 0
        select.select([], [], [], chance.uniform(0.0, 0.6))
        before = pulse.pid
        pulse.kill()
        events.wait_for(lambda: pulse.active and pulse.pid not in (0, before))
        if number % 10 == 0:
            print(f"{number} kills", flush=True)
    events.wait_for(lambda: unit(pulse.service, "StatusText")["StatusText"].startswith("idle"))
    for ask in looopctl_json("asks"):
        answered += looopctl("answer", ask["id"], "answer", check=False).returncode == 0
    events.wait_for(lambda: len(looopctl_json("asks")) == WORKERS)
    faults = broken(pulse, journal, invocations, answered)
    jobs = len(set((reports / "done").read_text().split()))
    states = Counter(json.loads(p.read_text())["state"] for p in (pulse.data / "runs").glob("*/record.json"))
    print(f"{kills} kills, {jobs} jobs done once, runs: {dict(states)}, {answered} answers")
    for fault in faults:
        print(f"BROKEN: {fault}")
    return 1 if faults else 0


def main() -> int:
    if len(sys.argv) not in (2, 3) or not all(word.isdigit() for word in sys.argv[1:]):
        print(__doc__, file=sys.stderr)
        return 64
    seed = int(sys.argv[2]) if len(sys.argv) == 3 else random.randrange(10**6)
    print(f"seed {seed}")
    events = Events()
    try:
        with fresh_pulse(events) as pulse:
            return run(pulse, events, Journal(events), int(sys.argv[1]), random.Random(seed))
    finally:
        events.close()


if __name__ == "__main__":
    raise SystemExit(main())
