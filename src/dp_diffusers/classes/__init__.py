"""Classes by name and number: as declared, as the base numbers them, as a release or a merged model has them.

Guarantees nothing by itself. Never imports torch, a mechanism or the ledger.
"""
