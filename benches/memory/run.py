#!/usr/bin/env python3
"""Ten times more users than fit in memory: `run.py --binary BIN --out DIR [--users 2000000] [--events 10000000]`.

  replay  the workload's three files at full speed, with everything resident and then within a tenth of
          what that took. Tags of all users are exported at the end, as of then and --later-days later
          (computed from what is stored): their hashes must be equal.
  paced   consume.jsonl through a pipe: a head at full speed, then --paced-events at --rate, so that both
          runs close the same windows. What a user costs who is not resident is the difference in CPU time
          by users read from the store.

Dimension tables are loaded first and not counted. Memory is sampled all the time. Appends each run to
DIR/memory.jsonl and draws DIR/memory.svg; --plot only draws again. Standard library only.
"""
import argparse
import hashlib
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
sys.path[:0] = [os.path.dirname(HERE), os.path.join(os.path.dirname(HERE), "scaling")]
import chart  # noqa: E402  (of the scaling curves)
import data  # noqa: E402
import measured  # noqa: E402  (in the folder above)

STREAMS = ("register", "consume", "cancel")
DAY_MS = 86_400_000
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
STORED = re.compile(r"^(\S+Z)\s.*window stored.* users=(\d+).*resident_bytes=(\d+)")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SAMPLE_S = 0.25
# After the head: time for its last windows.
SETTLE_S = 15
TICK_S = 0.05


def cpu_of(pid):
    """CPU seconds of a running process so far."""
    with open("/proc/%d/stat" % pid) as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


