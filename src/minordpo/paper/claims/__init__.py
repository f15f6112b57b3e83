"""`minordpo paper claims`: what the MinorDPO paper says, decided from finished runs. Read `rules` first.

find        (of the report) DIR … ─► run folders and evaluations
runs        their files ─► `ClaimRun`s: objective, β, rate, seed, and measures by name; those that can be compared
            measures  metrics.jsonl, responses.jsonl, evaluations ─► measures, which measures.yaml names
claim       what a claim is, and how a module adds one
rules/      each claim with its rule, which was written before runs were made: `ClaimRun`s ─► finding
            formulas, log_ratios, accuracy, broken_text, other_settings
seed_table  `ClaimRun`s ─► one number a seed, averaged over the settings that all seeds have: a `Contrast`
judge       findings ─► held, did not hold, not decidable
tables      verdicts ─► text, JSON, CSV, HTML, and the table of docs/claims.md
"""
