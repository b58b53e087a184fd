-- The only ways into a live order, and out of one that is not paid. Each is one round trip, in a
-- transaction of its own.
-- Lock order everywhere: orders sorted by id, then inventory sorted by sale, by bytes: an array has
-- the collation of the database, and a column that of 0013_text_by_bytes.sql.

-- Record, as rejected, the grabs of a batch that place() could not make pending.
-- Such a row is the tombstone that a late copy of the message meets. It never changes inventory.
CREATE OR REPLACE FUNCTION refuse(p_order_ids uuid[], p_sale_ids text[], p_buyer_ids text[],
                                  p_quantities integer[], p_epochs bigint[], p_placed uuid[])
RETURNS TABLE (id uuid, outcome text, why text)
LANGUAGE sql AS $$
  WITH left_over AS (
    SELECT DISTINCT ON (g.order_id) g.*, s.price_cents, i.epoch AS epoch_now
      FROM unnest(p_order_ids, p_sale_ids, p_buyer_ids, p_quantities, p_epochs)
             AS g (order_id, sale_id, buyer_id, quantity, epoch)
      LEFT JOIN sales s USING (sale_id)
      LEFT JOIN inventory i USING (sale_id)
     WHERE NOT EXISTS (SELECT FROM unnest(p_placed) AS p (order_id) WHERE p.order_id = g.order_id)
     ORDER BY g.order_id
  ), rejected AS (
    INSERT INTO orders (order_id, sale_id, buyer_id, quantity, amount_cents, state, reason, pay_by,
                        ended_at)
    SELECT order_id, sale_id, buyer_id, quantity, quantity * price_cents, 'rejected',
           CASE WHEN epoch < epoch_now THEN 'epoch' ELSE 'another_order' END, now(), now()
      FROM left_over l
     WHERE price_cents IS NOT NULL
       AND NOT EXISTS (SELECT FROM orders o WHERE o.order_id = l.order_id)
    ON CONFLICT (order_id) DO NOTHING
    RETURNING order_id, sale_id, buyer_id, quantity, reason
  ), returned AS (
    INSERT INTO stock_returns (order_id, sale_id, buyer_id, quantity, units)
    SELECT order_id, sale_id, buyer_id, quantity, quantity
      FROM rejected WHERE reason = 'another_order'
  )
  SELECT l.order_id,
         CASE WHEN l.price_cents IS NULL THEN 'unknown_sale'
              WHEN r.order_id IS NULL THEN 'duplicate' ELSE 'rejected' END,
         r.reason
    FROM left_over l LEFT JOIN rejected r USING (order_id)
$$;

-- Freeze units for the first of the placed grabs, in grab order, as far as stock reaches. Reject
-- the rest. The slow way of place(), for when Redis promised more units than there are, or when a
-- rebuild came between.
CREATE OR REPLACE FUNCTION freeze_what_fits(p_sale_id text, p_order_ids uuid[], p_epochs bigint[],
                                            p_placed uuid[])
RETURNS TABLE (id uuid, outcome text, why text)
LANGUAGE plpgsql AS $$
DECLARE
  stock inventory;
BEGIN
  SELECT * INTO STRICT stock FROM inventory WHERE sale_id = p_sale_id FOR UPDATE;
  RETURN QUERY
  WITH in_order AS (
    SELECT order_id, min(epoch) AS epoch, min(position) AS position
      FROM unnest(p_order_ids, p_epochs) WITH ORDINALITY AS g (order_id, epoch, position)
      JOIN unnest(p_placed) AS p (order_id) USING (order_id)
     GROUP BY order_id
  ), ranked AS (
    SELECT o.order_id, o.quantity, g.epoch < stock.epoch AS stale,
           sum(o.quantity) FILTER (WHERE g.epoch >= stock.epoch)
             OVER (ORDER BY g.position) AS wanted
      FROM in_order g JOIN orders o USING (order_id)
     WHERE o.sale_id = p_sale_id
  ), lost AS (
    UPDATE orders o
       SET state = 'rejected', reason = CASE WHEN r.stale THEN 'epoch' ELSE 'stock' END,
           version = o.version + 1, ended_at = now()
      FROM ranked r
     WHERE o.order_id = r.order_id AND (r.stale OR r.wanted > stock.available)
    RETURNING o.order_id, o.sale_id, o.buyer_id, o.quantity, o.reason
  ), given_up AS (
    INSERT INTO stock_returns (order_id, sale_id, buyer_id, quantity, units)
    SELECT order_id, sale_id, buyer_id, quantity, 0 FROM lost WHERE reason = 'stock'
  ), frozen AS (
    UPDATE inventory i
       SET available = i.available - k.units, frozen = i.frozen + k.units, version = i.version + 1
      FROM (SELECT coalesce(sum(quantity), 0) AS units FROM ranked
             WHERE NOT stale AND wanted <= stock.available) k
     WHERE i.sale_id = p_sale_id
  )
  SELECT order_id, 'rejected', reason FROM lost;
