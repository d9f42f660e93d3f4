"""`looopctl why` tells the story of a worker that ended badly, and of the decision that started it."""

from tests.machine.harness import Journal, Pulse, looopctl, looopctl_json

RULES = """
[[rule]]
name = "roof"
when = "!(sessions[?id=='w1'])"
journal = "the roof leaks"

[rule.move]
action = "start_worker"
id = "w1"
prompt = "Mend the roof."
command = "looopctl claim ladder; echo climbing; test -e {{prompt_file}}; exec sh -c 'kill -9 $$'"
verify = "echo the roof leaks; exit 1"
"""


def test_a_worker_and_its_run(pulse: Pulse, journal: Journal) -> None:
    pulse.configure("verify_tries = 1\n")
    pulse.data.mkdir(mode=0o700, parents=True)
    (pulse.data / "rules.toml").write_text(RULES)
    (pulse.data / "PLAYBOOK.md").write_text("Keep dry.\n")
    pulse.start()
    journal.wait("worker_verified", LOOOP_SESSION="w1")
    [worker] = looopctl_json("why", "w1")["workers"]
    assert worker["state"] == "killed" and worker["signal"] == "SIGKILL" and worker["alive"] is False
    assert worker["started_by"]["rule"] == "roof" and worker["started_by"]["reason"] == "the roof leaks"
    assert worker["verify"]["state"] == "fail" and "the roof leaks" in worker["verify"]["output"]
    assert "climbing" in worker["output"]["tail"] and worker["prompt"]["head"] == ["Mend the roof."]
    events = [entry["event"] for entry in worker["events"]]
    assert events.index("worker_started") < events.index("worker_ended") < events.index("worker_verified")
    [run] = looopctl_json("why", worker["started_by"]["run"])["runs"]
    assert run["rule"] == "roof" and run["state"] == "committed" and run["worker"] == "w1"
    assert run["why"] is not None and any("the roof leaks" in line for line in run["lines"])
    text = looopctl("why", "w1").stdout
    assert "killed by SIGKILL" in text and "the rule roof" in text


def test_what_a_command_took_is_told(pulse: Pulse) -> None:
    looopctl("run", "--reason", "work", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done")
    [name] = [folder.name for folder in (pulse.data / "runs").iterdir()]
    [run] = looopctl_json("why", f"run:{name}")["runs"]
    assert run["source"] == "human" and run["shell"]["tail"] == ["done"]
    assert run["usage"]["shell"]["cpu_s"] > 0 and run["usage"]["shell"]["how"] == "exited 0"
    peak = run["usage"]["shell"]["memory_peak"]
    assert peak is None or peak > 100_000, "systemd before 255 does not say"
    assert "by hand" in looopctl("why", name).stdout
