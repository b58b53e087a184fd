"""The panels of the dashboards: the one list from which `dashboards.py` writes the JSON files.

An expression that is read often is a recording of deploy/prometheus/rules.yml.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph, or one number if `is_stat`."""

    title: str
    #: Legend -> expression.
    lines: Mapping[str, str]
    #: A unit of Grafana: `s`, `percentunit`, `reqps`, `short`.
    unit: str = "short"
    #: What an operator should read from it.
    about: str = ""
    is_stat: bool = False
    #: Marked in the graph: a promise.
    threshold: float | None = None


def rate_by(metric: str, label: str, which: str = "") -> dict[str, str]:
    """Return a line for the rate of a counter by a label."""
    return {f"{{{{{label}}}}}": f"sum by ({label}) (rate({metric}{which}[1m]))"}


def quantiles(metric: str, label: str = "", which: str = "") -> dict[str, str]:
    """Return lines for the median and the 99th percentile of a histogram."""
    by, name = (f"le, {label}", f"{{{{{label}}}}} ") if label else ("le", "")
    return {
        f"{name}p{share * 100:g}": f"histogram_quantile({share}, "
        f"sum by ({by}) (rate({metric}_bucket{which}[1m])))"
        for share in (0.5, 0.99)
    }


SALE_NIGHT = (
    Panel(
        "Units for sale",
        {"available": 'max(seckill_units{state="available"})'},
        is_stat=True,
        about="Of all live sales, by PostgreSQL",
    ),
    Panel("Grabs a second", {"": "sum(seckill:grabs:rate1m)"}, "reqps", is_stat=True),
    Panel(
        "Answered late or unavailable",
        {"": "seckill:grabs:broken_ratio1m"},
        "percentunit",
        is_stat=True,
        about="The promise is 1 % at most",
    ),
    Panel(
        "Orders pending later than 5 s",
        {"": "seckill:placements:late_ratio1m"},
        "percentunit",
        is_stat=True,
        about="The promise is 1 % at most",
    ),
    Panel("Grabs by verdict", {"{{verdict}}": "seckill:grabs:rate1m"}, "reqps"),
    Panel(
        "Wait of a grab",
        {"p50": "seckill:grab_seconds:p50_1m", "p99": "seckill:grab_seconds:p99_1m"},
        "s",
        threshold=0.25,
    ),
    Panel("Share that is shed", {"shed": "seckill:shed:ratio1m"}, "percentunit"),
    Panel(
        "From 202 to pending",
        {"p50": "seckill:placement_seconds:p50_1m", "p99": "seckill:placement_seconds:p99_1m"},
        "s",
        threshold=5,
    ),
    Panel(
        "Units by state",
        {"{{state}}": "max by (state) (seckill_units)"},
        about="frozen: of pending orders; sold: of paid ones",
    ),
    Panel(
        "Units left of the largest sales",
        {"{{sale}}": "max by (sale) (seckill_sale_units_left)"},
        about="Empty unless SECKILL_METRICS_SALES is set",
    ),
    Panel(
        "Outbox",
        {
            "batches": 'max(seckill_backlog{role="relay"})',
            "oldest, s": 'max(seckill_backlog_oldest_age_seconds{role="relay"})',
        },
        about="Accepted grabs that RabbitMQ has not confirmed",
    ),
    Panel(
        "Redis and PostgreSQL differ by",
        {"{{kind}}": "max by (kind) (seckill_ledger_difference_units)"},
        about="redis_fewer: on their way, while a sale runs; redis_more: must be 0",
    ),
    Panel("Stores work", {"{{store}}": "avg by (store) (seckill_store_works)"}, "percentunit"),
    Panel("Alerts", {"{{alertname}}": 'sum by (alertname) (ALERTS{alertstate="firing"})'}),
)
EDGE = (
    Panel("Refusals by reason", {"{{reason}}": "seckill:refusals:rate1m"}, "reqps"),
    Panel(
        "Stages of a grab, p99",
        {
            "{{stage}}": "histogram_quantile(0.99, sum by (le, stage) "
            "(rate(seckill_grab_stage_seconds_bucket[1m])))"
        },
        "s",
        about="What a late grab has waited for; docs/runbook.md says what to do",
    ),
    Panel("Wait by verdict", quantiles("seckill_grab_seconds", "verdict"), "s", threshold=0.25),
    Panel(
        "Grabs in one script call",
        {
            "mean": "sum(rate(seckill_grab_batch_size_sum[1m]))"
            " / sum(rate(seckill_grab_batch_size_count[1m]))"
        },
    ),
    Panel(
        "Requests in flight",
        {
            "{{kind}}": "sum by (kind) (seckill_in_hand)",
            "{{kind}}, at most": "sum by (kind) (seckill_in_hand_limit)",
        },
    ),
    Panel(
        "Connections",
        {
            "open": "sum(seckill_connections)",
            "at most": "sum(seckill_connections_max)",
            "waiting to be accepted": "sum(seckill_accept_queue)",
        },
    ),
    Panel(
        "Part of the time in which the port is closed",
        {"{{instance}}": "rate(seckill_port_closed_seconds_total[1m])"},
        "percentunit",
    ),
    Panel(
        "Connections ended by us",
        {
            "reset": "sum(rate(seckill_connections_reset_total[1m]))",
            "evicted": "sum(rate(seckill_connections_evicted_total[1m]))",
        },
        "reqps",
    ),
    Panel(
        "Lag of event loops, p99",
        {
            "{{instance}}": "histogram_quantile(0.99, sum by (le, instance) "
            "(rate(seckill_loop_lag_seconds_bucket[1m])))"
        },
        "s",
    ),
    Panel(
        "Rate limits",
        {"{{op}} {{outcome}}": "sum by (op, outcome) (rate(seckill_admissions_total[1m]))"},
        "reqps",
    ),
    Panel("CPU", {"{{instance}}": "rate(process_cpu_seconds_total[1m])"}, "percentunit"),
    Panel("Memory", {"{{instance}}": "process_resident_memory_bytes"}, "bytes"),
    Panel(
        "Event streams",
        {
            "open": "sum(seckill_event_streams)",
            "dropped": "sum(rate(seckill_event_streams_dropped_total[1m]))",
        },
    ),
    Panel("Spans of traces", rate_by("seckill_spans_total", "outcome"), "reqps"),
    Panel("Grabs read by aiohttp", {"": "sum(rate(seckill_grabs_by_aiohttp_total[1m]))"}, "reqps"),
)
CONSUMERS = (
    Panel("Backlog by role", {"{{role}}": "max by (role) (seckill_backlog)"}),
    Panel(
        "Age of the backlog by role",
        {"{{role}}": "max by (role) (seckill_backlog_oldest_age_seconds)"},
        "s",
        about="Of a queue: since it was last seen empty",
    ),
    Panel("Consumers by queue", {"{{role}}": "max by (role) (seckill_backlog_consumers)"}),
    Panel("Done", rate_by("seckill_role_done_total", "role"), "reqps"),
    Panel("Errors and pauses", rate_by("seckill_role_errors_total", "role"), "reqps"),
    Panel(
        "In flight",
        {"{{role}}": "sum by (role) (seckill_role_in_hand)"},
        about="Messages taken and not acknowledged",
    ),
    Panel("Oldest in flight", {"{{role}}": "max by (role) (seckill_role_oldest_age_seconds)"}, "s"),
    Panel("Processes that run a role", {"{{role}}": "sum by (role) (seckill_role_running)"}),
    Panel("Roles that wait for a store", {"{{role}}": "max by (role) (seckill_role_held)"}),
    Panel("What became of grabs", rate_by("seckill_placements_total", "outcome"), "reqps"),
    Panel(
        "Grabs in one transaction",
        {
            "mean": "sum(rate(seckill_place_batch_size_sum[1m]))"
            " / sum(rate(seckill_place_batch_size_count[1m]))"
        },
    ),
    Panel("Retries", rate_by("seckill_retries_total", "queue"), "reqps"),
    Panel(
        "Dead letters",
        {
            "{{queue}}": "max by (queue) (seckill_dead_letters_open)",
            "{{queue}} came": "sum by (queue) (rate(seckill_dead_letters_arrived_total[1m]))",
            "{{queue}} sent": "sum by (queue) (rate(seckill_dead_letters_total[1m]))",
        },
    ),
    Panel(
        "Given back and sent again",
        {
            "holders given back": "sum(rate(seckill_units_returned_total[1m]))",
            "outbox entries relayed": "sum(rate(seckill_outbox_relayed_total[1m]))",
            "expired": "sum(rate(seckill_orders_expired_total[1m]))",
            "repaired": "sum(rate(seckill_reconciled_total[1m]))",
        },
        "reqps",
    ),
    Panel("Events published", rate_by("seckill_events_published_total", "topic"), "reqps"),
    Panel("Webhooks by outcome", rate_by("seckill_webhook_deliveries_total", "outcome"), "reqps"),
    Panel(
        "Restarts in 15 minutes",
        {"{{instance}}": 'changes(process_start_time_seconds{job=~"seckill.*"}[15m])'},
    ),
)
PAYMENTS = (
    Panel("Payments by outcome", rate_by("seckill_payments_total", "outcome"), "reqps"),
    Panel("Card payments by outcome", rate_by("seckill_card_payments_total", "outcome"), "reqps"),
    Panel(
        "Card payments that are unknown",
        {
            "payments": "max(seckill_card_payments_unknown)",
            "oldest, s": "max(seckill_card_payments_unknown_oldest_age_seconds)",
        },
    ),
    Panel(
        "Calls to the provider",
        {
            "{{call}} {{result}}": "sum by (call, result) "
            "(rate(seckill_provider_call_seconds_count[1m]))"
        },
        "reqps",
    ),
    Panel("Time of a call", quantiles("seckill_provider_call_seconds", "call"), "s"),
    Panel(
        "Transactions by outcome",
        {
            "{{engine}} {{outcome}}": "sum by (engine, outcome) "
            "(rate(seckill_transactions_total[1m]))"
        },
        "reqps",
    ),
    Panel("Sagas that were undone", {"share": "seckill:compensations:ratio15m"}, "percentunit"),
    Panel(
        "Time of a step, p99",
        {
            "{{branch}} {{op}}": "histogram_quantile(0.99, sum by (le, branch, op) "
            "(rate(seckill_transaction_step_seconds_bucket[1m])))"
        },
        "s",
    ),
    Panel(
        "Steps that were refused or failed",
        {
            "{{branch}} {{op}} {{result}}": "sum by (branch, op, result) "
            '(rate(seckill_transaction_step_seconds_count{result!="done"}[1m]))'
        },
        "reqps",
    ),
    Panel(
        "Transactions in flight, parked, recovered",
        {
            "{{name}} in flight": "sum by (name) (seckill_transactions_in_hand)",
            "parked": "max(seckill_transactions_parked)",
            "{{engine}} recovered": "sum by (engine) "
            "(rate(seckill_transactions_recovered_total[1m]))",
        },
    ),
    Panel("Webhooks", rate_by("seckill_webhooks_total", "outcome"), "reqps"),
)
STORES = (
    Panel(
        "Processes for which a store works",
        {"{{store}}": "avg by (store) (seckill_store_works)"},
        "percentunit",
    ),
    Panel(
        "Failed calls",
        {"{{store}} {{kind}}": "sum by (store, kind) (rate(seckill_store_failures_total[1m]))"},
        "reqps",
    ),
    Panel(
        "Redis: script calls",
        quantiles("seckill_grab_stage_seconds", which='{stage="call"}'),
        "s",
    ),
    Panel(
        "Redis: reads of holders",
        quantiles("seckill_grab_stage_seconds", which='{stage="look_up"}'),
        "s",
    ),
    Panel(
        "RabbitMQ: confirms",
        quantiles("seckill_grab_stage_seconds", which='{stage="confirm"}'),
        "s",
    ),
    Panel(
        "RabbitMQ: publishes that were not confirmed",
        {"": "sum(rate(seckill_publish_failures_total[1m]))"},
        "reqps",
    ),
    Panel("PostgreSQL: placing a batch", quantiles("seckill_place_call_seconds"), "s"),
    Panel("Live sales", {"{{state}}": "max by (state) (seckill_sales_live)"}),
    Panel(
        "Sales to rebuild",
        {"{{why}}": "max by (why) (seckill_sales_to_rebuild)"},
        about="They sell nothing until then",
    ),
)
#: Name of the file -> title, and its panels.
DASHBOARDS: Mapping[str, tuple[str, Sequence[Panel]]] = {
    "sale-night": ("Seckill: sale night", SALE_NIGHT),
    "edge": ("Seckill: edge", EDGE),
    "consumers": ("Seckill: consumers and queues", CONSUMERS),
    "payments": ("Seckill: payments and transactions", PAYMENTS),
    "stores": ("Seckill: stores", STORES),
}
