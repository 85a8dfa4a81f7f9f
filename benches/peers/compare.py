"""Runs the peers in turns and prints the table; `run.sh` calls this. Standard library only, but for
digests of tagloom's profiles and the DuckDB row, which need the package duckdb.

Timed runs compute no digest, neither tagloom nor Flink: one run of each before them does, and is the
warm-up of the page cache.
"""
import argparse
import importlib.util
import json
import os
import shutil
import statistics
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
import measured  # noqa: E402  (beside this folder)
import naive  # noqa: E402

HAS_DUCKDB = importlib.util.find_spec("duckdb") is not None
MEMORY, DURABLE, FLINK = "tagloom in memory", "tagloom, stored durably", "Flink, heap state, no store"
DUCKDB, NAIVE = "DuckDB as one batch", "each user alone (SQLite)"


def digest_of(parquet, uids=None):
    """The workload's digest of a table of labels: ties every label to its user. `uids`: only theirs."""
    import duckdb
    con = duckdb.connect()
    path = parquet.replace("'", "''")
    names = [r[0] for r in con.execute("DESCRIBE SELECT * FROM read_parquet('%s')" % path).fetchall()]
    tags = ", ".join('"%s"' % n for n in names if n != "uid")
    only = "WHERE uid IN (%s)" % ", ".join(map(str, uids)) if uids else ""
    total = con.execute("SELECT SUM(CAST('0x' || substr(md5(concat_ws('|', uid, %s)), 1, 15) AS BIGINT)) FROM "
                        "read_parquet('%s') %s" % (tags, path, only)).fetchone()[0]
    return "%015x" % (int(total or 0) % (1 << 60))


class Peers:
    """Knows how each peer is started."""

    def __init__(self, arguments):
        self.a = arguments
        self.store = os.path.join(arguments.out, "store")
        self.parquet = os.path.join(arguments.out, "tags.parquet")
        with open(os.path.join(arguments.data, "manifest.json")) as file:
            self.manifest = json.load(file)

    def names(self):
        """Who takes part."""
        found = [MEMORY, DURABLE]
        if self.a.flink:
            found.append(FLINK)
        if self.a.oracle and HAS_DUCKDB:
            found.append(DUCKDB)
        return found + ([NAIVE] if self.a.oracle else [])

    def tagloom(self, durable, extra=()):
        shutil.rmtree(self.store, ignore_errors=True)
        store = self.store if durable else None
        record = measured.run(measured.portrait(self.a.binary, self.a.data, store=store, extra=extra))
        record["own_s"] = round(record["said"]["seconds"], 3)
        return record

    def flink(self, *extra):
        out = os.path.join(self.a.out, "flink")
        record = measured.run([os.path.join(self.a.flink, "run.sh"), "files", self.a.data, *extra], {"DIR": out})
        record["own_s"] = record["said"]["wall_s"]
        record["said"].pop("histogram", None)
        return record

    def duckdb(self):
        script = os.path.join(HERE, "duckdb_batch.py")
        out = os.path.join(self.a.out, "duckdb")
        record = measured.run([sys.executable, script, self.a.oracle, self.a.data, out])
        # What the script counted until the digest, not the whole process.
        record.update(record["said"])
        record["own_s"] = record["wall_s"]
        with open(os.path.join(out, "histogram.json")) as file:
            record["digest"] = json.load(file)["users_digest"]
        return record

    def naive(self):
        spec = os.path.join(os.path.dirname(os.path.abspath(self.a.oracle)), "spec.json")
        record = measured.run([sys.executable, os.path.join(HERE, "naive.py"), spec, self.a.data])
        said, users = record["said"], self.manifest["users_seen"]
        # Extrapolated: the sample's cost times all users that changed. Memory is the sample's.
        record["own_s"] = said["seconds"]
        record["wall_s"] = round(said["seconds"] / said["sample"] * users, 1)
        record["cpu_s"] = round(said["cpu_s"] / said["sample"] * users, 1)
        record["peak_rss_mb"] = said["peak_rss_mb"]
        return record

    def timed(self, name):
        run = {MEMORY: lambda: self.tagloom(False), DURABLE: lambda: self.tagloom(True), FLINK: self.flink,
               DUCKDB: self.duckdb, NAIVE: self.naive}[name]
        return run()

    def checked(self, name):
        """A run whose digest is looked at and whose time is not; None where there is none."""
        if name in (MEMORY, DURABLE):
            if not HAS_DUCKDB:
                return None
            self.tagloom(name == DURABLE, ["--export", self.parquet])
            return digest_of(self.parquet)
        if name == FLINK:
            return self.flink("--digest", "true")["said"]["users_digest"]
        return self.duckdb()["digest"] if name == DUCKDB else None

    def sample_is_equal(self):
        """Whether the users computed alone have the labels of tagloom's profiles."""
        if not HAS_DUCKDB or not self.a.oracle:
            return None
        sample = naive.sample_of(self.manifest["users"], naive.SAMPLE)
        return self.naive()["said"]["digest"] == digest_of(self.parquet, sample)


