#!/usr/bin/env python3
"""DuckDB as one batch: `duckdb_batch.py ORACLE.py DATA OUT`.

Runs the workload's reference and stops the clock at its histogram of labels, which the Flink job
keeps as well. The digest over users comes after it and is not counted. Needs the package duckdb.
"""
import contextlib
import importlib.util
import io
import json
import os
import resource
import sys
import time

STARTED = time.monotonic()


def cpu_s():
    """CPU time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main():
    oracle_path, data, out = sys.argv[1:4]
    spec = importlib.util.spec_from_file_location("oracle", oracle_path)
    oracle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oracle)
    digest, counted = oracle.users_digest, {}

    def stop_the_clock(*arguments):
        counted["wall_s"] = round(time.monotonic() - STARTED, 3)
        counted["cpu_s"] = round(cpu_s(), 3)
        counted["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        return digest(*arguments)
    oracle.users_digest = stop_the_clock
    sys.argv = [oracle_path, "--data", data, "--out", out, "--no-tags-file", "--threads", str(os.cpu_count())]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        oracle.main()
    print(json.dumps({**json.loads(said.getvalue()), **counted}))


if __name__ == "__main__":
    main()
