-- What tests/retail.rs expects of favourites, lists and rolling hours, computed by DuckDB from the CSV alone:
--   duckdb -c ".read tests/retail/favourites.sql"      (in the project's folder)
-- As of the last line of the data, 2011-12-09 12:50 local time; London has UTC then, and a hop is five minutes.
COPY (
  WITH line AS (
    SELECT CAST(CustomerID AS BIGINT) AS uid, StockCode AS sku, CAST(Quantity AS BIGINT) AS quantity,
           CAST(UnitPrice AS DECIMAL(12, 3)) AS price, CAST(InvoiceDate AS TIMESTAMP) AS ts,
           DATE '2011-12-09' - CAST(InvoiceDate AS DATE) AS age,
           (epoch(TIMESTAMP '2011-12-09 12:50:00') // 300) - (epoch(CAST(InvoiceDate AS TIMESTAMP)) // 300) AS hops
    FROM read_csv('tags/data/online_retail.csv.gz', all_varchar = true, header = true)
    WHERE CustomerID IS NOT NULL AND CustomerID <> ''
  ),
  bought AS (
    SELECT *, CAST(price * quantity AS DECIMAL(38, 3)) AS amount,
           encode(sku) >= encode('0') AND encode(sku) < encode('A') AS goods
    FROM line WHERE quantity > 0
  ),
  weighed AS (
    SELECT uid, sku, sum(amount) AS ever,
           sum(amount) FILTER (WHERE age BETWEEN 0 AND 89) AS amount_90d,
           sum(quantity) FILTER (WHERE age BETWEEN 90 AND 179) AS pieces_before
    FROM bought WHERE goods GROUP BY uid, sku
  ),
  ranked AS (
    SELECT uid,
           list(sku ORDER BY ever DESC, encode(sku)) AS ever,
           list(sku ORDER BY amount_90d DESC, encode(sku)) FILTER (WHERE amount_90d IS NOT NULL) AS last,
           list(sku ORDER BY pieces_before DESC, encode(sku)) FILTER (WHERE pieces_before IS NOT NULL) AS before
    FROM weighed GROUP BY uid
  ),
  recent AS (
    SELECT uid, list(sku ORDER BY ts DESC, encode(sku) DESC)[1:5] AS skus FROM bought WHERE goods GROUP BY uid
  ),
  rolling AS (
    SELECT uid, count(*) FILTER (WHERE hops BETWEEN 0 AND 71) AS h6,
           count(*) FILTER (WHERE hops BETWEEN 0 AND 287) AS h24,
           count(*) FILTER (WHERE hops BETWEEN 0 AND 2015) AS h168,
           coalesce(sum(amount) FILTER (WHERE hops BETWEEN 0 AND 287), 0) AS spend_24h
    FROM bought GROUP BY uid
  )
  SELECT c.uid, last[1] AS likes_best_90d, ever[1] AS likes_best_lifetime, CAST(to_json(last[1:3]) AS VARCHAR) AS likes_most,
         CAST(to_json(ever[1:3]) AS VARCHAR) AS test_top_ever, CAST(to_json(before[1:3]) AS VARCHAR) AS test_top_before,
         CAST(to_json(skus) AS VARCHAR) AS saw_last, coalesce(h6, 0) AS test_6h, coalesce(h24, 0) AS test_24h,
         coalesce(h168, 0) AS test_168h, CAST(coalesce(spend_24h, 0) AS DECIMAL(38, 3)) AS test_spend_24h
  FROM (SELECT DISTINCT uid FROM line) c LEFT JOIN ranked USING (uid) LEFT JOIN recent USING (uid)
       LEFT JOIN rolling USING (uid)
  ORDER BY c.uid
) TO 'tests/retail/favourites.csv.gz' (HEADER, NULLSTR '');
