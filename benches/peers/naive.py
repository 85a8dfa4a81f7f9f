#!/usr/bin/env python3
"""What it costs to recompute each changed user alone: `naive.py SPEC.json DATA [--sample N]`.

The 120 features and 550 rules of one user as two prepared SQL statements over tables in memory
(SQLite), indexed by user: nothing is parsed or planned again for the next user, nothing is read
from a disk and nothing is written. The sampled users' events are loaded first and not counted.
Prints the seconds a user, and a digest of the labels computed. Standard library only.
"""
import argparse
import hashlib
import json
import os
import random
import re
import resource
import sqlite3
import time

DAY_MS = 86_400_000
SAMPLE = 2000
UID = re.compile(rb'"uid":(\d+)[,}]')
SQL_TYPES = {"int": (int,), "str": (str,), "enum": (str,), "bool": (bool,)}


def is_valid(event, columns, ts_max):
    """The workload's rule for lines that count."""
    required = {"event_id": "str", "uid": "int", "ts": "int"}
    required.update({c: d["type"] for c, d in columns.items() if not d.get("nullable")})
    for column, kind in required.items():
        value = event.get(column)
        if not isinstance(value, SQL_TYPES[kind]) or (kind == "int" and isinstance(value, bool)):
            return False
    return event["ts"] <= ts_max


def sample_of(users, size):
    """The same users every time."""
    return set(random.Random(1).sample(range(1, users + 1), min(size, users)))


def load(con, spec, data, uids, as_of_ms):
    """The sampled users' events, each id once, and their dimension rows. Returns who has events."""
    found_uids = set()
    for stream, columns in spec["streams"].items():
        names = ["uid", "ts", "day", *columns]
        con.execute("CREATE TABLE ev_%s (%s)" % (stream, ", ".join(names)))
        seen, rows = set(), []
        with open(os.path.join(data, stream + ".jsonl"), "rb") as file:
            for line in file:
                found = UID.search(line)
                if not found or int(found.group(1)) not in uids:
                    continue
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if event["event_id"] in seen or not is_valid(event, columns, as_of_ms + DAY_MS):
                    continue
                seen.add(event["event_id"])
                day = (event["ts"] + spec["utc_offset_ms"]) // DAY_MS
                rows.append([event["uid"], event["ts"], day, *(event.get(c) for c in columns)])
        con.executemany("INSERT INTO ev_%s VALUES (%s)" % (stream, ", ".join("?" * len(names))), rows)
        con.execute("CREATE INDEX by_uid_%s ON ev_%s (uid, ts)" % (stream, stream))
        found_uids.update(row[0] for row in rows)
    for dim in {d["file"]: d for d in reversed(spec["dims"])}.values():
        table = dim["file"].split(".")[0]
        kinds = {c["source"]: int if c["type"] == "int" else str for c in dim["columns"]}
        con.execute("CREATE TABLE %s (%s PRIMARY KEY, %s)" % (table, dim["key"], ", ".join(kinds)))
        rows = []
        with open(os.path.join(data, dim["file"])) as file:
            header = file.readline().rstrip("\n").split(",")
            for line in file:
                if dim["key"] == "uid" and int(line[: line.index(",")]) not in uids:
                    continue
                row = dict(zip(header, line.rstrip("\n").split(",")))
                key = int(row[dim["key"]]) if dim["key"] == "uid" else row[dim["key"]]
                rows.append([key, *(kind(row[c]) if row[c] else None for c, kind in kinds.items())])
        con.executemany("INSERT INTO %s VALUES (%s)" % (table, ", ".join("?" * (1 + len(kinds)))), rows)
    return found_uids


