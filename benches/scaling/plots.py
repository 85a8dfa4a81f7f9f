"""The curves of results.json as SVG files. Standard library only."""
import os

from chart import line_chart

STAGES = ("features", "dimensions", "tags", "packing")


def draw(results, folder):
    """One file a curve that was measured."""
    note = "%(cores)d cores, %(memory_gb)s GiB, %(cpu)s" % results["machine"] + "; commit " + results["commit"]
    points = results["points"]

    def of(curve, x, y, **keys):
        chosen = [p for p in points if p["curve"] == curve and all(p.get(k) == v for k, v in keys.items())]
        return [(p[x], y(p) if callable(y) else p[y]) for p in chosen]

    def stage(name):
        return lambda p: 1000 * p["stage_ms"][name] / p["users_computed"]

    def by_shards(y, **keys):
        return [("%d shard%s" % (n, "s" if n > 1 else ""), of("users", "users", y, shards=n, **keys)) for n in (1, 2)]

    users_ticks = sorted({p["users"] for p in points if p["curve"] == "users"})
    charts = {
        "users-events": ("Cost of an event, by number of users", "users (10 events each, 550 tags)",
                         "ns of CPU an event", by_shards("ns_per_event", durable=False), users_ticks),
        "users-users": ("Cost of a user in a window, by number of users", "users (10 events each, 550 tags)",
                        "us a user computed", by_shards("us_per_user", durable=False), users_ticks),
        "users-memory": ("Memory of a warm user", "users (10 events each, 550 tags)", "bytes a user", [
            ("resident state, codes and index", of("users", "users", "resident_bytes_per_user", shards=2, durable=False)),
            ("stored", of("users", "users", "stored_bytes_per_user", shards=2, durable=True))], users_ticks),
        "tags": ("Cost of a user in a window, by number of tags", "tags", "us a user computed",
                 [(name, of("tags", "tags", stage(name))) for name in STAGES], [100, 550, 2000]),
        "events": ("Cost of a user in a window, by events a user", "events a user (mean; some have far more)",
                   "us a user computed", [(name, of("events", "events_per_user", stage(name))) for name in STAGES],
                   [2, 5, 10, 30, 100]),
        "events-events": ("Cost of an event, by events a user", "events a user (mean; some have far more)",
                          "ns of CPU an event", [("2 shards", of("events", "events_per_user", "ns_per_event"))],
                          [2, 5, 10, 30, 100]),
        "days": ("Cost of a user in a window, by active days", "active days a user (365 events each)",
                 "us a user computed", [(name, of("days", "active_days", stage(name))) for name in STAGES],
                 [1, 7, 30, 90, 130, 365]),
        "days-events": ("Cost of an event, by active days", "active days a user (365 events each)",
                        "ns of CPU an event", [("2 shards", of("days", "active_days", "ns_per_event"))],
                        [1, 7, 30, 90, 130, 365]),
        "backfill": ("Backfill of an embedded store", "users in the store", "users examined a second", [
            (name, of("backfill", "users", "users_per_s", change=name)) for name in ("nothing moves", "3 tags changed")],
            sorted({p["users"] for p in points if p["curve"] == "backfill"})),
    }
    walls = [("in memory", of("users", "users", "wall_s", shards=2, durable=False)),
             ("stored durably", of("users", "users", "wall_s", shards=2, durable=True)),
             ("in memory, 1 shard", of("users", "users", "wall_s", shards=1, durable=False))]
    for name, (title, x, y, series, ticks) in charts.items():
        if any(values for _, values in series):
            write(folder, name, line_chart(title, x, y, series, note, ticks_x=ticks))
    if users_ticks:
        write(folder, "users-wall", line_chart("From files to profiles", "users (10 events each, 550 tags)", "seconds",
                                               walls, note, log_y=True, ticks_x=users_ticks))


def write(folder, name, text):
    with open(os.path.join(folder, name + ".svg"), "w", encoding="utf-8") as file:
        file.write(text)
