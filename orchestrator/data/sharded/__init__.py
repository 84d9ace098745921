"""A corpus made shard by shard, in one process or by many, with the same bytes.

``pieces`` divides the sources; ``survey`` reads everything once and fixes which documents are held
out and what the tokenizer learns from; ``shard`` makes one shard of one piece; ``making`` puts them
together; ``mapping`` and ``ray_data`` do the pieces, in turn or through Ray Data.
"""
