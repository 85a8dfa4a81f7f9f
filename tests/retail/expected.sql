-- What tests/retail.rs expects, computed by DuckDB from the CSV alone:
--   duckdb -c ".read tests/retail/expected.sql"      (in the project's folder)
-- As of the last line of the data, 2011-12-09 12:50 local time.
COPY (
  WITH line AS (
    SELECT CAST(CustomerID AS BIGINT) AS uid, InvoiceNo AS invoice, CAST(Quantity AS BIGINT) AS quantity,
           CAST(UnitPrice AS DECIMAL(12, 3)) AS price, CAST(InvoiceDate AS TIMESTAMP) AS ts, Country AS country,
           StockCode AS sku
    FROM read_csv('tags/data/online_retail.csv.gz', all_varchar = true, header = true)
    WHERE CustomerID IS NOT NULL AND CustomerID <> ''
  ),
  customer AS (
    SELECT uid, max({'t': ts, 'c': encode(country)}).c AS country FROM line GROUP BY uid
  ),
  bought AS (
    SELECT uid, sum(CAST(price * quantity AS DECIMAL(38, 3))) AS spend, count(DISTINCT invoice) AS orders,
           min(ts) AS first_at, max(ts) AS last_at
    FROM line WHERE quantity > 0 GROUP BY uid
  ),
  cancelled AS (
    SELECT uid, count(DISTINCT invoice) AS cancels, max(ts) AS last_at,
           count(DISTINCT invoice) FILTER (WHERE CAST(ts AS DATE) > DATE '2011-12-09' - 90) AS cancels_90d,
           count(DISTINCT invoice) FILTER (WHERE CAST(ts AS DATE) > DATE '2011-12-09' - 30) AS cancels_30d
    FROM line WHERE invoice LIKE 'C%' GROUP BY uid
  ),
  user_state AS (
    SELECT c.uid, decode(c.country) AS country, coalesce(b.spend, 0) AS spend, coalesce(b.orders, 0) AS orders,
           coalesce(x.cancels, 0) AS cancels, coalesce(x.cancels_90d, 0) AS cancels_90d,
           coalesce(x.cancels_30d, 0) AS cancels_30d, b.first_at, b.last_at, x.last_at AS cancelled_at
    FROM customer c LEFT JOIN bought b USING (uid) LEFT JOIN cancelled x USING (uid)
  )
  SELECT uid, CAST(spend AS DECIMAL(38, 3)) AS test_spend, orders AS test_orders, cancels AS test_cancels,
         country AS home_country,
         date_diff('day', CAST(last_at AS DATE), DATE '2011-12-09') AS days_since_order,
         date_diff('day', CAST(first_at AS DATE), DATE '2011-12-09') AS days_as_customer,
         CAST(last_at AS DATE) AS last_order_on,
         CAST(first_at AS DATE) AS first_order_on,
         CASE WHEN cancels < 1 THEN 'none' WHEN cancels < 2 THEN 'one' WHEN cancels < 5 THEN 'few'
              WHEN cancels < 10 THEN 'many' ELSE 'lots' END AS cancel_count_lifetime,
         CASE WHEN cancels_90d < 1 THEN 'none' WHEN cancels_90d < 2 THEN 'one' WHEN cancels_90d < 4 THEN 'few'
              ELSE 'many' END AS cancel_count_90d,
         cancels > 0 AS cancelled_lifetime,
         cancels_90d > 0 AS cancelled_90d,
         cancels_30d > 0 AS cancelled_30d,
         cancels > 0 AND orders > 0 AND cancelled_at > last_at AS cancelled_since_last_order
  FROM user_state ORDER BY uid
) TO 'tests/retail/expected.csv.gz' (HEADER, NULLSTR '');
