"""A vision-language model decides which top candidates really answer a query (paper 3.3)."""
