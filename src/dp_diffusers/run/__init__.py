"""One private run around its loop: what it is made of, who pays, its folder, and what a later start finds.

Guarantees nothing by itself; `running` is the way in, and says in which order. May import all but the
accountant and the engine, which it reaches through the plan and `mechanisms/`.
"""
