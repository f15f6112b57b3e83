"""`minordpo paper claims`: what the MinorDPO paper says, decided from finished runs. Read `claims` first.

find      (of the report) DIR … ─► run folders and evaluations
runs      their files ─► `Run`s: objective, β, rate, seed, and measures by name; those of one situation together
          measures  metrics.jsonl, responses.jsonl ─► measures      answers  evaluations ─► measures
claims    the table: each claim, where it stands, the rule it is decided by, written before runs were made
          training, scores, tuned, across, formulas   the rules as functions: `Run`s ─► `Finding`
evidence  `Run`s ─► one number a seed, averaged over the settings that all seeds have
verdict   findings ─► held, did not hold, not decidable
judged    all claims of all situations
tables    verdicts ─► text, JSON, CSV, HTML, and the table of docs/claims.md
"""