END $$;

-- Place a batch of grabs, given in grab order. Safe to repeat: an order_id becomes a row once.
-- p_marks gives, for each grab, the newest outbox id of its message, as inventory.outbox_mark has
-- it; a caller may leave it out. The mark moves in the update that freezes the units, so a grab of
-- a past epoch moves nothing. A batch that was refused in part leaves the mark where it was. It is
-- then a little old, which is harmless.
-- Returns only what did not become a pending order:
--   duplicate    a row with this order_id exists already; nothing was done
--   unknown_sale no such sale; nothing was done
--   rejected     a row in state rejected was written; why is
--                epoch          accepted by a Redis that was rebuilt since: returns no units
--                another_order  the buyer has another live order in this sale: returns its units
--                stock          Redis promised more than there is: its holder goes, 0 units return
CREATE OR REPLACE FUNCTION place(p_order_ids uuid[], p_sale_ids text[], p_buyer_ids text[],
                                 p_quantities integer[], p_epochs bigint[],
                                 p_marks bigint[] DEFAULT NULL)
RETURNS TABLE (id uuid, outcome text, why text)
LANGUAGE plpgsql AS $$
DECLARE
  placed_ids   uuid[];
  placed_sales text[];
  placed_units integer[];
  want         record;
  seen         inventory;
  is_frozen    boolean;
BEGIN
  WITH placed AS (
    INSERT INTO orders (order_id, sale_id, buyer_id, quantity, amount_cents, state, pay_by)
    SELECT g.order_id, sale_id, g.buyer_id, g.quantity, g.quantity * s.price_cents, 'pending',
           now() + make_interval(secs => s.payment_window_s)
      FROM unnest(p_order_ids, p_sale_ids, p_buyer_ids, p_quantities, p_epochs)
             AS g (order_id, sale_id, buyer_id, quantity, epoch)
      JOIN sales s USING (sale_id)
      JOIN inventory i USING (sale_id)
     WHERE g.epoch >= i.epoch
     ORDER BY g.order_id
    ON CONFLICT DO NOTHING
    RETURNING order_id, sale_id, quantity
  )
  SELECT coalesce(array_agg(order_id), '{}'), coalesce(array_agg(sale_id), '{}'),
         coalesce(array_agg(quantity), '{}')
    INTO placed_ids, placed_sales, placed_units FROM placed;

  IF cardinality(placed_ids) < cardinality(p_order_ids) THEN
    RETURN QUERY SELECT * FROM refuse(p_order_ids, p_sale_ids, p_buyer_ids, p_quantities, p_epochs,
                                      placed_ids);
  END IF;

  FOR want IN
    SELECT p.sale_id, sum(p.units) AS units, min(g.epoch) AS epoch, max(g.mark) AS mark
      FROM unnest(placed_ids, placed_sales, placed_units) AS p (order_id, sale_id, units)
      JOIN (SELECT u.order_id, min(u.epoch) AS epoch, max(u.mark) AS mark
              FROM unnest(p_order_ids, p_epochs, p_marks) AS u (order_id, epoch, mark)
             GROUP BY u.order_id) g USING (order_id)
     GROUP BY p.sale_id ORDER BY p.sale_id COLLATE "C"
  LOOP
    -- Two optimistic attempts. At the third, "available >= units" alone decides, so that a hot row
    -- never turns winners into losers: a lost optimistic lock is not a refusal.
    FOR try IN 1..3 LOOP
      SELECT * INTO STRICT seen FROM inventory WHERE sale_id = want.sale_id;
      UPDATE inventory
         SET available = available - want.units, frozen = frozen + want.units,
             version = version + 1, outbox_mark = greatest(outbox_mark, want.mark)
       WHERE sale_id = want.sale_id AND available >= want.units AND epoch <= want.epoch
         AND (version = seen.version OR try = 3);
      is_frozen := FOUND;
      EXIT WHEN is_frozen;
    END LOOP;
    IF NOT is_frozen THEN
      RETURN QUERY
      SELECT * FROM freeze_what_fits(want.sale_id, p_order_ids, p_epochs, placed_ids);
    END IF;
  END LOOP;
