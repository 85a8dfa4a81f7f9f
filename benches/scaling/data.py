"""Workloads of a given size, made by `tagloom gen`. Standard library only."""
import json
import os
import re
import shutil
import subprocess

import measured

DAY_MS = 86_400_000
PLACE = re.compile(rb'"uid":\d+,"ts":\d+,')


def generate(binary, folder, users, events, days=120):
    """A folder as `tagloom gen` writes it; one that is there is taken as it is."""
    manifest = os.path.join(folder, "manifest.json")
    if os.path.exists(manifest):
        with open(manifest) as file:
            made = json.load(file)
        if (made["users"], made["events"], made["days"]) == (users, events, days):
            return folder
    shutil.rmtree(folder, ignore_errors=True)
    command = [binary, "gen", "--out", folder, "--users", str(users), "--events", str(events), "--days", str(days)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def head_of(folder, into, lines=100):
    """The same tables with hardly any events: what starting costs."""
    shutil.rmtree(into, ignore_errors=True)
    os.makedirs(into)
    for name in sorted(os.listdir(folder)):
        source, target = os.path.join(folder, name), os.path.join(into, name)
        if name.endswith(".jsonl"):
            with open(source, "rb") as file, open(target, "wb") as out:
                out.writelines(line for _, line in zip(range(lines), file))
        else:
            os.symlink(os.path.abspath(source), target)
    return into


def spread(folder, into, users, events_per_user, active_days):
    """The consumes of `folder` dealt out again: every user has so many, on so many of the last days.

    `tagloom gen` gives users what they are like, so that a mean of 365 active days cannot be had
    from it: here all users are alike and only the number of days differs.
    """
    shutil.rmtree(into, ignore_errors=True)
    os.makedirs(into)
    as_of_ms = measured.as_of_ms(folder)
    # Eight hours before the as-of is noon in the workload's timezone.
    noon_ms = as_of_ms - 8 * 3_600_000
    with open(os.path.join(folder, "consume.jsonl"), "rb") as file, \
            open(os.path.join(into, "consume.jsonl"), "wb") as out:
        lines = (line for line in file if PLACE.search(line) and line.endswith(b"}\n"))
        for at in range(events_per_user):
            back = active_days - 1 - at * active_days // events_per_user
            ts = noon_ms - back * DAY_MS + at
            for uid in range(1, users + 1):
                line = next(lines)
                out.write(PLACE.sub(b'"uid":%d,"ts":%d,' % (uid, ts), line, count=1))
    for name in os.listdir(folder):
        if name not in ("consume.jsonl", "manifest.json"):
            target = os.path.join(into, name)
            if name.endswith(".jsonl"):
                open(target, "wb").close()
            else:
                os.symlink(os.path.abspath(os.path.join(folder, name)), target)
    with open(os.path.join(into, "manifest.json"), "w") as file:
        json.dump({"as_of_ms": as_of_ms, "users": users, "events": users * events_per_user}, file)
    return into
