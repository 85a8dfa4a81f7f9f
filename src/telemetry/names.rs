//! The names of all metrics, and what they say. `docs/operations.md` has this table.
//!
//! Invariant: every metric of tagloom is in here; units stand last in the names.

use super::Kind::{Counter, Gauge, Histogram};
use super::Metric;

macro_rules! metrics {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $id: Metric =
                Metric { name: $name, kind: $kind, labels: &[$($label),*], help: $help };
        )*

        /// All of them, in the order in which data meets them.
        pub const ALL: &[Metric] = &[$($id),*];
    };
}

metrics! {
    BUILD_INFO: Gauge "tagloom_build_info" ["version"]
        "1, with the version of this process.";
    ROWS: Counter "tagloom_source_rows_total" []
        "Source rows read, refused and filtered ones included.";
    SOURCES_OPEN: Gauge "tagloom_sources_open" []
        "Sources that have not ended.";
    SOURCE_LAG_BYTES: Gauge "tagloom_source_lag_bytes" ["source"]
        "Bytes of a file that are not read yet, as it is on disk.";
    KAFKA_PARTITIONS: Gauge "tagloom_kafka_partitions_assigned" []
        "Numbers of partitions that the group has assigned to this process, of each topic.";
    KAFKA_LAG: Gauge "tagloom_kafka_lag_records" ["topic", "partition"]
        "Records between the last commit and the end of the log, of partitions that this process has.";
    KAFKA_UNREAD: Gauge "tagloom_kafka_unread_records" ["topic", "partition"]
        "Records between the last one that was read and the end of the log.";
    KAFKA_REBALANCES: Counter "tagloom_kafka_rebalances_total" []
        "Assignments of partitions that the group has given to this process.";
    KAFKA_COMMITS: Counter "tagloom_kafka_commits_total" []
        "Commits of offsets that the brokers have acknowledged.";
    KAFKA_COMMIT_FAILURES: Counter "tagloom_kafka_commit_failures_total" []
        "Commits of offsets that failed; they are tried again while the partitions are this process's.";
    KAFKA_QUEUE_BLOCKS: Gauge "tagloom_kafka_queue_blocks" []
        "Blocks of records that wait for decoders.";
    KAFKA_QUEUE_BLOCKS_MAX: Gauge "tagloom_kafka_queue_blocks_max" []
        "Their bound (source.batches_under_way_max): reading pauses beyond it.";
    TERM: Gauge "tagloom_ownership_term" []
        "The term of ownership that this process writes with, or wrote with last.";
    EVENTS: Counter "tagloom_events_total" ["stream"]
        "Rows accepted as events, repeats included.";
    FILTERED: Counter "tagloom_events_filtered_total" ["stream"]
        "Rows for which the stream's `where` is not true.";
    ROW_FAILURES: Counter "tagloom_row_expression_failures_total" ["stream"]
        "Row expressions that could not be computed and are NULL.";
    REJECTS: Counter "tagloom_rejects_total" ["stream", "reason"]
        "Rows refused, by reason; `too-late` and `too-early` are among them.";
    REPEATS: Counter "tagloom_events_repeated_total" []
        "Events dropped because their id was seen before.";
    CHANGED: Counter "tagloom_events_changed_total" []
        "Events dropped because their id was seen before with other content.";
    OLDER: Counter "tagloom_rows_older_total" []
        "Rows of changing tables dropped because a newer version was there.";
    LEFT_OUT: Counter "tagloom_rows_left_out_total" []
        "Rows of changing tables not kept, since their user has more than `rows_max`.";
    EVENT_TO_RECEIVED: Histogram "tagloom_event_to_received_seconds" []
        "From an event's time until tagloom had it (clock.mode = wall), by the newest event of each batch.";
    EVENT_TO_STORED: Histogram "tagloom_event_to_stored_seconds" []
        "From an event's time until its user's tags were stored (clock.mode = wall), by the newest event of each batch.";
    RECEIVED_TO_STORED: Histogram "tagloom_received_to_stored_seconds" []
        "From reading an event until its user's tags were stored.";
    BATCHES_UNDER_WAY: Gauge "tagloom_batches_under_way" []
        "Batches between sources and shards.";
    BATCHES_UNDER_WAY_MAX: Gauge "tagloom_batches_under_way_max" []
        "Their bound: sources wait beyond it.";
    REJECTS_WAITING: Gauge "tagloom_rejects_waiting" []
        "Rejects in memory until the next window is stored.";
    REJECTS_WAITING_MAX: Gauge "tagloom_rejects_waiting_max" []
        "Their bound (rejects.waiting_max): sources wait beyond it.";
    DIRTY_USERS: Gauge "tagloom_dirty_users" []
        "Users with events that wait for a window.";
    DIRTY_USERS_MAX: Gauge "tagloom_dirty_users_max" []
        "Dirty users at which a window closes early (window.users_max).";
    DUE_BACKLOG_USERS: Gauge "tagloom_due_backlog_users" []
        "Users whose due instant has passed and who are not recomputed yet, stale entries included; counted up to a million.";
    DUE_OLDEST_SECONDS: Gauge "tagloom_due_oldest_seconds" []
        "How long ago the oldest of those instants was.";
    RESIDENT_USERS: Gauge "tagloom_resident_users" []
        "Users in memory, at the last window.";
    RESIDENT_BYTES: Gauge "tagloom_resident_bytes" []
        "Memory of their states, codes and tables.";
    RESIDENT_BYTES_MAX: Gauge "tagloom_resident_bytes_max" []
        "Its bound (memory.resident_bytes_max).";
    PROCESS_BYTES: Gauge "process_resident_memory_bytes" []
        "Memory of the whole process.";
    MEMORY_AVAILABLE: Gauge "tagloom_memory_available_bytes" []
        "Memory that the process may use: its control group's limit, or the machine's memory where that is less.";
    ACTIVATED: Counter "tagloom_users_activated_total" []
        "Users who came into memory from the store.";
    PASSIVATED: Counter "tagloom_users_passivated_total" []
        "Users who left memory.";
    WINDOWS: Counter "tagloom_windows_total" []
        "Windows stored.";
    WINDOW_SECONDS: Histogram "tagloom_window_seconds" []
        "From a window's close until it is stored.";
    STAGE_SECONDS: Histogram "tagloom_window_stage_seconds" ["stage"]
        "Time of a window's stages: features, dimensions, tags and packing (all shards together), store.";
    USERS_COMPUTED: Counter "tagloom_users_computed_total" ["cause"]
        "Users recomputed, because of events, because they were due, or because a job asked.";
    TAGS_CHANGED: Counter "tagloom_tags_changed_total" []
        "Tags that got another value.";
    PROFILES_WRITTEN: Counter "tagloom_profiles_written_total" []
        "Profiles written.";
    PROFILE_BYTES: Counter "tagloom_profile_bytes_written_total" []
        "Bytes of packed profiles handed to the store.";
    PUBLISHED: Counter "tagloom_published_total" ["what"]
        "Records that a topic has acknowledged, those sent again included: `changes` or `rejects`.";
    PUBLISH_SECONDS: Histogram "tagloom_publish_seconds" ["what"]
        "From the first record of a window until all of them are acknowledged.";
    PUBLISH_WAITING: Gauge "tagloom_publish_waiting" ["what"]
        "Records on their way to a topic.";
    PUBLISH_WAITING_MAX: Gauge "tagloom_publish_waiting_max" ["what"]
        "Their bound (publish.queue_records_max): windows wait beyond it.";
    QUARANTINED: Counter "tagloom_users_quarantined_total" []
        "Users quarantined, because their state or a rule panicked.";
    DIMENSION_MISSING: Counter "tagloom_dimension_rows_missing_total" []
        "Rows computed with NULL dimension columns because the store could not be read; they are computed again.";
    DIMENSION_HITS: Counter "tagloom_dimension_cache_hits_total" ["table"]
        "Keys of dimension tables found in the cache.";
    DIMENSION_MISSES: Counter "tagloom_dimension_cache_misses_total" ["table"]
        "Keys of dimension tables read from the store.";
    DIMENSION_REJECTED: Counter "tagloom_dimension_rows_rejected_total" ["table"]
        "Records of a topic that keeps a dimension table which could not be read; the row stays as it was.";
    DIMENSION_TOPIC_BYTES: Gauge "tagloom_dimension_topic_bytes" ["topic"]
        "Bytes of a dimension table that a topic keeps; bounded by `dimensions.broadcast_bytes_max`.";
    DIMENSION_UPSERTED: Counter "tagloom_dimension_rows_upserted_total" ["table"]
        "Rows put into a stored dimension table, or taken away, because its topic said so; every process of a group writes them.";
    DIMENSION_TOPIC_LAG: Gauge "tagloom_dimension_topic_lag_records" ["topic"]
        "Records of a topic that are not written yet into the stored dimension table that it keeps.";
    STORE_CALLS: Counter "tagloom_store_calls_total" ["call", "outcome"]
        "Calls of the store: `ok` or `error`. Write success is the share of `ok` of `write_window`.";
    STORE_SECONDS: Histogram "tagloom_store_call_seconds" ["call"]
        "Their duration.";
    STORE_DISK_BYTES: Gauge "tagloom_store_disk_bytes" []
        "Bytes of the embedded store on disk.";
    STORE_PROFILES: Gauge "tagloom_store_profiles" []
        "Profiles in the store, approximately.";
    STORE_REJECTS: Gauge "tagloom_store_rejects" []
        "Rejects kept in the store.";
    STORE_AVAILABLE: Gauge "tagloom_store_available" []
        "0 while calls to HBase are refused because none has succeeded within `store.hbase.deadline_ms`, else 1.";
    STORE_QUEUE_CALLS: Gauge "tagloom_store_queue_calls" []
        "Calls that wait for a connection to HBase; `store.hbase.queue_max` bounds them.";
    HBASE_CALLS: Counter "tagloom_hbase_calls_total" ["call", "outcome"]
        "Attempts of calls to HBase's gateway, by what became of them: `ok`, `connection`, `server`, `refused`, `no-table`, `exists`, `given-up`.";
    HBASE_SECONDS: Histogram "tagloom_hbase_call_seconds" ["call", "outcome"]
        "Time of such a call with all its attempts: `ok`, `refused` or `given-up`.";
    STORE_ROWS_WRITTEN: Counter "tagloom_store_rows_written_total" []
        "Rows sent to HBase, those sent again included.";
    STORE_BYTES_WRITTEN: Counter "tagloom_store_bytes_written_total" []
        "Bytes of keys and values sent to HBase, those sent again included.";
    RELAY_RECORDS: Counter "tagloom_relay_records_total" ["topic", "outcome"]
        "Records that `tagloom relay` has read: `relayed`, or `left_out` because they are about no user.";
    RELAY_COPIES: Counter "tagloom_relay_copies_written_total" ["topic"]
        "Records written into relay.topic: more than were relayed, where rows move from one user to another.";
    RELAY_LEFT_OUT: Counter "tagloom_relay_left_out_total" ["topic", "reason"]
        "Rows that no user gets, by what they are (filtered, tombstones, ddl, other_tables, ...), for each stream that reads the topic.";
    RELAY_TRANSACTIONS: Counter "tagloom_relay_transactions_total" ["outcome"]
        "Transactions of relay: `committed`, or `aborted` and done again.";
    RELAY_TRANSACTION_SECONDS: Histogram "tagloom_relay_transaction_seconds" []
        "From the first record written in a transaction until it is committed.";
    RELAY_LAG: Gauge "tagloom_relay_lag_records" []
        "Records of this process's partitions that are not relayed yet, looked up every 10 s.";
    RELAY_FOREIGN: Counter "tagloom_relay_foreign_records_total" []
        "Records of relay.topic that a run left out: relay did not write them, or their topic is not in relay.topics.";
    HTTP_REQUESTS: Counter "tagloom_http_requests_total" ["method", "route", "status"]
        "HTTP requests answered.";
    HTTP_SECONDS: Histogram "tagloom_http_request_seconds" ["method", "route"]
        "Their duration.";
    READS_WAITING: Gauge "tagloom_reads_waiting" []
        "HTTP requests that wait for a reading thread.";
    READS_WAITING_MAX: Gauge "tagloom_reads_waiting_max" []
        "Their bound (serve.reads_waiting_max): 503 beyond it.";
    USERS_READ: Counter "tagloom_users_read_total" ["how"]
        "Users answered over HTTP: `stored` as stored, `evaluated` as of the read, `unknown`.";
    READY: Gauge "tagloom_ready" ["condition"]
        "1 when a condition of /readyz held at the last look, else 0.";
}
