//! What can go wrong with any engine.
