"""The controller: a depth-3 tree that picks a member of the front per input, in at most 1 kB.

`tree`, `codec`, `runtime` and `c_header` need the standard library only, so that a board can decide without numpy;
`features`, `fit`, `policy` and `assess` run where the model was tuned. Import from the modules directly.
"""
