-- The log of transactions that span several branches, and the barrier that every branch passes.

-- One row for each transaction, written three times: begun, decided, ended. Room on its page lets
-- the decision be an update on that page (HOT). For that no index depends on the columns that the
-- decision changes.
CREATE TABLE transactions (
  tx_id      text        PRIMARY KEY CHECK (length(tx_id) BETWEEN 1 AND 64),
  engine     text        NOT NULL CHECK (engine IN ('tcc', 'saga')),
  -- The name of the definition that has its branches.
  name       text        NOT NULL,
  state      text        NOT NULL CHECK (state IN
               ('TRYING', 'CONFIRMING', 'CANCELING', 'CONFIRMED', 'CANCELED',
                'RUNNING', 'COMPENSATING', 'COMPLETED', 'COMPENSATED', 'FAILED')),
  -- For a Saga: the step to do or to undo next.
  step       smallint    NOT NULL DEFAULT 0,
  args       jsonb       NOT NULL,
  -- Why it is or will be canceled or compensated.
  reason     text,
  -- Failed attempts since it last made progress.
  attempts   integer     NOT NULL DEFAULT 0,
  -- The process that works on it.
  owner      text        NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  -- When recover may take it: then its owner's lease ends, or the wait before the next attempt.
  -- Null when it has ended or is parked.
  due_at     timestamptz,
  ended_at   timestamptz,
  -- For FAILED: the state to go on from, if an operator wants another attempt.
  parked_in  text
) WITH (fillfactor = 50);

