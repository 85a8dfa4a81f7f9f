#!/usr/bin/env python3
"""How the cost of an event and of a user scales: `run.py --binary BIN --out DIR [--large]`.

One thing changes at a time, around 100,000 users, 10 events each over 120 days, 550 tags, 2 shards:

  users     10k, 100k, 1M (5M with --large), at 1 and 2 shards, in memory and stored durably
  tags      100, 550, 2,000
  events    2 to 100 events a user
  days      1 to 365 active days a user; events older than the horizon of 130 days (the longest span,
            90 days, and 40 days of lateness) are kept only in lifetime partials
  backfill  500k, 1M (5M with --large): nothing moves; then with the thresholds of 3 tags changed

Writes results.json and one SVG for each curve into DIR; --plot draws them again from results.json.
Each point is run --runs times and the run with the least CPU time counts. Standard library only.

  an event's cost   CPU time less what starting takes (compiling, loading tables: the same run with
                    100 events a stream) and less the windows' stages, by lines read
  a user's cost     time in the windows' stages (features, dimensions, tags, packing), by users computed
"""
import argparse
import json
import os
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
import catalogs  # noqa: E402  (beside this file)
import data  # noqa: E402
import measured  # noqa: E402  (in the folder above)
import plots  # noqa: E402

STAGES = ("features", "dimensions", "tags", "packing")
CURVES = ("users", "tags", "events", "days", "backfill")
CHANGE = ("cuts: [1, 3, 10, 30, 100]", "cuts: [1, 4, 10, 30, 100]")


