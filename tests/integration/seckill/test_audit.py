import json

import pytest

from seckill import audit


class Broken(Exception):
    pass


async def test_a_change_and_its_audit_row_go_together(db):
    async def change(reason):
        async with db.acquire() as connection, connection.transaction():
            await audit.record(
                connection,
                "test.change",
                actor=audit.operator_name(),
                reason=reason,
                sale_id="audited",
                details={"orders": ["a", "b"]},
            )
            if reason == "broken":
                raise Broken

    await change("done")
    with pytest.raises(Broken):
        await change("broken")
    row = await db.fetchrow("SELECT * FROM audit WHERE sale_id = 'audited'")
    assert (row["action"], row["reason"]) == ("test.change", "done")
    assert row["actor"]
    assert json.loads(row["details"]) == {"orders": ["a", "b"]}
