"""What simulated CPOs remember, with what of it is still to be done."""

from typing import Any, Final

from sqlalchemy import select

from engine.store.database import Tx, insert_into
from engine.store.tables import simulations


async def load(tx: Tx, party: str) -> bytes | None:
    """Read what a party's simulation wrote down last; None: it never did."""
    found: bytes | None = (
        await tx.execute(select(simulations.c.kept).where(simulations.c.party == party))
    ).scalar_one_or_none()
    return found


async def save(tx: Tx, party: str, kept: bytes) -> None:
    """Write down what a party's simulation remembers, in place of what it remembered before."""
    await tx.execute(_SAVE[tx.connection.dialect.name], {"party": party, "kept": kept})


def _save(dialect: str) -> Any:
    statement = insert_into(simulations, dialect)
    return statement.on_conflict_do_update(index_elements=["party"], set_={"kept": statement.excluded.kept})


_SAVE: Final = {dialect: _save(dialect) for dialect in ("sqlite", "postgresql")}