class Bench:
    """Runs and keeps what they gave."""

    def __init__(self, arguments):
        self.a = arguments
        self.folder = data.generate(arguments.binary, os.path.join(arguments.out, "data"), arguments.users,
                                    arguments.events)
        self.as_of_ms = measured.as_of_ms(self.folder)
        self.store = os.path.join(arguments.out, "store")
        self.tables = os.path.join(arguments.out, "tables")
        self.path = os.path.join(arguments.out, "memory.jsonl")
        shutil.rmtree(self.tables, ignore_errors=True)
        for table in ("user_dim", "city_dim"):
            path = os.path.join(self.folder, table + ".csv")
            subprocess.run([arguments.binary, "dims", "load", table, path, *self.settings(self.tables)],
                           check=True, stdout=subprocess.DEVNULL)

    def settings(self, store):
        return ["--catalog", measured.CATALOG, "--set", "store.path=" + store, "--set", "clock.mode=fixed"]

    def command(self, budget, sources, more=()):
        shutil.rmtree(self.store, ignore_errors=True)
        shutil.copytree(self.tables, self.store)
        measured.settle()
        command = [self.a.binary, "run", "--json", *self.settings(self.store), "--as-of", str(self.as_of_ms),
                   "--set", "memory.resident_bytes_max=%d" % budget, *more]
        for stream, path in sources:
            command += ["--source", "%s=%s" % (stream, path)]
        return command

    def watched(self, command, feed=None):
        """Runs to the end, sampling memory. `feed` writes to standard input and gives what to keep."""
        log_path, out_path = (os.path.join(self.a.out, "memory." + end) for end in ("log", "out"))
        environment = {**os.environ, "NO_COLOR": "1", "TAGLOOM_LOG": "warn,tagloom::engine::checkpoint=debug"}
        samples, fed = [], {}
        with open(log_path, "w") as log, open(out_path, "w") as out:
            start, started_at = time.monotonic(), time.time()
            engine = subprocess.Popen(command, stdin=subprocess.PIPE if feed else subprocess.DEVNULL, stdout=out,
                                      stderr=log, env=environment)

            def sample():
                while True:
                    try:
                        with open("/proc/%d/status" % engine.pid) as file:
                            rss = re.search(r"VmRSS:\s+(\d+)", file.read())
                    except OSError:
                        return
                    if not rss:
                        return
                    samples.append((round(time.monotonic() - start, 2), int(rss[1]) * 1024))
                    time.sleep(SAMPLE_S)

            threads = [threading.Thread(target=sample)]
            if feed:
                threads.append(threading.Thread(target=lambda: fed.update(feed(engine))))
            for thread in threads:
                thread.start()
            record = measured.wait(engine, start)
            for thread in threads:
                thread.join()
        with open(out_path) as file:
            said = measured.last_json(file.read())
        if engine.returncode != 0 or not said:
            sys.exit("tagloom ended with %d; see %s" % (engine.returncode, log_path))
        windows = []
        with open(log_path) as file:
            for line in file:
                match = STORED.match(COLOURS.sub("", line).strip())
                if match:
                    at = datetime.fromisoformat(match[1].replace("Z", "+00:00")).timestamp()
                    windows.append((round(at - started_at, 2), int(match[2]), int(match[3])))
        return {**record, **fed, "said": said, "rss": samples, "stored": windows}

    def keep(self, kind, name, budget, record):
        record = {"kind": kind, "name": name, "budget": budget, "users": self.a.users, "events": self.a.events,
                  "commit": self.a.commit, "machine": measured.machine(), **record}
        with open(self.path, "a") as file:
            file.write(json.dumps(record) + "\n")
        shown = {k: v for k, v in record.items() if k not in ("rss", "stored", "machine")}
        print(json.dumps(shown), file=sys.stderr)
        return record

    def exported(self):
        """Hashes of all tags, now and later."""
        hashes = []
        for days in sorted({0, self.a.later_days}):
            path = os.path.join(self.a.out, "tags.parquet")
            subprocess.run([self.a.binary, "export", "--out", path, *self.settings(self.store), "--as-of",
                            str(self.as_of_ms + days * DAY_MS)], check=True, stdout=subprocess.DEVNULL)
            with open(path, "rb") as file:
                hashes.append(hashlib.file_digest(file, "sha256").hexdigest()[:16])
            os.remove(path)
        return hashes

    def replay(self):
        sources = [(s, os.path.join(self.folder, s + ".jsonl")) for s in STREAMS]
        tenth = None
        for _ in range(self.a.runs):
            for name in ("resident", "tenth"):
                budget = 10**12 if name == "resident" else tenth
                record = self.watched(self.command(budget, sources))
                record["exported"] = self.exported() if self.a.export else None
                self.keep("replay", name, budget, record)
                tenth = tenth or record["said"]["resident_bytes_peak"] // 10

    def paced(self, resident_bytes):
        """The head first, then at the rate."""
        path = os.path.join(self.folder, "consume.jsonl")
        line_bytes = os.path.getsize(path) / sum(1 for _ in open(path, "rb"))

        def feed(engine):
            left = round(self.a.paced_events * line_bytes)
            with open(path, "rb") as file, engine.stdin as pipe:
                head = os.path.getsize(path) - left
                while head > 0:
                    head -= pipe.write(file.read(min(head, 1 << 16)))
                pipe.flush()
                time.sleep(SETTLE_S)
                mark, start, sent = cpu_of(engine.pid), time.monotonic(), 0
                while left > sent:
                    due = (time.monotonic() - start + TICK_S) * self.a.rate * line_bytes
                    sent += pipe.write(file.read(max(0, round(min(due, left) - sent))))
                    pipe.flush()
                    time.sleep(TICK_S)
                return {"cpu_head_s": mark, "paced_s": round(time.monotonic() - start, 1)}

        for _ in range(self.a.runs):
            for name, budget in (("resident", 10**12), ("tenth", resident_bytes // 10)):
                more = ["--set", "window.close_ms=%d" % self.a.close_ms]
                record = self.watched(self.command(budget, [("consume", "-")], more), feed)
                record["cpu_paced_s"] = round(record["cpu_s"] - record["cpu_head_s"], 2)
                self.keep("paced", name, budget, record)


def draw(records, out):
    """Memory over time of the last replay within a tenth, beside its budget."""
    last = {r["name"]: r for r in records if r["kind"] == "replay"}
    if not {"resident", "tenth"} <= last.keys():
        return
    tenth, mib = last["tenth"], 2**20
    end = tenth["rss"][-1][0]
    series = [
        ("users, everything resident", [(at, b / mib) for at, _, b in last["resident"]["stored"]]),
        ("users, within a tenth", [(at, b / mib) for at, _, b in tenth["stored"]]),
        ("budget", [(0, tenth["budget"] / mib), (end, tenth["budget"] / mib)]),
        ("process, within a tenth", [(at, b / mib) for at, b in tenth["rss"][::max(1, len(tenth["rss"]) // 60)]]),
    ]
    note = "%s users, %s events; %d cores; commit %s" % (
        chart.short(tenth["users"]), chart.short(tenth["events"]), tenth["machine"]["cores"], tenth["commit"])
    svg = chart.line_chart("Memory against budget", "seconds", "MiB", series, note, log_x=False)
    with open(os.path.join(out, "memory.svg"), "w") as file:
        file.write(svg)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", help="tagloom, a release build")
    parser.add_argument("--out", required=True)
    parser.add_argument("--users", type=int, default=2_000_000)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--only", choices=("replay", "paced"))
    parser.add_argument("--resident-bytes", type=int, help="what everything resident takes, with --only paced")
    parser.add_argument("--rate", type=int, default=25_000)
    parser.add_argument("--paced-events", type=int, default=2_500_000)
    parser.add_argument("--close-ms", type=int, default=4_000)
    parser.add_argument("--later-days", type=int, default=45)
    parser.add_argument("--no-export", dest="export", action="store_false")
    parser.add_argument("--commit", default=measured.commit(), help="what BIN was built from")
    parser.add_argument("--plot", action="store_true", help="only draw memory.jsonl again")
    arguments = parser.parse_args()
    os.makedirs(arguments.out, exist_ok=True)
    path = os.path.join(arguments.out, "memory.jsonl")
    if not arguments.plot:
        if not arguments.binary:
            parser.error("--binary is needed to measure")
        bench = Bench(arguments)
        if arguments.only != "paced":
            bench.replay()
        if arguments.only != "replay":
            with open(path) as file:
                known = [r for r in map(json.loads, file) if r["name"] == "resident"]
            bench.paced(arguments.resident_bytes or max(r["said"]["resident_bytes_peak"] for r in known))
    with open(path) as file:
        draw([json.loads(line) for line in file], arguments.out)


if __name__ == "__main__":
    main()