def feature(spec_of, as_of_day):
    """One feature as an expression over the stream's rows of one user."""
    keep, value = [], spec_of["value"]
    if spec_of["window"] != "lifetime":
        keep.append("day BETWEEN %d AND %d" % (as_of_day - int(spec_of["window"][:-1]) + 1, as_of_day))
    if "where" in spec_of:
        same = spec_of["where"]["eq"]
        keep.append("%s = %s" % (spec_of["where"]["column"], int(same) if isinstance(same, bool) else "'%s'" % same))
    if spec_of["agg"] == "last":
        keep += ["uid = :uid", "%s IS NOT NULL" % value]
        return "(SELECT %s FROM ev_%s WHERE %s ORDER BY ts DESC, %s DESC LIMIT 1)" % (
            value, spec_of["stream"], " AND ".join(keep), value)
    call = {"count": "COUNT(*)%s", "sum": "COALESCE(SUM(%s)%%s, 0)" % value, "min": "MIN(%s)%%s" % value,
            "max": "MAX(%s)%%s" % value, "distinct_count": "COUNT(DISTINCT %s)%%s" % value,
            "first_ts": "MIN(ts)%s", "last_ts": "MAX(ts)%s"}[spec_of["agg"]]
    return call % (" FILTER (WHERE %s)" % " AND ".join(keep) if keep else "")


def statements(spec, as_of_day):
    """Features and dimension columns of one user; the 550 rules over such a row."""
    blocks, names = [], []
    for stream in spec["streams"]:
        mine = [f for f in spec["features"] if f["stream"] == stream]
        columns = ", ".join("%s AS %s" % (feature(f, as_of_day), f["name"]) for f in mine)
        blocks.append("(SELECT %s FROM ev_%s WHERE uid = :uid) AS f_%s" % (columns, stream, stream))
        names += [f["name"] for f in mine]
    joins = ""
    for at, dim in enumerate(spec["dims"]):
        look = ":uid" if dim["lookup"] == "uid" else dim["lookup"]
        joins += " LEFT JOIN %s AS d%d ON d%d.%s = %s" % (dim["file"].split(".")[0], at, at, dim["key"], look)
        names += ["d%d.%s AS %s" % (at, c["source"], c["name"]) for c in dim["columns"]]
    wide = "SELECT %s FROM %s%s" % (", ".join(names), ", ".join(blocks), joins)
    columns = [n.split(" AS ")[-1] for n in names]
    midnight_s = str(as_of_day * DAY_MS // 1000)
    rules = [t["expr"].replace("date_part('epoch', as_of_date)", midnight_s) for t in spec["tags"]]
    row = ", ".join(":%s AS %s" % (c, c) for c in columns)
    return wide, columns, "SELECT %s FROM (SELECT %s)" % (", ".join(rules), row)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec")
    parser.add_argument("data")
    parser.add_argument("--sample", type=int, default=SAMPLE)
    arguments = parser.parse_args()
    with open(arguments.spec) as file:
        spec = json.load(file)
    with open(os.path.join(arguments.data, "manifest.json")) as file:
        manifest = json.load(file)
    as_of_ms = manifest["as_of_ms"]
    as_of_day = (as_of_ms + spec["utc_offset_ms"]) // DAY_MS
    con = sqlite3.connect(":memory:")
    uids = load(con, spec, arguments.data, sample_of(manifest["users"], arguments.sample), as_of_ms)
    wide, columns, rules = statements(spec, as_of_day)
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    labels, digest = {}, 0
    for uid in uids:
        row = dict(zip(columns, con.execute(wide, {"uid": uid}).fetchone()))
        labels[uid] = con.execute(rules, row).fetchone()
    seconds = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    for uid, row in labels.items():
        text = "|".join([str(uid), *row])
        digest += int(hashlib.md5(text.encode()).hexdigest()[:15], 16)
    print(json.dumps({"sample": len(uids), "seconds": round(seconds, 3), "cpu_s": round(cpu_s, 3),
                      "us_per_user": round(1e6 * seconds / len(uids), 1), "digest": "%015x" % (digest % (1 << 60)),
                      "peak_rss_mb": after.ru_maxrss // 1024}))


if __name__ == "__main__":
    main()
