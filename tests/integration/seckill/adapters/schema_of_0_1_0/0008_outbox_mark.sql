-- How far into its outbox a sale has been placed: a Redis that is not there yet went back in time.

-- The newest outbox id of this epoch that orders were placed from, milliseconds << 17 | sequence
-- (seckill/outbox.py); 0 for none. Every rebuild starts it anew.
ALTER TABLE inventory ADD COLUMN IF NOT EXISTS outbox_mark bigint NOT NULL DEFAULT 0;

-- A parameter more makes another function: the old one goes. Callers that give five still work.
DROP FUNCTION place(uuid[], text[], text[], integer[], bigint[]);

-- Place a batch of grabs, given in grab order. Safe to repeat: an order_id becomes a row once.
-- p_marks: of each grab the newest outbox id of its message, as in inventory.outbox_mark. It moves
-- with the units, so an epoch that has passed moves nothing; a batch that was refused in part leaves
-- it where it was, which only makes it a little old.
-- Returns only what did not become a pending order:
--   duplicate    a row with this order_id exists already; nothing was done
--   unknown_sale no such sale; nothing was done
--   rejected     a row in state rejected was written; why is
--                epoch          accepted by a Redis that has been rebuilt since: returns nothing
--                another_order  the buyer has another live order in this sale: returns its units
--                stock          Redis promised more than there is: its holder goes, 0 units return
CREATE FUNCTION place(p_order_ids uuid[], p_sale_ids text[], p_buyer_ids text[],
                      p_quantities integer[], p_epochs bigint[], p_marks bigint[] DEFAULT NULL)
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
    RETURN QUERY SELECT * FROM refuse(p_order_ids, p_sale_ids, p_buyer_ids, p_quantities, p_epochs, placed_ids);
  END IF;

  FOR want IN
    SELECT p.sale_id, sum(p.units) AS units, min(g.epoch) AS epoch, max(g.mark) AS mark
      FROM unnest(placed_ids, placed_sales, placed_units) AS p (order_id, sale_id, units)
      JOIN (SELECT u.order_id, min(u.epoch) AS epoch, max(u.mark) AS mark
              FROM unnest(p_order_ids, p_epochs, p_marks) AS u (order_id, epoch, mark)
             GROUP BY u.order_id) g USING (order_id)
     GROUP BY p.sale_id ORDER BY p.sale_id
  LOOP
    -- Two optimistic tries; the third lets "available >= units" alone decide, so that a hot row
    -- never turns winners into losers (a lost optimistic lock is not a refusal).
    FOR try IN 1..3 LOOP
      SELECT * INTO STRICT seen FROM inventory WHERE sale_id = want.sale_id;
      UPDATE inventory
         SET available = available - want.units, frozen = frozen + want.units, version = version + 1,
             outbox_mark = greatest(outbox_mark, want.mark)
       WHERE sale_id = want.sale_id AND available >= want.units AND epoch <= want.epoch
         AND (version = seen.version OR try = 3);
      is_frozen := FOUND;
      EXIT WHEN is_frozen;
    END LOOP;
    IF NOT is_frozen THEN
      RETURN QUERY SELECT * FROM freeze_what_fits(want.sale_id, p_order_ids, p_epochs, placed_ids);
    END IF;
  END LOOP;
END $$;
