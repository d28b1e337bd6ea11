"""The multilingual text encoder of `nano`: multilingual-e5-small, taught to answer with the vectors of all-MiniLM-L6-v2."""