class Scaling:
    """Runs points and keeps them in results.json as they come."""

    def __init__(self, arguments):
        self.a = arguments
        self.base = arguments.base_users
        self.work = os.path.join(arguments.out, "work")
        self.store = os.path.join(self.work, "store")
        os.makedirs(self.work, exist_ok=True)
        self.path = os.path.join(arguments.out, "results.json")
        self.results = {"points": []}
        if os.path.exists(self.path):
            with open(self.path) as file:
                self.results = json.load(file)
        self.results.update(machine=measured.machine(), commit=arguments.commit, command="benches/scaling/run.py "
                            "--binary BIN --out DIR" + (" --large" if arguments.large else ""))
        self.starts = {}

    def keep(self, curve, record, **key):
        """A point of the same key is replaced."""
        same = {"curve": curve, **key}
        old = [p for p in self.results["points"] if any(p.get(k) != v for k, v in same.items())]
        self.results["points"] = [*old, {**same, **record}]
        with open(self.path, "w") as file:
            json.dump(self.results, file, indent=1)
        print(json.dumps({**same, **record}), file=sys.stderr)

    def folder(self, users, events, days=120):
        name = "data-%d-%d-%d" % (users, events, days)
        return data.generate(self.a.binary, os.path.join(self.work, name), users, events, days)

    def catalog(self, tags):
        if tags == 550:
            return measured.CATALOG
        return catalogs.write(self.a.binary, os.path.join(self.work, "catalog-%d" % tags), tags)

    def best(self, command, before=lambda: None):
        records = []
        for _ in range(self.a.runs):
            before()
            measured.settle()
            records.append(measured.run(command))
        return min(records, key=lambda r: r["cpu_s"])

    def fresh(self):
        shutil.rmtree(self.store, ignore_errors=True)

    def point(self, folder, shards=2, tags=550, durable=False):
        """One run, taken apart into what an event and a user cost."""
        catalog, settings = self.catalog(tags), ["engine.shards=%d" % shards]
        store = self.store if durable else None
        make = lambda d: measured.portrait(self.a.binary, d, catalog, store, settings)  # noqa: E731
        start = self.starts.get((folder, tags, durable))
        if start is None:
            head = data.head_of(folder, os.path.join(self.work, "head"))
            start = self.best(make(head), self.fresh)
            self.starts[(folder, tags, durable)] = start
        record = self.best(make(folder), self.fresh)
        said = record.pop("said")
        stages = dict(zip(STAGES, said["stage_ms"]))
        window_s = sum(said["stage_ms"]) / 1000
        event_cpu_s = max(record["cpu_s"] - start["cpu_s"] - window_s, 0.0)
        return {**record, "start_cpu_s": start["cpu_s"], "start_wall_s": start["wall_s"], "rows": said["rows"],
                "users_computed": said["dirty_users"], "windows": said["windows"], "stage_ms": stages,
                "ns_per_event": round(1e9 * event_cpu_s / said["rows"]),
                "us_per_user": round(1e6 * window_s / said["dirty_users"], 3),
                "resident_bytes_per_user": said["resident_bytes_per_user"],
                "stored_bytes_per_user": said["stored_bytes_per_user"]}

    def users(self):
        counts = [10_000, 100_000, 1_000_000] + ([5_000_000] if self.a.large else [])
        for users in [u for u in counts if u <= self.a.users_max]:
            folder = self.folder(users, 10 * users)
            for shards, durable in ((1, False), (2, False), (2, True)):
                record = self.point(folder, shards=shards, durable=durable)
                self.keep("users", record, users=users, shards=shards, durable=durable)
            if users > 1_000_000:
                shutil.rmtree(folder)

    def tags(self):
        folder = self.folder(self.base, 10 * self.base)
        for tags in (100, 550, 2000):
            self.keep("tags", self.point(folder, tags=tags), tags=tags)

    def events(self):
        for per_user in (2, 5, 10, 30, 100):
            folder = self.folder(self.base, per_user * self.base)
            self.keep("events", self.point(folder), events_per_user=per_user)
            if per_user != 10:
                shutil.rmtree(folder)

    def days(self):
        users, per_user = max(self.base // 20, 100), 365
        # A share is registers, cancels, repeats and damaged: more than enough consumes are left.
        source = self.folder(users, int(users * per_user * 1.3))
        for days in (1, 7, 30, 90, 130, 365):
            folder = data.spread(source, os.path.join(self.work, "spread-%d" % days), users, per_user, days)
            self.keep("days", self.point(folder), active_days=days, events_per_user=per_user, users=users)
            shutil.rmtree(folder)

    def backfill(self):
        counts = [100_000, 500_000, 1_000_000] + ([5_000_000] if self.a.large else [])
        changed = catalogs.write(self.a.binary, os.path.join(self.work, "catalog-changed"), 550, CHANGE)
        for users in [u for u in counts if u <= self.a.users_max]:
            folder = self.folder(users, 10 * users)
            self.fresh()
            stored = measured.run(measured.portrait(self.a.binary, folder, store=self.store))["said"]["users"]
            for name, catalog, runs in (("nothing moves", measured.CATALOG, self.a.runs), ("3 tags changed", changed, 1)):
                command = [self.a.binary, "backfill", "--json", "--catalog", catalog, "--set", "store.path=" + self.store]
                records = []
                for _ in range(runs):
                    measured.settle()
                    records.append(measured.run(command))
                record = min(records, key=lambda r: r["wall_s"])
                said = record.pop("said")
                # The whole process counts, compiling rules and loading tables included.
                record.update(users_examined=stored, tags_moved=sum(said["moved"].values()),
                              users_per_s=round(stored / record["wall_s"]))
                self.keep("backfill", record, users=users, change=name)
            self.fresh()
            if users > 1_000_000:
                shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", help="tagloom, a release build")
    parser.add_argument("--out", required=True)
    parser.add_argument("--large", action="store_true", help="5M users too: 10 GB of disk, 16 GB of memory")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--only", choices=CURVES, action="append", help="these curves (may be repeated)")
    parser.add_argument("--commit", default=measured.commit(), help="what BIN was built from")
    parser.add_argument("--base-users", type=int, default=100_000, help="users where something else changes")
    parser.add_argument("--users-max", type=int, default=10**9, help="leave larger points out")
    parser.add_argument("--plot", action="store_true", help="only draw results.json again")
    arguments = parser.parse_args()
    if not arguments.plot:
        if not arguments.binary:
            parser.error("--binary is needed to measure")
        scaling = Scaling(arguments)
        for curve in CURVES:
            if not arguments.only or curve in arguments.only:
                getattr(scaling, curve)()
        shutil.rmtree(scaling.work)
    with open(os.path.join(arguments.out, "results.json")) as file:
        plots.draw(json.load(file), arguments.out)


if __name__ == "__main__":
    main()
