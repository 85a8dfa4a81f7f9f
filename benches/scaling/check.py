"""How long `tagloom check` takes for many tags.

In: a release binary, a number of tags. Out: the best and the median wall time of some runs, as JSON:
the whole process, from reading the files to the plan of all tags.
Standard library only.
"""
import argparse
import json
import os
import statistics
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import catalogs  # noqa: E402
import measured  # noqa: E402


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--binary", required=True)
    args.add_argument("--tags", type=int, default=2000)
    args.add_argument("--runs", type=int, default=9)
    args = args.parse_args()
    binary = os.path.abspath(args.binary)
    with tempfile.TemporaryDirectory() as folder:
        catalog = catalogs.write(binary, os.path.join(folder, "tags"), args.tags)
        command = [binary, "check", "--catalog", catalog]
        seconds = [measured.run(command)["wall_s"] for _ in range(args.runs)]
    print(json.dumps({"tags": args.tags, "best_s": min(seconds),
                      "median_s": statistics.median(seconds)}))


if __name__ == "__main__":
    main()
