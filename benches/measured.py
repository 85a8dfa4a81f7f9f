"""What the scripts beside the engine share: running a program and counting what it took.

Standard library only. In: a command. Out: wall time, CPU time and peak memory of that process (and
of those it waited for), and the last line of JSON that it printed.
"""
import json
import os
import platform
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CATALOG = os.path.join(ROOT, "benches", "portrait", "catalog")


def last_json(text):
    """The last line that is a JSON object, or {}."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    return {}


def wait(child, start):
    """Waits for a child and counts what it took: rusage, so threads and waited-for children too."""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return {
        "wall_s": round(time.monotonic() - start, 3),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_rss_mb": usage.ru_maxrss // 1024,
    }


def run(command, env=None):
    """Runs a command to its end. Its standard error goes where ours goes; a failure ends all."""
    with tempfile.TemporaryFile("w+") as out:
        start = time.monotonic()
        child = subprocess.Popen(command, stdout=out, env={**os.environ, **(env or {})})
        record = wait(child, start)
        out.seek(0)
        text = out.read()
    if child.returncode != 0:
        sys.exit("%s: exit code %d\n%s" % (" ".join(command), child.returncode, text))
    record["said"] = last_json(text)
    return record


def settle():
    """Lets the disk finish what one run left behind, so that the next does not pay for it."""
    os.sync()
    time.sleep(1)


def machine():
    """Cores, memory and processor."""
    cpu = platform.processor() or platform.machine()
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                cpu = " ".join(line.split(":", 1)[1].split())
                break
    memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {"cores": os.cpu_count(), "memory_gb": round(memory_gb, 1), "cpu": cpu, "system": platform.system()}


def commit():
    """The commit of the working tree; `+` when something is not committed."""
    def git(*arguments):
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if git("status", "--porcelain", "-uno") else "")


def as_of_ms(data):
    """The instant that a generated workload ends with."""
    with open(os.path.join(data, "manifest.json")) as file:
        return json.load(file)["as_of_ms"]


def portrait(binary, data, catalog=CATALOG, store=None, settings=(), extra=()):
    """The command that runs the portrait workload; in memory without a store."""
    command = [binary, "run", "--json", "--catalog", catalog, "--as-of", str(as_of_ms(data))]
    command += ["--set", "store.path=%s" % store] if store else ["--memory"]
    for setting in settings:
        command += ["--set", setting]
    for stream in ("register", "consume", "cancel"):
        command += ["--source", "%s=%s" % (stream, os.path.join(data, stream + ".jsonl"))]
    for table in ("user_dim", "city_dim"):
        command += ["--dims", "%s=%s" % (table, os.path.join(data, table + ".csv"))]
    return command + list(extra)
