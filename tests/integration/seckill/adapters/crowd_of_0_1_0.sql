-- A crowd in a database of 0.1.0: orders in every state, and rows in every table.
-- Order n of sale "sneakers" is md5('n'), its buyer "buyer-n"; a unit costs 1000 cents.

INSERT INTO sales (sale_id, price_cents, per_order_max, payment_window_s, state, proof_bits, opened_at)
VALUES ('sneakers', 1000, 3, 3600, 'open', 12, now()), ('watches', 250, 1, 60, 'paused', 0, NULL);
INSERT INTO inventory (sale_id, total, available) VALUES ('sneakers', 50, 50), ('watches', 5, 5);
INSERT INTO sale_limits (sale_id, op, rate, burst) VALUES ('sneakers', 'try', 100, 20);

-- 40 buyers with one unit each. Buyer 1 tries a second order; three buyers want 12 of the last 10.
SELECT place(array_agg(md5(n::text)::uuid), array_agg('sneakers'::text), array_agg('buyer-' || n),
             array_agg(1), array_agg(1::bigint), array_agg(n::bigint << 17))
  FROM generate_series(1, 40) AS n;
SELECT place(ARRAY[md5('again')::uuid], ARRAY['sneakers'], ARRAY['buyer-1'], ARRAY[1], ARRAY[1]);
SELECT place(array_agg(md5('late-' || n)::uuid), array_agg('sneakers'::text),
             array_agg('late-' || n), array_agg(4), array_agg(1::bigint))
  FROM generate_series(1, 3) AS n;
SELECT cancel_unplaced(md5('unplaced')::uuid, 'sneakers', 'buyer-99', 1, 'dead_letter');
SELECT release(array_agg(md5(n::text)::uuid), 'cancelled', 'buyer', false)
  FROM generate_series(1, 5) AS n;

-- By wallet: 6 to 20 try, 6 to 17 confirm, 8 is refunded and 9 is to be; 10 to 12 have a coupon.
SELECT top_up(array_agg('top-' || n), array_agg('buyer-' || n), array_agg(5000::bigint))
  FROM generate_series(6, 20) AS n;
INSERT INTO coupons (coupon_id, buyer_id, cents)
SELECT 'coupon-' || n, 'buyer-' || n, 300 FROM generate_series(10, 20) AS n;
SELECT try_payments(array_agg('pay-' || n), array_agg(md5(n::text)::uuid),
                    array_agg('buyer-' || n), array_agg('wallet'::text),
                    array_agg(CASE WHEN n BETWEEN 10 AND 12 THEN 'coupon-' || n END))
  FROM generate_series(6, 20) AS n;
SELECT freeze_funds(array_agg('pay-' || n)) FROM generate_series(6, 20) AS n;
SELECT lock_coupons(array_agg('pay-' || n)) FROM generate_series(10, 12) AS n;
SELECT confirm_payments(array_agg('pay-' || n), array_agg(md5(n::text)::uuid)),
       charge_funds(array_agg('pay-' || n))
  FROM generate_series(6, 17) AS n;
SELECT use_coupons(array_agg('pay-' || n)) FROM generate_series(10, 11) AS n;
SELECT begin_refunds(ARRAY[md5('8')::uuid, md5('9')::uuid], 'returned');
SELECT refund_to_wallets(ARRAY[md5('8')::uuid]);
SELECT cancel_payments(ARRAY['pay-20'], ARRAY[md5('20')::uuid]), unfreeze_funds(ARRAY['pay-20']);

-- By card: 21 to 26 begin, 21 and 22 are confirmed, 22 is refunded, 23 is given up, 24 is cancelled.
SELECT begin_card_payments(array_agg('card-' || n), array_agg(md5(n::text)::uuid),
                           array_agg('buyer-' || n), array_agg(NULL::text), 30)
  FROM generate_series(21, 26) AS n;
SELECT confirm_card_payments(ARRAY['card-21', 'card-22']);
SELECT begin_refunds(ARRAY[md5('22')::uuid], 'returned');
SELECT refund_card_payments(ARRAY['card-22']);
SELECT give_up_card_payments(ARRAY['card-23']);
SELECT cancel_card_payments(ARRAY['card-24']);

INSERT INTO transactions (tx_id, engine, name, state, args, owner, due_at)
VALUES ('pay-6', 'tcc', 'pay', 'TRYING', '{"sale_id": "sneakers"}', 'gateway-1', now()),
       ('pay-7', 'tcc', 'pay', 'TRYING', '{"sale_id": "sneakers"}', 'gateway-1', now()),
       ('ful-6', 'saga', 'fulfilment', 'RUNNING', '{"sale_id": "sneakers"}', 'consumer-1', now());
SELECT decide_transactions(ARRAY['pay-6'], ARRAY['CONFIRMING'], ARRAY[NULL]);
SELECT end_transactions(ARRAY['pay-6'], 'CONFIRMING', 'CONFIRMED');
SELECT advance_sagas(ARRAY['ful-6'], ARRAY['RUNNING'], ARRAY[0], ARRAY['COMPLETED'], ARRAY[2],
                     ARRAY[true], ARRAY[NULL], 'consumer-1', 30);
SELECT note_attempts(ARRAY['pay-7'], ARRAY['wallet'], ARRAY['try'], ARRAY['timeout']);
INSERT INTO barriers (tx_id, branch, op) VALUES ('pay-6', 'wallet', 'confirm');

INSERT INTO shipping_capacity (sale_id, units) VALUES ('sneakers', 30);
SELECT allocate_shipments(array_agg('ful-' || n), array_agg(md5(n::text)::uuid))
  FROM generate_series(6, 7) AS n;
SELECT release_shipments(ARRAY[md5('7')::uuid]);
SELECT notify_buyers(ARRAY[md5('6')::uuid], 'shipping');

INSERT INTO audit (actor, action, sale_id, reason) VALUES ('ada', 'dead.discard', 'sneakers', 'late');
INSERT INTO dead_letters (digest, queue, body, headers, sale_id, reason, first_at, last_at)
VALUES ('\x01', 'orders.place', '\x7b7d', '{}', 'sneakers', 'it has no buyer', now(), now());
INSERT INTO dead_letter_orders (letter_id, order_id) SELECT letter_id, md5('dead')::uuid FROM dead_letters;
