//! Data sets, tokenisation, shuffling and the memory-mapped token cache.
