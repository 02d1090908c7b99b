"""Magento's tables: changelogs, state snapshots, account notices. The only place that knows a Magento column."""
