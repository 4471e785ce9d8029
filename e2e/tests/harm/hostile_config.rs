//! A model whose sizes wrap around is refused when it is loaded.
