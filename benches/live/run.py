#!/usr/bin/env python3
"""Live at a fixed rate: `run.py --binary BIN --out DIR [--rate 20000] [--users 1000000] [--seconds 60]
[--swap-after 30]`.

    tagloom gen --rate R --users N | tagloom run --source consume=- (portrait catalogue, embedded store)

The dimension tables of N users are loaded first and not counted; no user has a profile at first.
The lag is from the end of a window (its cut) to the moment when all profiles that it changed are
stored durably: they are stored together, so this is the lag of the last one. `run` tells it in a
line of its log for each window. Percentiles are over users: each has the lag of its window. Windows
that close when the input has ended are left out. Appends a line of JSON to DIR/live.jsonl.

With `--swap-after S` one cut of one rule changes after S seconds (in a copy of the catalogue, which the
engine watches); the result then says how long sources were held, and counts the rows that were lost.
Standard library only.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from datetime import datetime

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
import measured  # noqa: E402  (in the folder above)

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
STORED = re.compile(r"^(\S+Z)\s.*window stored.*?window=(\d+).*?users=(\d+).*?lag_ms=([0-9.]+)")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# The first seconds compile rules and load tables.
START_S = 5
SWAPPED = re.compile(r"^(\S+Z)\s.*another catalogue is active.*?held_ms=([0-9.]+)")


def cpu_of(pid):
    """CPU seconds of a running process so far."""
    with open("/proc/%d/stat" % pid) as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def told(lines, what):
    """When, and the other groups, for each line of the log that matches."""
    for line in lines:
        match = what.match(COLOURS.sub("", line).strip())
        if match:
            at, *rest = match.groups()
            yield datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp(), rest


def windows_of(lines):
    """(when it was stored, users, lag) for each window that the log tells."""
    return [(at, int(users), float(lag_ms)) for at, (_, users, lag_ms) in told(lines, STORED)]


def change_a_rule(catalog):
    """Moves one cut of the first rule with bands."""
    path = os.path.join(catalog, "rules", "00_tags.yaml")
    with open(path) as file:
        rules = file.read()
    changed, cuts = re.subn(r"cuts: \[(\d+)", lambda m: "cuts: [%d" % (int(m.group(1)) - 1), rules, count=1)
    assert cuts == 1, "no rule with cuts in " + path
    # Whole or not at all, as an editor does it.
    with open(path + ".new", "w") as file:
        file.write(changed)
    os.rename(path + ".new", path)


def percentile_ms(windows, share):
    """The lag that this share of the users does not exceed."""
    left = share * sum(users for _, users, _ in windows)
    for _, users, lag_ms in sorted(windows, key=lambda w: w[2]):
        left -= users
        if left <= 0:
            break
    return lag_ms


def load_tables(arguments, settings):
    """One row for most users, as `gen` makes them."""
    folder = os.path.join(arguments.out, "tables-%d" % arguments.users)
    if not os.path.exists(os.path.join(folder, "manifest.json")):
        subprocess.run([arguments.binary, "gen", "--out", folder, "--users", str(arguments.users), "--events", "1"],
                       check=True, stdout=subprocess.DEVNULL)
    for table in ("user_dim", "city_dim"):
        subprocess.run([arguments.binary, "dims", "load", table, os.path.join(folder, table + ".csv"), *settings],
                       check=True, stdout=subprocess.DEVNULL)


def live(arguments, settings):
    """Runs generator and engine for the time asked for."""
    environment = {**os.environ, "NO_COLOR": "1", "TAGLOOM_LOG": "warn,tagloom::engine::checkpoint=debug"}
    log_path = os.path.join(arguments.out, "live.log")
    out_path = os.path.join(arguments.out, "live.out")
    generate = [arguments.binary, "gen", "--rate", str(arguments.rate), "--users", str(arguments.users)]
    if arguments.swap_after:
        # An end of its own, so that rows can be counted.
        generate += ["--events", str(arguments.rate * arguments.seconds)]
    run = [arguments.binary, "run", "--json", *settings, "--source", "consume=-"]
    with open(log_path, "w") as log, open(out_path, "w") as out:
        start = time.monotonic()
        generator = subprocess.Popen(generate, stdout=subprocess.PIPE)
        engine = subprocess.Popen(run, stdin=generator.stdout, stdout=out, stderr=log, env=environment)
        # Only the engine reads the pipe: when it ends, the generator must not go on.
        generator.stdout.close()
        counted = {}

        def look():
            time.sleep(min(START_S, arguments.seconds / 2))
            counted["early"] = (time.monotonic(), cpu_of(engine.pid))
            if arguments.swap_after:
                time.sleep(max(0.0, start + arguments.swap_after - time.monotonic()))
                change_a_rule(os.path.join(arguments.out, "catalog"))
            time.sleep(max(0.0, start + arguments.seconds - time.monotonic()))
            counted["late"] = (time.monotonic(), cpu_of(engine.pid))
            counted["generator_cpu_s"] = cpu_of(generator.pid)
            counted["ended_at"] = time.time()
            if not arguments.swap_after:
                generator.terminate()

        watcher = threading.Thread(target=look)
        watcher.start()
        record = measured.wait(engine, start)
        watcher.join()
        generator.wait()
    with open(out_path) as file:
        said = measured.last_json(file.read())
    with open(log_path) as file:
        lines = file.readlines()
    windows = windows_of(lines)
    counted["swaps"] = [(at, float(held_ms)) for at, (held_ms,) in told(lines, SWAPPED)]
    if engine.returncode != 0 or not said:
        sys.exit("tagloom ended with %d; see %s" % (engine.returncode, log_path))
    return record, said, windows, counted


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True, help="tagloom, a release build")
    parser.add_argument("--out", required=True)
    parser.add_argument("--rate", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--close-ms", type=int, default=10_000)
    parser.add_argument("--swap-after", type=int, default=0, help="seconds after which a rule changes")
    parser.add_argument("--commit", default=measured.commit())
    arguments = parser.parse_args()
    os.makedirs(arguments.out, exist_ok=True)
    store = os.path.join(arguments.out, "store")
    shutil.rmtree(store, ignore_errors=True)
    catalog = measured.CATALOG
    if arguments.swap_after:
        catalog = os.path.join(arguments.out, "catalog")
        shutil.rmtree(catalog, ignore_errors=True)
        shutil.copytree(measured.CATALOG, catalog)
    settings = ["--catalog", catalog, "--set", "store.path=" + store, "--set", "clock.mode=wall",
                "--set", "window.close_ms=%d" % arguments.close_ms]
    load_tables(arguments, settings)
    measured.settle()
    record, said, windows, counted = live(arguments, settings)
    shutil.rmtree(store, ignore_errors=True)
    windows = [w for w in windows if w[0] <= counted["ended_at"]]
    if not windows:
        sys.exit("no window was told in the log: it needs the line `window stored` with window, users and lag_ms")
    users = sum(w[1] for w in windows)
    (early_at, early_cpu_s), (late_at, late_cpu_s) = counted["early"], counted["late"]
    result = {
        "rate": arguments.rate, "users": arguments.users, "seconds": arguments.seconds,
        "close_ms": arguments.close_ms, "events_per_s": round(said["rows"] / arguments.seconds),
        "windows": [{"users": u, "lag_ms": round(lag, 1)} for _, u, lag in windows],
        "users_stored": users, "lag_mean_ms": round(sum(u * lag for _, u, lag in windows) / max(users, 1), 1),
        "lag_p99_ms": round(percentile_ms(windows, 0.99), 1), "lag_max_ms": round(max(w[2] for w in windows), 1),
        "cpu_s_per_minute": round(late_cpu_s * 60 / arguments.seconds, 2),
        "cpu_s_per_minute_without_start": round((late_cpu_s - early_cpu_s) * 60 / (late_at - early_at), 2),
        "generator_cpu_s": round(counted["generator_cpu_s"], 2), "peak_rss_mb": record["peak_rss_mb"],
        "machine": measured.machine(), "commit": arguments.commit,
        "command": "benches/live/run.py --binary BIN --out DIR --rate %d --users %d --seconds %d" % (
            arguments.rate, arguments.users, arguments.seconds),
    }
    if arguments.swap_after:
        if not counted["swaps"]:
            sys.exit("the changed rule never became active; see the log in " + arguments.out)
        (swapped_at, held_ms), = counted["swaps"]
        before = [round(lag, 1) for at, _, lag in windows if at <= swapped_at]
        after = [round(lag, 1) for at, _, lag in windows if at > swapped_at]
        result["swap"] = {"sources_held_ms": held_ms, "lag_ms_before": before, "lag_ms_after": after,
                          "rows_lost": arguments.rate * arguments.seconds - said["rows"]}
    with open(os.path.join(arguments.out, "live.jsonl"), "a") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
