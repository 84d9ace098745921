"""A corpus built shard by shard, in one process or many, with the same bytes.

``pieces`` divides the sources; ``survey`` reads everything once and fixes the held-out documents
and the sample for the tokenizer; ``shard`` builds one shard from one piece; ``build`` combines
them; ``mapping`` and ``ray_data`` run the tasks, in this process or through Ray Data; ``contracts``
has the models that they exchange and store.
"""
