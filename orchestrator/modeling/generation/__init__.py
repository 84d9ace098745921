"""Generation of text: greedy, sampled, or by beam search, one token at a time with a cache."""
