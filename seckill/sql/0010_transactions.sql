-- The log of transactions that span several branches, and the barrier that every branch passes.

-- One row a transaction, written three times: begun, decided, ended. Room on the page keeps the
-- decision an update in place (HOT), so no indexed column changes with it, and none depends on state.
CREATE TABLE transactions (
  tx_id      text        PRIMARY KEY CHECK (length(tx_id) BETWEEN 1 AND 64),
  engine     text        NOT NULL CHECK (engine IN ('tcc', 'saga')),
  -- Of the definition that knows its branches.
  name       text        NOT NULL,
  state      text        NOT NULL CHECK (state IN
               ('TRYING', 'CONFIRMING', 'CANCELING', 'CONFIRMED', 'CANCELED',
                'RUNNING', 'COMPENSATING', 'COMPLETED', 'COMPENSATED', 'FAILED')),
  -- Saga: the step to do or to undo next.
  step       smallint    NOT NULL DEFAULT 0,
  args       jsonb       NOT NULL,
  -- Why it is or will be canceled or compensated; for a parked one, what it could not finish.
  reason     text,
  -- How often recover took it since it last made progress.
  attempts   integer     NOT NULL DEFAULT 0,
  -- The process that works on it.
  owner      text        NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  -- When recover may take it: its owner's lease, or a wait before the next attempt, ends.
  -- Null when it has ended or is parked.
  due_at     timestamptz,
  ended_at   timestamptz,
  -- FAILED: the state to go on from, should an operator want it tried again.
  parked_in  text
) WITH (fillfactor = 50);

CREATE INDEX transactions_due ON transactions (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX transactions_ended ON transactions (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX transactions_parked ON transactions (created_at) WHERE due_at IS NULL AND ended_at IS NULL;

-- What an operator wants to know of one branch operation. TCC writes only what did not go well at
-- the first attempt (barriers tells the rest), a Saga every step.
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

-- Written in the branch's own transaction: a row says that the operation was done, once.
CREATE TABLE barriers (
  tx_id   text        NOT NULL,
  branch  text        NOT NULL,
  op      text        NOT NULL CHECK (op IN ('try', 'confirm', 'cancel', 'do', 'undo')),
  done_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tx_id, branch, op)
);
