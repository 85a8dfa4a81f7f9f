-- What tests/cdc.rs expects, computed by DuckDB from the final table alone:
--   cargo test --test cdc -- --ignored           writes target/cdc_table.csv
--   duckdb -c ".read tests/cdc/expected.sql"     (in the project's folder)
-- As of 2026-06-30 12:00 in London; days are those of London.
SET TimeZone = 'Europe/London';
COPY (
  WITH row_ AS (
    SELECT CAST(customer AS BIGINT) AS uid, make_timestamptz(CAST(at_ms AS BIGINT) * 1000) AS ts,
           CAST(amount AS DECIMAL(12, 2)) AS amount, nullif(category, '') AS category, paid = 'true' AS paid
    FROM read_csv('target/cdc_table.csv', all_varchar = true, header = true)
    WHERE status <> 'draft'
  ),
  placed AS (SELECT *, date_diff('day', CAST(ts AS DATE), DATE '2026-06-30') AS age FROM row_),
  by_category AS (
    SELECT uid, category, count(*) AS n, sum(amount) FILTER (WHERE age < 90) AS spent_90d
    FROM placed WHERE category IS NOT NULL GROUP BY uid, category
  ),
  favourite AS (
    SELECT uid, list(category ORDER BY n DESC, encode(category))[1] AS favourite,
           list(category ORDER BY spent_90d DESC, encode(category)) FILTER (WHERE spent_90d IS NOT NULL)[1:2] AS top_2
    FROM by_category GROUP BY uid
  )
  SELECT uid,
         count(*) FILTER (WHERE age < 7) AS t_orders_7d,
         count(*) FILTER (WHERE age < 90) AS t_orders_90d,
         count(*) AS t_orders_lifetime,
         CAST(coalesce(sum(amount) FILTER (WHERE age < 30), 0) AS DECIMAL(18, 2)) AS t_spend_30d,
         CAST(sum(amount) AS DECIMAL(18, 2)) AS t_spend_lifetime,
         CAST(coalesce(sum(amount) FILTER (WHERE age >= 30 AND age < 60 AND paid), 0) AS DECIMAL(18, 2)) AS t_spend_30d_before,
         min(amount) AS t_least,
         max(amount) FILTER (WHERE age < 90) AS t_most_90d,
         count(DISTINCT category) AS t_categories,
         decode(min({'t': ts, 'c': encode(category)}) FILTER (WHERE category IS NOT NULL).c) AS t_first_category,
         decode(max({'t': ts, 'c': encode(category)}) FILTER (WHERE category IS NOT NULL).c) AS t_last_category,
         any_value(favourite) AS t_favourite,
         '[' || array_to_string(list_transform(any_value(top_2), lambda x: '"' || x || '"'), ',') || ']' AS t_top_2,
         CAST(max(ts) FILTER (WHERE paid AND amount >= 20) AS DATE) AS t_last_paid
  FROM placed LEFT JOIN favourite USING (uid) GROUP BY uid ORDER BY uid
) TO 'tests/cdc/expected.csv.gz' (HEADER, NULLSTR '');
