"""A multilingual text encoder for `nano`: multilingual-e5-small, taught to answer with MiniLM's vectors."""