def table(names, records, digests, sample_is_equal, base=MEMORY):
    """Medians by peer, as Markdown."""
    def median(name, key):
        return statistics.median(r[key] for r in records if r["peer"] == name)
    known = [d for d in digests.values() if d]
    lines = ["| peer | wall s | CPU s | peak memory MB | wall, times tagloom in memory | times tagloom stored "
             "| memory, times tagloom | digest |", "|---|---|---|---|---|---|---|---|"]
    for name in names:
        walls = sorted(r["wall_s"] for r in records if r["peer"] == name)
        wall, memory = median(name, "wall_s"), median(name, "peak_rss_mb")
        spread = "%.2f" % wall if walls[0] == walls[-1] else "%.2f (%.2f-%.2f)" % (wall, walls[0], walls[-1])
        digest = digests.get(name)
        word = "not compared" if not digest or len(known) < 2 else (
            "equal" if known.count(digest) == len(known) else digest)
        marked = name + (", extrapolated from a sample" if name == NAIVE else "")
        memory_cells = ("%d" % memory, "%.1f" % (memory / median(base, "peak_rss_mb")))
        if name == NAIVE:
            memory_cells = ("(the sample's)", "")
            word = {None: "not compared", True: "equal (the sample)", False: "differs"}[sample_is_equal]
        lines.append("| %s | %s | %.2f | %s | %.1f | %.1f | %s | %s |" % (
            marked, spread, median(name, "cpu_s"), memory_cells[0], wall / median(base, "wall_s"),
            wall / median(DURABLE, "wall_s"), memory_cells[1], word))
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "out", "binary"):
        parser.add_argument("--" + name, required=True)
    for name in ("flink", "oracle"):
        parser.add_argument("--" + name)
    parser.add_argument("--commit", default=measured.commit())
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    peers = Peers(arguments)
    if not HAS_DUCKDB:
        print("python3 has no duckdb: tagloom's digests are not compared%s; `pip install duckdb`" % (
            " and DuckDB is left out" if arguments.oracle else ""), file=sys.stderr)
    names = peers.names()
    manifest = peers.manifest
    about = {"machine": measured.machine(), "commit": arguments.commit, "runs": arguments.runs,
             "users": manifest["users"], "events": manifest["events"],
             "command": "benches/peers/run.sh DATA OUT %s%s--runs %d" % (
                 "--flink DIR " * bool(arguments.flink), "--oracle FILE " * bool(arguments.oracle), arguments.runs)}
    results = os.path.join(arguments.out, "results.jsonl")
    records, digests = [], {name: peers.checked(name) for name in names}
    sample_is_equal = peers.sample_is_equal()
    with open(results, "w") as file:
        file.write(json.dumps({**about, "digests": digests, "sample_is_equal": sample_is_equal}) + "\n")
        for turn in range(arguments.runs):
            for name in names:
                measured.settle()
                record = {"peer": name, "turn": turn, **peers.timed(name)}
                records.append(record)
                file.write(json.dumps(record) + "\n")
                file.flush()
                print("%-34s %8.2f s %8.2f CPU s %6d MB" % (
                    name, record["wall_s"], record["cpu_s"], record["peak_rss_mb"]), file=sys.stderr)
    shutil.rmtree(peers.store, ignore_errors=True)
    text = table(names, records, digests, sample_is_equal)
    text += "\n%(users)d users, %(events)d events, %(runs)d runs each in turns, medians (least-greatest)." % about
    text += " %(cores)d cores, %(memory_gb)s GiB, %(cpu)s." % about["machine"]
    text += " Commit %(commit)s.\n`%(command)s`\n" % about
    with open(os.path.join(arguments.out, "table.md"), "w") as file:
        file.write(text)
    print(text)
    seen = {d for d in digests.values() if d}
    sys.exit(len(seen) > 1 or sample_is_equal is False)


if __name__ == "__main__":
    main()