CREATE INDEX transactions_due ON transactions (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX transactions_ended ON transactions (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX transactions_parked ON transactions (created_at)
  WHERE due_at IS NULL AND ended_at IS NULL;

-- What an operator wants to know about one operation of one branch. A Saga writes every step. TCC
-- writes only what failed at its first attempt; the rest can be read from barriers.
CREATE TABLE branches (
  tx_id    text        NOT NULL,
  branch   text        NOT NULL,
  op       text        NOT NULL CHECK (op IN ('try', 'confirm', 'cancel', 'do', 'undo')),
  attempts integer     NOT NULL DEFAULT 1,
  first_at timestamptz NOT NULL DEFAULT now(),
  last_at  timestamptz NOT NULL DEFAULT now(),
  done_at  timestamptz,
  -- Of the last attempt that failed.
  error    text,
  PRIMARY KEY (tx_id, branch, op)
);

-- Written in the branch's own transaction. A row says that the operation was done. But a row with a
-- null done_at was written by a cancel that came first: the operation must never be done now.
CREATE TABLE barriers (
  tx_id   text        NOT NULL,
  branch  text        NOT NULL,
  op      text        NOT NULL CHECK (op IN ('try', 'confirm', 'cancel', 'do', 'undo')),
  done_at timestamptz DEFAULT now(),
  PRIMARY KEY (tx_id, branch, op)
);

-- The functions below are LANGUAGE sql because PostgreSQL then plans their statements at each call.
-- A prepared statement keeps the plan of its first calls. A plan that was made for an empty table
-- reads the whole table when that table is large.

-- Decide by compare-and-set. Returns those that are now as decided.
CREATE OR REPLACE FUNCTION decide_transactions(p_tx_ids text[], p_states text[], p_reasons text[])
RETURNS text[]
LANGUAGE sql AS $$
  WITH decided AS (
    UPDATE transactions t SET state = d.state, reason = d.reason, updated_at = now()
      FROM unnest(p_tx_ids, p_states, p_reasons) AS d (tx_id, state, reason)
     WHERE t.tx_id = d.tx_id AND t.state IN ('TRYING', d.state)
    RETURNING t.tx_id
  )
  SELECT array_agg(tx_id) FROM decided
$$;

-- Close transactions whose branches are all done. This is the only commit that does not wait for
-- the disk. If the server crashes before the commit is written, recover repeats the last stage, and
-- the barrier makes that harmless.
CREATE OR REPLACE FUNCTION end_transactions(p_tx_ids text[], p_state text, p_to_state text)
RETURNS void
LANGUAGE sql AS $$
  SELECT set_config('synchronous_commit', 'off', true);
  UPDATE transactions
     SET state = p_to_state, due_at = NULL, ended_at = now(), updated_at = now()
   WHERE tx_id = ANY (p_tx_ids) AND state = p_state;
$$;

-- Let recover take transactions of an owner after a wait, instead of after the lease.
CREATE OR REPLACE FUNCTION put_off_transactions(p_tx_ids text[], p_waits_s float8[], p_owner text)
RETURNS void
LANGUAGE sql AS $$
  UPDATE transactions t
     SET attempts = attempts + 1, updated_at = now(),
         due_at = now() + make_interval(secs => w.wait_s)
    FROM unnest(p_tx_ids, p_waits_s) AS w (tx_id, wait_s)
   WHERE t.tx_id = w.tx_id AND t.owner = p_owner AND t.due_at IS NOT NULL
$$;

-- Take what is due, oldest first. Leave what another process has locked to that process.
CREATE OR REPLACE FUNCTION take_due_transactions(p_names text[], p_limit integer, p_owner text,
                                                 p_lease_s float8)
RETURNS SETOF transactions
LANGUAGE sql AS $$
  WITH due AS (
    SELECT tx_id FROM transactions WHERE due_at <= now() AND name = ANY (p_names)
     ORDER BY due_at LIMIT p_limit FOR UPDATE SKIP LOCKED
  )
  UPDATE transactions t SET owner = p_owner, due_at = now() + make_interval(secs => p_lease_s)
    FROM due WHERE t.tx_id = due.tx_id
  RETURNING t.*
$$;

-- Take Sagas that are still in the state and step that their message gives, whoever owned them.
CREATE OR REPLACE FUNCTION claim_sagas(p_name text, p_tx_ids text[], p_states text[],
                                       p_steps integer[], p_owner text, p_lease_s float8)
RETURNS SETOF transactions
LANGUAGE sql AS $$
  UPDATE transactions t SET owner = p_owner, due_at = now() + make_interval(secs => p_lease_s)
    FROM unnest(p_tx_ids, p_states, p_steps) AS p (tx_id, state, step)
   WHERE t.tx_id = p.tx_id AND t.state = p.state AND t.step = p.step
     AND t.name = p_name AND t.due_at IS NOT NULL
  RETURNING t.*
$$;

-- Move Sagas on by compare-and-set of state and step. Of two workers at one step, one moves it.
CREATE OR REPLACE FUNCTION advance_sagas(p_tx_ids text[], p_states text[], p_steps integer[],
                                         p_to_states text[], p_to_steps integer[],
                                         p_ended boolean[], p_reasons text[], p_owner text,
                                         p_lease_s float8)
RETURNS text[]
LANGUAGE sql AS $$
  WITH moved AS (
    UPDATE transactions t
       SET state = m.to_state, step = m.to_step, attempts = 0,
           reason = coalesce(m.reason, t.reason), owner = p_owner, updated_at = now(),
           due_at = CASE WHEN NOT m.ended THEN now() + make_interval(secs => p_lease_s) END,
           ended_at = CASE WHEN m.ended THEN now() END
      FROM unnest(p_tx_ids, p_states, p_steps, p_to_states, p_to_steps, p_ended, p_reasons)
             AS m (tx_id, state, step, to_state, to_step, ended, reason)
     WHERE t.tx_id = m.tx_id AND t.state = m.state AND t.step = m.step AND t.due_at IS NOT NULL
    RETURNING t.tx_id
  )
  SELECT array_agg(tx_id) FROM moved
$$;

-- Count attempts. An operation that is done stays done, and keeps the error of an earlier attempt.
CREATE OR REPLACE FUNCTION note_attempts(p_tx_ids text[], p_branches text[], p_ops text[],
                                         p_errors text[])
RETURNS void
LANGUAGE sql AS $$
  INSERT INTO branches AS b (tx_id, branch, op, done_at, error)
  SELECT tx_id, branch, op, CASE WHEN error IS NULL THEN now() END, error
    FROM unnest(p_tx_ids, p_branches, p_ops, p_errors) AS n (tx_id, branch, op, error)
   ORDER BY tx_id COLLATE "C", branch COLLATE "C", op COLLATE "C"
  ON CONFLICT (tx_id, branch, op) DO UPDATE
    SET attempts = b.attempts + 1, last_at = now(), done_at = coalesce(b.done_at, excluded.done_at),
        error = coalesce(excluded.error, b.error)
$$;

-- Remove transactions that ended long ago, with their barriers. By then nothing that belongs to
-- them can still be on its way.
CREATE OR REPLACE FUNCTION remove_transactions(p_older_than_s float8, p_limit integer)
RETURNS bigint
LANGUAGE sql AS $$
  WITH old AS (
    SELECT tx_id FROM transactions WHERE ended_at < now() - make_interval(secs => p_older_than_s)
     ORDER BY ended_at LIMIT p_limit FOR UPDATE SKIP LOCKED
  ), gone_barriers AS (
    DELETE FROM barriers b USING old WHERE b.tx_id = old.tx_id
  ), gone_branches AS (
    DELETE FROM branches b USING old WHERE b.tx_id = old.tx_id
  ), gone AS (
    DELETE FROM transactions t USING old WHERE t.tx_id = old.tx_id RETURNING 1
  )
  SELECT count(*) FROM gone
$$;

-- Return which of these operations have been undone, so that they must never be done now.
CREATE OR REPLACE FUNCTION undone(p_tx_ids text[], p_branch text, p_undoing_op text)
RETURNS text[]
LANGUAGE sql AS $$
  SELECT coalesce(array_agg(tx_id), '{}') FROM barriers
   WHERE tx_id = ANY (p_tx_ids) AND branch = p_branch AND op = p_undoing_op
$$;

-- Forget operations that were refused.
CREATE OR REPLACE FUNCTION withdraw(p_tx_ids text[], p_branch text, p_op text)
RETURNS void
LANGUAGE sql AS $$
  DELETE FROM barriers WHERE tx_id = ANY (p_tx_ids) AND branch = p_branch AND op = p_op
$$;
