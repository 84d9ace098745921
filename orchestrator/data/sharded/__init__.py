"""A corpus built shard by shard, in one process or many, with the same bytes.

``contracts`` divides the sources into pieces and has the models that tasks exchange and store;
``survey`` reads everything once and fixes the held-out documents and the sample for the tokenizer;
``shard`` builds one shard from one piece; ``build`` combines and checks them; ``ray_data`` runs the
tasks through Ray Data.
"""
