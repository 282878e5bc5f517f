"""Chapter 12, Invoice Reconciliation: which CDRs are on which invoice.

A record is issued by whoever writes the invoice. That is mostly the CPO; with reverse billing it is the eMSP,
which writes a credit note to the CPO. The invoice itself goes another way.
"""

from __future__ import annotations

from typing import Annotated

from engine.protocol.ids import ModuleId
from engine.protocol.modules.classes import OcpiClass, Some
from engine.protocol.modules.module import Module
from engine.protocol.scalars import CiAsciiString_1_255, DateTime


class InvoiceReconciliationRecord(OcpiClass, kw_only=True):
    """12.5.1: The CDRs on an invoice."""

    invoice_id: Annotated[CiAsciiString_1_255, "By what the receiver finds the invoice, in any form agreed upon."]
    cdr_ids: Annotated[Some[CiAsciiString_1_255], "The ids of the CDRs on it."]
    last_updated: Annotated[DateTime, "When this record was issued."]


MODULE = Module(
    id=ModuleId("irrs"),
    chapter=12,
    title="Invoice Reconciliation",
    payload=InvoiceReconciliationRecord,
    issued_by=frozenset({"CPO", "EMSP"}),
)
