//! A worker whose only client stopped reading is not frozen.
