"""The index stage: keeps the provenance index of its partitions, and answers incidents from it.

Reads `store-changes` and `departed-customers` as one group, co-partitioned, and all of `incidents` by assignment. Every
answer is frozen outside the worker before anybody hears of it. Not for what an answer leads to: planning does that.

`stage` handles the consume loop; a batch is folded in `changes` and written in `writing`; `reach` knows how far the topics were
read; `answers` finds, freezes and publishes whom an incident concerns; `ports` is what all of them ask of others.
"""