END $$;

-- Place grabs one by one, for a batch in which PostgreSQL refuses the values of many: a refusal
-- undoes one grab, and not the call. The caller gives the grabs of each sale together, sales sorted
-- by bytes, because the locks last until the end. Returns what place() returns, and 'refused' with
-- PostgreSQL's words.
CREATE OR REPLACE FUNCTION place_each(p_order_ids uuid[], p_sale_ids text[], p_buyer_ids text[],
                                      p_quantities integer[], p_epochs bigint[], p_marks bigint[])
RETURNS TABLE (id uuid, outcome text, why text)
LANGUAGE plpgsql AS $$
BEGIN
  FOR n IN 1 .. cardinality(p_order_ids) LOOP
    BEGIN
      RETURN QUERY SELECT * FROM place(p_order_ids[n:n], p_sale_ids[n:n], p_buyer_ids[n:n],
                                       p_quantities[n:n], p_epochs[n:n], p_marks[n:n]);
    EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
      RETURN QUERY SELECT p_order_ids[n], 'refused', SQLERRM;
    END;
  END LOOP;
END $$;

-- Take pending orders to an ended state and give their units back: the only way out of pending but
-- payment. The state test is the compare-and-set that payment and timeout race for. Of several
-- callers (timer, sweep, buyer) one wins, and the others get no row. An order of a restored sale
-- (0010_history.sql) does not expire: its payment may be among what was forgotten.
-- Returns the ids that this call ended.
CREATE OR REPLACE FUNCTION release(p_order_ids uuid[], p_to_state text, p_reason text,
                                   p_overdue_only boolean)
RETURNS SETOF uuid
LANGUAGE plpgsql AS $$
DECLARE
  back record;
BEGIN
  PERFORM FROM orders WHERE order_id = ANY (p_order_ids) ORDER BY order_id FOR UPDATE;
  FOR back IN
    WITH ended AS (
      UPDATE orders o
         SET state = p_to_state, reason = p_reason, version = version + 1, ended_at = now()
       WHERE order_id = ANY (p_order_ids) AND state = 'pending'
         AND (NOT p_overdue_only
              OR pay_by <= now()
                 AND NOT EXISTS (SELECT FROM restored_sales r WHERE r.sale_id = o.sale_id))
      RETURNING order_id, sale_id, buyer_id, quantity
    ), noted AS (
      INSERT INTO stock_returns (order_id, sale_id, buyer_id, quantity, units)
      SELECT order_id, sale_id, buyer_id, quantity, quantity FROM ended
    )
    SELECT sale_id, sum(quantity) AS units, array_agg(order_id) AS ids FROM ended
     GROUP BY sale_id ORDER BY sale_id COLLATE "C"
  LOOP
    UPDATE inventory
       SET available = available + back.units, frozen = frozen - back.units, version = version + 1
     WHERE sale_id = back.sale_id;
    RETURN QUERY SELECT unnest(back.ids);
  END LOOP;
END $$;

-- Cancel a grab that has no row yet. The row becomes a tombstone, which makes the late message a
-- duplicate. An amount that does not fit is written as the largest amount: place() refuses such a
-- grab, and its units cannot return without a row.
-- Returns false when the order has a row after all; then release() decides.
CREATE OR REPLACE FUNCTION cancel_unplaced(p_order_id uuid, p_sale_id text, p_buyer_id text,
                                           p_quantity integer, p_reason text)
RETURNS boolean
LANGUAGE sql AS $$
  WITH tombstone AS (
    INSERT INTO orders (order_id, sale_id, buyer_id, quantity, amount_cents, state, reason, pay_by,
                        ended_at)
    SELECT p_order_id, sale_id, p_buyer_id, p_quantity,
           least(p_quantity::numeric * price_cents, 9223372036854775807), 'cancelled', p_reason,
           now(), now()
      FROM sales WHERE sale_id = p_sale_id
    ON CONFLICT (order_id) DO NOTHING
    RETURNING order_id
  ), returned AS (
    INSERT INTO stock_returns (order_id, sale_id, buyer_id, quantity, units)
    SELECT order_id, p_sale_id, p_buyer_id, p_quantity, p_quantity FROM tombstone
  )
  SELECT EXISTS (SELECT FROM tombstone)
$$;
