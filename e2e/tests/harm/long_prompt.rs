//! A prompt far beyond the context is refused quickly and cheaply.
